"""Element-wise operators: in whichever layout their operands are."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.layout import Layout, plane_of
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32, is_tensor
from partc.passes.build import ELEMENTWISE
from partc.passes.expressions import as_array, constant, shape_of


def follow_layout(call: relax.Call, scene: Scene) -> Lowering | None:
    """Compute in the layout of the first blocked operand, where the others can take it."""
    shape = shape_of(call)
    leading = [arg for arg in call.args if scene.layout(arg) and shape_of(arg) == shape]
    if not leading or not is_float32(call):
        return None
    if not all(_fits_blocked(arg, shape) for arg in call.args if is_tensor(arg)):
        return None
    layout = scene.layout(leading[0])

    def emit(emitter: Emitter) -> relax.Expr:
        args = [_operand(arg, len(shape), layout, emitter) for arg in call.args]
        return emitter.call(relax.Call(call.op, args, call.attrs, call.ty_args))

    return Lowering(emit, layout)


def _prelu(call: relax.Call, scene: Scene) -> Lowering | None:
    """Multiply what is negative with the slope of its channel."""
    data, slopes = call.args[0], as_array(call.args[1])
    layout = scene.layout(data)
    if layout is None or slopes is None:
        return None
    if slopes.size > 1 and int(call.attrs["axis"]) != 1:
        return None
    each = constant(np.broadcast_to(slopes, layout.channels).reshape(1, -1, 1, 1))

    def emit(emitter: Emitter) -> relax.Expr:
        own, zero = emitter.own(data), constant(np.zeros((), np.float32))
        negative = emitter.call(relax.op.minimum(own, zero))
        scaled = emitter.call(relax.op.multiply(negative, emitter.blocked(each, layout)))
        return emitter.call(relax.op.add(emitter.call(relax.op.maximum(own, zero)), scaled))

    return Lowering(emit, layout)


def _fits_blocked(arg: relax.Expr, shape: tuple[int, ...]) -> bool:
    """Whether a tensor can be brought into the blocked layout of a result of this shape."""
    own = shape_of(arg)
    if not is_float32(arg):
        return False
    return as_array(arg) is not None or own == () or len(own) == len(shape)


def _operand(arg: relax.Expr, rank: int, layout: Layout, emitter: Emitter) -> relax.Expr:
    """An operand so that it broadcasts against blocked data, which have this rank when plain."""
    if not is_tensor(arg) or shape_of(arg) == ():
        return emitter.plain(arg)
    array = as_array(arg)
    if array is not None:
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        arg = constant(array)
    batch, channels, *_ = shape_of(arg)
    if channels == layout.channels:
        return emitter.blocked(arg, layout)
    across = (batch, 1, *plane_of(shape_of(arg)), 1)
    if array is not None:
        return emitter.plain(constant(array.reshape(across)))
    return emitter.call(relax.op.reshape(emitter.plain(arg), across))


RULES: Mapping[str, Rule] = {**dict.fromkeys(ELEMENTWISE, follow_layout), "prelu": _prelu}
