"""Which kernel computes which operator, and in which layout."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from partc.codegen.operators import (
    channels,
    convolution,
    copies,
    elementwise,
    planes,
    products,
    responses,
    rows,
)
from partc.codegen.operators.lowering import Lowering, Rule, Scene, plain_lowering
from partc.passes.expressions import op_name


def choose_lowering(value: relax.Expr, scene: Scene) -> Lowering:
    """The lowering for what a variable is bound to.

    Where no rule fits, the value is computed from plain tensors by kernels of TVM's own.
    """
    if isinstance(value, relax.Call):
        rule = RULES.get(op_name(value))
        chosen = rule(value, scene) if rule else None
        if chosen:
            return chosen
    return plain_lowering(value)


RULES: Mapping[str, Rule] = {
    **channels.RULES,
    **convolution.RULES,
    **copies.RULES,
    **elementwise.RULES,
    **planes.RULES,
    **products.RULES,
    **responses.RULES,
    **rows.RULES,
}
"""What is tried for each operator."""
