# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportUnknownLambdaType=false
# TVM ships no types
"""Relax operators where TVM's ONNX importer would emit something else.

A loop nest is opaque to every later pass: it can be neither simplified, fused by kind, nor counted.
An index is used as it comes, so that one from a caller could read or write outside of its tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, topi
from tvm.ir import Expr, GenericConst


class OperatorBuilder(relax.BlockBuilder):
    """A builder that emits the operators that functions of TOPI stand for, never a loop nest."""

    def emit_te(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> relax.Var:
        if func not in _OPERATORS:
            raise NotImplementedError(f"no Relax operator does what topi.{func.__name__} does")
        return self.emit(_OPERATORS[func](*args, **kwargs))

    def _exit_function_scope(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        if exc_type is not None:  # or TVM warns, on standard error, of a function never finished
            self._end_block()
            self.end_scope()
        super()._exit_function_scope(exc_type, exc_val, exc_tb)


def convert_clip(inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Expr | None:
    """Clip between constants; None if a bound is computed.

    A bound that is missing or not a number does not bound; the upper bound has the last word.
    """
    operands: list[Any] = [*inputs, None, None]
    data, given = operands[0], operands[1:3]
    if not all(bound is None or isinstance(bound, GenericConst) for bound in given):
        return None
    dtype = np.dtype(str(data.ty.dtype.dtype))
    integral = np.issubdtype(dtype, np.integer)
    widest = (np.iinfo(dtype).min, np.iinfo(dtype).max) if integral else (-np.inf, np.inf)
    low, high = (
        _bound(bound, attrs.get(name, fallback), fallback)
        for bound, name, fallback in zip(given, ("min", "max"), widest, strict=True)
    )
    return relax.op.clip(data, relax.prim_value(min(low, high)), relax.prim_value(high))


def _bound(given: Any, attribute: float, fallback: float) -> float:
    value = attribute if given is None else given.value.numpy().item()
    return fallback if np.isnan(value) else value


def convert_indexing(op_name: str, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Expr | None:
    """Gather or scatter with indices that are made to fit; None if that is not what is to be done.

    Negative ones count from the end; those that are still outside, which ONNX forbids, become the
    nearest that is not.
    """
    if op_name not in _INDEXING or not isinstance(inputs[0].ty, relax.TensorType):
        return None
    data, indices, *updates = inputs[:3]
    shape = [int(extent) for extent in data.ty.shape]
    if op_name.endswith("ND"):
        first = attrs.get("batch_dims", 0)
        extents = np.array(shape[first : first + int(indices.ty.shape[-1])])
    else:
        extents = np.array(shape[attrs.get("axis", 0)])
    return _INDEXING[op_name](data, _inside(indices, extents), updates, attrs)


def _inside(indices: Any, extents: NDArray[np.integer[Any]]) -> Expr:
    dtype = indices.ty.dtype.dtype
    if isinstance(indices, GenericConst):
        given = _array(indices)
        wrapped = np.where(given < 0, given + extents, given)
        return relax.const(np.clip(wrapped, 0, extents - 1).astype(dtype), dtype)
    zero, end = relax.const(0, dtype), relax.const(extents.astype(dtype), dtype)
    last = relax.const((extents - 1).astype(dtype), dtype)
    wrapped = relax.op.where(relax.op.less(indices, zero), relax.op.add(indices, end), indices)
    return relax.op.minimum(relax.op.maximum(wrapped, zero), last)


def _array(constant: Any) -> NDArray[np.integer[Any]]:
    return constant.value.numpy()


def _reduction(attrs: Mapping[str, Any]) -> str:
    reduction = bytes(attrs.get("reduction", b"none")).decode()
    return "update" if reduction == "none" else reduction


_INDEXING: Mapping[str, Callable[[Expr, Expr, Sequence[Expr], Mapping[str, Any]], Expr]] = {
    "Gather": lambda data, indices, _, attrs: relax.op.take(
        data, indices, attrs.get("axis", 0), mode="clip"
    ),
    "GatherElements": lambda data, indices, _, attrs: relax.op.gather_elements(
        data, indices, attrs.get("axis", 0)
    ),
    "GatherND": lambda data, indices, _, attrs: relax.op.gather_nd(
        data, indices, attrs.get("batch_dims", 0)
    ),
    "ScatterElements": lambda data, indices, updates, attrs: relax.op.scatter_elements(
        data, indices, updates[0], attrs.get("axis", 0), _reduction(attrs)
    ),
    "ScatterND": lambda data, indices, updates, attrs: relax.op.scatter_nd(
        data, indices, updates[0], _reduction(attrs)
    ),
}


def _pad(mode: str) -> Callable[..., Expr]:
    def convert(
        data: Expr, before: Sequence[int], after: Sequence[int], value: float = 0.0
    ) -> Expr:
        widths = [int(width) for pair in zip(before, after, strict=True) for width in pair]
        return relax.op.nn.pad(data, widths, mode, value)

    return convert


def _mirror_pad(data: Expr, before: Sequence[int], after: Sequence[int], mode: str) -> Expr:
    return _pad(mode.lower())(data, before, after)


def _binary(operator: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr | float], Expr]:
    def convert(data: Any, other: Expr | float) -> Expr:
        scalar = isinstance(other, (int, float))
        return operator(data, relax.const(other, data.ty.dtype.dtype) if scalar else other)

    return convert


def _einsum(equation: str, *operands: Expr) -> Expr:
    return relax.op.einsum(operands, equation)


_OPERATORS: Mapping[Callable[..., object], Callable[..., Expr]] = {
    topi.maximum: _binary(relax.op.maximum),
    topi.minimum: _binary(relax.op.minimum),
    topi.flip: relax.op.flip,
    topi.tile: relax.op.tile,
    topi.einsum: _einsum,
    topi.nn.pad: _pad("constant"),
    topi.nn.mirror_pad: _mirror_pad,
    topi.nn.replicate_pad: _pad("replicate"),
    topi.nn.circular_pad: _pad("circular"),
}
