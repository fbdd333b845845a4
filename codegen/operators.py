"""Which kernel computes which operator, and in which layout."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.kernels.convolution import Window, channel_step, conv2d, pack_weight
from partc.codegen.machine import Machine
from partc.passes.build import ELEMENTWISE
from partc.passes.expressions import as_array, constant, dtype_of, map_leaves, op_name, shape_of


@dataclass(frozen=True)
class Lowering:
    """How one call is compiled.

    Args:
        emit: Emits it.
        blocked: Whether what it makes is in blocked layout.
    """

    emit: Callable[[Emitter], relax.Expr]
    blocked: bool = False


@dataclass(frozen=True)
class Scene:
    """What the choice of a lowering rests on.

    Args:
        machine: The CPU.
        blocked: The variables of the source that are in blocked layout.
    """

    machine: Machine
    blocked: AbstractSet[relax.Var]

    def is_blocked(self, leaf: relax.Expr) -> bool:
        return isinstance(leaf, relax.Var) and leaf in self.blocked


Rule = Callable[[relax.Call, Scene], Lowering | None]


def choose_lowering(value: relax.Expr, scene: Scene) -> Lowering:
    """The lowering for what a variable is bound to.

    Where no rule fits, the value is computed from plain tensors by kernels of TVM's own.
    """
    if isinstance(value, relax.Call):
        name = op_name(value)
        rule = _elementwise if name in ELEMENTWISE else _RULES.get(name)
        chosen = rule(value, scene) if rule else None
        if chosen:
            return chosen
    return plain_lowering(value)


def plain_lowering(value: relax.Expr) -> Lowering:
    """A lowering that leaves a value as it is, for TVM to lower."""
    return Lowering(lambda emitter: emitter.call(map_leaves(value, emitter.plain)))


# Element-wise ------------------------------------------------------------------------------------


def _elementwise(call: relax.Call, scene: Scene) -> Lowering | None:
    """Follow the layout of the operands, where each of them can take it."""
    shape = shape_of(call)
    leads = any(scene.is_blocked(arg) and shape_of(arg) == shape for arg in call.args)
    if not leads or not all(_fits_blocked(arg, shape) for arg in call.args):
        return None

    def emit(emitter: Emitter) -> relax.Expr:
        args = [_blocked_operand(arg, emitter) for arg in call.args]
        return emitter.call(relax.Call(call.op, args, call.attrs, call.ty_args))

    return Lowering(emit, blocked=True)


def _is_tensor(expr: relax.Expr) -> bool:
    return isinstance(getattr(expr, "ty", None), relax.TensorType)


def _fits_blocked(arg: relax.Expr, shape: tuple[int, ...]) -> bool:
    """Whether an operand can be brought into the blocked layout of a result of this shape."""
    if not _is_tensor(arg):
        return True
    own = shape_of(arg)
    if dtype_of(arg) != "float32":
        return False
    if as_array(arg) is not None:
        return True
    return own == () or (len(own) == len(shape) and own[1] in (1, shape[1]))


def _blocked_operand(arg: relax.Expr, emitter: Emitter) -> relax.Expr:
    """An operand so that it broadcasts against blocked data."""
    if not _is_tensor(arg) or shape_of(arg) == ():
        return emitter.plain(arg)
    array = as_array(arg)
    if array is not None:
        arg = constant(array.reshape((1,) * (4 - array.ndim) + array.shape))
    n, channels, height, width = shape_of(arg)
    if channels > 1:
        return emitter.blocked(arg)
    if array is not None:
        return emitter.plain(constant(array.reshape(n, 1, height, width, 1)))
    return emitter.call(relax.op.reshape(emitter.plain(arg), (n, 1, height, width, 1)))


# Convolution -------------------------------------------------------------------------------------


def _conv2d(call: relax.Call, scene: Scene) -> Lowering | None:
    data, kernel = call.args
    weight = as_array(kernel)
    attrs = call.attrs
    if weight is None or weight.dtype != "float32" or attrs["data_layout"] != "NCHW":
        return None
    machine, groups, channels = scene.machine, int(attrs["groups"]), shape_of(data)[1]
    window = _window(attrs, weight.shape[2:])
    per_group = (channels // groups, weight.shape[0] // groups)
    if groups > 1 and any(count % machine.lanes for count in per_group):
        return None
    # Few channels do not fill a vector: the first layer reads its image as it comes.
    reads_plain = not scene.is_blocked(data) and channels < machine.lanes
    step = 1 if reads_plain else channel_step(per_group[0], machine.lanes)

    def emit(emitter: Emitter) -> relax.Expr:
        packed = emitter.weight(pack_weight(weight, step, machine.lanes))
        source = emitter.plain(data) if reads_plain else emitter.blocked(data)
        return emitter.kernel(
            "conv2d", lambda x, w: conv2d(x, w, window, groups, machine), source, packed
        )

    return Lowering(emit, blocked=True)


def _window(attrs: Any, kernel: tuple[int, ...]) -> Window:
    def pair(name: str) -> tuple[int, int]:
        first, second = (int(value) for value in attrs[name])
        return first, second

    top, left, bottom, right = (int(value) for value in attrs["padding"])
    return Window(
        (kernel[0], kernel[1]), pair("strides"), pair("dilation"), (top, left, bottom, right)
    )


_RULES: Mapping[str, Rule] = {
    "conv2d": _conv2d,
}
