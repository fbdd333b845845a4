"""Small readings of Relax expressions, in NumPy's and partc's terms."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.graph import TensorType


def op_name(call: relax.Call) -> str:
    """The operator's name without its dialect: ``conv2d``, ``add``."""
    return str(getattr(call.op, "name", call.op)).rsplit(".", 1)[-1]


def as_array(expr: relax.Expr) -> NDArray[Any] | None:
    """The value of a constant; None for everything else."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def constant(array: NDArray[np.generic]) -> relax.Expr:
    """A constant of the array's own element type; by itself TVM narrows 64 bits to 32."""
    return relax.const(np.ascontiguousarray(array).reshape(array.shape), str(array.dtype))


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The fixed shape of a tensor expression."""
    return tuple(int(extent) for extent in expr.ty.shape)


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor expression, by its NumPy name."""
    return str(expr.ty.dtype.dtype)


def tensor_type(expr: relax.Expr) -> TensorType:
    """The type of a tensor expression, in partc's terms."""
    return TensorType(dtype_of(expr), shape_of(expr))


def leaves(exprs: Sequence[relax.Expr]) -> Iterator[relax.Expr]:
    """The expressions, with every tuple replaced by its fields."""
    for expr in exprs:
        if isinstance(expr, relax.Tuple):
            yield from leaves(expr.fields)
        else:
            yield expr


def map_leaves(expr: relax.Expr, replace: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """The expression with its variables and constants replaced; types stay as they are."""
    if isinstance(expr, relax.Call):
        args = [map_leaves(arg, replace) for arg in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([map_leaves(field, replace) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        whole = map_leaves(expr.tuple_value, replace)
        if isinstance(whole, relax.Tuple):
            return whole.fields[expr.index]
        return relax.TupleGetItem(whole, expr.index)
    return replace(expr)
