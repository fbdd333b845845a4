"""What it is to choose how an operator is compiled."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.layout import Layout
from partc.codegen.machine import Machine
from partc.passes.build import ELEMENTWISE, REARRANGING
from partc.passes.expressions import dtype_of, map_leaves, op_name, shape_of

# What computes every element from a few others has a rule: the default schedule's for such loops.
_INJECTIVE = (
    ELEMENTWISE
    | REARRANGING
    | frozenset(
        "arange broadcast_to collapse_sum_like concat eye flip full full_like gather_elements "
        "gather_nd layout_transform one_hot ones ones_like pad repeat resize2d split stack "
        "strided_slice take tile tril triu zeros zeros_like".split()
    )
)


@dataclass(frozen=True)
class Lowering:
    """How one call is compiled.

    Args:
        emit: Emits it.
        layout: The blocked layout of what it makes; None if that is plain.
        has_rule: Whether a rule schedules what it emits, or all that can be said of it in general.
        reads: The variables that it is computed from; None if those are the ones in the call.
    """

    emit: Callable[[Emitter], relax.Expr]
    layout: Layout | None = None
    has_rule: bool = True
    reads: tuple[relax.Var, ...] | None = None


@dataclass(frozen=True)
class Scene:
    """What the choice of a lowering rests on.

    Args:
        machine: The CPU.
        layouts: The variables of the source that are in blocked layout.
        definitions: What variables of the source are bound to.
    """

    machine: Machine
    layouts: Mapping[relax.Var, Layout]
    definitions: Mapping[relax.Var, relax.Expr]

    def layout(self, leaf: relax.Expr) -> Layout | None:
        """The blocked layout of a leaf, if it is a variable that has one."""
        return self.layouts.get(leaf) if isinstance(leaf, relax.Var) else None

    def layout_or_new(self, leaf: relax.Expr) -> Layout:
        """The blocked layout that a leaf has, or else gets."""
        return self.layout(leaf) or Layout.of(shape_of(leaf)[1], self.machine.lanes)


Rule = Callable[[relax.Call, Scene], "Lowering | None"]
"""Chooses the lowering of a call, or None if it has no kernel for it."""


def plain_lowering(value: relax.Expr) -> Lowering:
    """A lowering that leaves a value as it is, for TVM to lower."""
    return Lowering(
        lambda emitter: emitter.call(map_leaves(value, emitter.plain)),
        has_rule=not isinstance(value, relax.Call) or op_name(value) in _INJECTIVE,
    )


def is_tensor(expr: relax.Expr) -> bool:
    """Whether an operand is a tensor, and not a number or a shape."""
    return isinstance(getattr(expr, "ty", None), relax.TensorType)


def is_float32(*exprs: relax.Expr) -> bool:
    """Whether operands are tensors of the type that kernels compute with."""
    return all(is_tensor(expr) and dtype_of(expr) == "float32" for expr in exprs)
