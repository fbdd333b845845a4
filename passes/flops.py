"""How many floating-point operations a Relax call takes."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import math

from tvm import relax

from partc.passes.expressions import op_name, shape_of

_MOVES = frozenset(
    "astype broadcast_to concat expand_dims flatten flip gather_elements gather_nd pad "
    "permute_dims pixel_shuffle repeat reshape split squeeze stack strided_slice take tile".split()
)
_PER_ELEMENT = {
    **dict.fromkeys(("exp", "log", "sin", "cos"), 12),
    **dict.fromkeys(("sigmoid", "silu", "softplus", "selu"), 16),
    **dict.fromkeys(("erf", "gelu", "gelu_tanh", "power", "tan", "tanh"), 24),
    **dict.fromkeys(("log_softmax", "softmax"), 16),
    **dict.fromkeys(("group_norm", "instance_norm", "layer_norm"), 8),
    "rms_norm": 6,
}
_REDUCTIONS = frozenset("argmax argmin max mean median min prod std sum variance".split())


def count_flops(call: relax.Call) -> int:
    """Floating-point operations of one call, a multiply-add counting as two.

    Convolutions and matrix products are exact. For the rest it is one operation for each element
    that is made or reduced, and as many for each element of a norm, a softmax or a transcendental
    function as its polynomial takes, roughly: they are mostly bound by memory, where the bytes and
    not these counts decide.
    """
    name = op_name(call)
    if name in _MOVES:
        return 0
    if name.startswith("conv"):
        return _convolution_flops(call)
    if name == "matmul":
        return 2 * _made(call) * shape_of(call.args[0])[-1]
    if name in ("attention", "attention_bias"):
        return _attention_flops(call)
    if name.endswith(("pool1d", "pool2d", "pool3d")):
        return _made(call) * _window(call)
    if name in _REDUCTIONS:
        return math.prod(shape_of(call.args[0]))
    return _PER_ELEMENT.get(name, 1) * _made(call)


def _made(call: relax.Call) -> int:
    """Elements in everything that a call makes."""
    if isinstance(call.ty, relax.TupleType):
        return sum(math.prod(int(extent) for extent in field.shape) for field in call.ty.fields)
    return math.prod(shape_of(call))


def _convolution_flops(call: relax.Call) -> int:
    """Each element that is made, or read if transposed, meets one channel's part of the weight."""
    transposed = "transpose" in op_name(call)
    elements = math.prod(shape_of(call.args[0])) if transposed else _made(call)
    weight = shape_of(call.args[1])
    channels = weight[str(call.attrs["kernel_layout"]).index("I" if transposed else "O")]
    return 2 * elements * math.prod(weight) // channels


def _attention_flops(call: relax.Call) -> int:
    """Two matrix products over queries, keys and heads; layout (batch, sequence, heads, width)."""
    batch, queries, heads, width = shape_of(call.args[0])
    keys = shape_of(call.args[1])[1]
    return 2 * batch * heads * queries * keys * (width + shape_of(call.args[2])[3])


def _window(call: relax.Call) -> int:
    """Elements that one output of a pooling reads."""
    if op_name(call).startswith("adaptive"):
        return max(1, math.prod(shape_of(call.args[0])) // _made(call))
    return math.prod(int(extent) for extent in call.attrs["pool_size"])
