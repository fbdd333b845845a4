"""What only moves elements of plain tensors."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from partc.codegen.kernels.layout import permute_dims
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.passes.expressions import shape_of


def _permute_dims(call: relax.Call, scene: Scene) -> Lowering | None:
    """Transpose in registers."""
    (data,) = call.args
    if not is_float32(data):
        return None
    axes = call.attrs["axes"]
    order = list(reversed(range(len(shape_of(data))))) if axes is None else [int(a) for a in axes]
    machine = scene.machine
    return Lowering(
        lambda emitter: emitter.copy(
            "permute_dims", lambda x: permute_dims(x, order, machine), emitter.plain(data)
        )
    )


RULES: Mapping[str, Rule] = {"permute_dims": _permute_dims}
