"""Products of matrices."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.kernels.matmul import dense, matmul, pack_weight, panel_width
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.passes.expressions import as_array, shape_of


def _matmul(call: relax.Call, scene: Scene) -> Lowering | None:
    left, right = call.args
    if not is_float32(left, right) or min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    weight = as_array(right)
    if weight is not None and weight.ndim == 2:
        return _dense(left, weight, scene)
    machine = scene.machine

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(
            "matmul",
            lambda a, b: matmul(a, b, machine),
            emitter.plain(left),
            emitter.plain(right),
        )

    return Lowering(emit)


def _dense(data: relax.Expr, weight: NDArray[Any], scene: Scene) -> Lowering:
    machine, units = scene.machine, weight.shape[1]
    panel = panel_width(shape_of(data), units, machine)

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(
            "dense",
            lambda x, w: dense(x, w, units, machine),
            emitter.plain(data),
            emitter.weight(pack_weight(weight, panel)),
        )

    return Lowering(emit)


RULES: Mapping[str, Rule] = {"matmul": _matmul}
