"""Local response normalisation, which arrives as the operators that it consists of."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.kernels.lrn import Response, lrn
from partc.codegen.operators.elementwise import follow_layout
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.passes.expressions import as_array, op_name, shape_of


def _divide(call: relax.Call, scene: Scene) -> Lowering | None:
    data = call.args[0]
    response = _match(call, scene)
    if response is None:
        return follow_layout(call, scene)
    machine, channels, layout = scene.machine, shape_of(data)[1], scene.layout_or_new(data)

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(
            "lrn",
            lambda x: lrn(x, channels, response, machine),
            emitter.blocked(data, layout),
        )

    return Lowering(emit, layout, reads=(data,)) if layout.in_order else None


def _match(call: relax.Call, scene: Scene) -> Response | None:
    """``x / (bias + alpha * mean(x * x)) ** beta``, the mean over channels, if a call is that."""
    data, divisor = call.args
    if not is_float32(data) or len(shape_of(data)) != 4 or shape_of(divisor) != shape_of(data):
        return None
    power, beta = _split(divisor, "power", scene)
    total, bias = _split(power, "add", scene)
    scaled, alpha = _split(total, "multiply", scene)
    if alpha is None or beta is None or bias is None:
        return None
    pool = _definition(_definition_argument(scaled, ("squeeze", "reshape"), scene), scene)
    size = _window_size(pool, shape_of(data))
    if size is None:
        return None
    square = _definition(
        _definition_argument(pool.args[0], ("expand_dims", "reshape"), scene), scene
    )
    if square is None or op_name(square) != "multiply":
        return None
    if not all(arg.same_as(data) for arg in square.args):
        return None
    return Response(size, alpha, beta, bias)


def _split(
    value: relax.Expr | None, name: str, scene: Scene
) -> tuple[relax.Expr | None, float | None]:
    """The first operand of a value that an operator makes, and its second, if that is a number."""
    call = _definition(value, scene)
    if call is None or op_name(call) != name:
        return None, None
    number = as_array(call.args[1])
    return call.args[0], float(number.item()) if number is not None and number.size == 1 else None


def _definition(value: relax.Expr | None, scene: Scene) -> relax.Call | None:
    found = scene.definitions.get(value) if isinstance(value, relax.Var) else None
    return found if isinstance(found, relax.Call) else None


def _definition_argument(
    value: relax.Expr | None, names: tuple[str, ...], scene: Scene
) -> relax.Expr | None:
    call = _definition(value, scene)
    return call.args[0] if call is not None and op_name(call) in names else None


def _window_size(pool: relax.Call | None, shape: tuple[int, ...]) -> int | None:
    """How many channels an average pool covers, if it covers nothing else, centred and padded."""
    if pool is None or op_name(pool) != "avg_pool3d":
        return None
    if shape_of(pool.args[0]) != (shape[0], 1, *shape[1:]):
        return None
    attrs = pool.attrs
    size, *plane = (int(extent) for extent in attrs["pool_size"])
    padding = [int(width) for width in attrs["padding"]]
    moves = any(int(step) != 1 for step in (*attrs["strides"], *attrs["dilation"], *plane))
    if moves or not attrs["count_include_pad"] or size % 2 == 0:
        return None
    return size if padding == [size // 2, 0, 0, size // 2, 0, 0] else None


RULES: Mapping[str, Rule] = {"divide": _divide}
