# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# TVM ships no types
"""What divides the elements of a row by something of all of them: softmax and norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import te, tirx

from partc.codegen.kernels import mathematics
from partc.codegen.kernels.common import STACK_NBYTES
from partc.codegen.kernels.mathematics import Scalar
from partc.codegen.kernels.reduce import (
    ELEMENTS_ATTRS,
    MAXIMUM,
    SUM,
    Rows,
    element_of,
    rows_of,
    sorted_axes,
)
from partc.codegen.machine import FLOAT32_NBYTES, Machine


def softmax(x: te.Tensor, axis: int, machine: Machine) -> te.Tensor:
    """Exponentials along an axis, divided by their sum."""
    rows, reduction = rows_of(x, (axis,), machine)
    reduction = replace(reduction, together=_rows_together(rows, machine))
    greatest = reduction.of(MAXIMUM, element_of(rows, x), "greatest")
    exponential = te.compute(
        (rows.count[0], rows.length, rows.count[1]),
        lambda outer, position, inner: mathematics.exp_of_negative(
            x(*rows.index((outer, inner), position)) - greatest(outer, inner)
        ),
        name="exponential",
        attrs=ELEMENTS_ATTRS,
    )
    scale = reduction.of(
        SUM,
        lambda row, position: exponential(row[0], position, row[1]),
        "scale",
        finish=lambda total: 1 / total,
        anchor=True,
    )

    def normalised(*at: Scalar) -> Scalar:
        outer, inner = rows.row_of(at)
        return exponential(outer, rows.position_of(at), inner) * scale(outer, inner)

    return te.compute(x.shape, normalised, name="softmax")


def _rows_together(rows: Rows, machine: Machine) -> int:
    """How many rows to do together, so that memory for their exponentials is asked for once.

    TVM keeps a short row on the stack. Of long ones, some fit the cache.
    """
    count, nbytes = rows.count[0], FLOAT32_NBYTES * rows.length
    if nbytes <= STACK_NBYTES:
        return 1
    most = max(1, min(count // 8, machine.l1_nbytes // (4 * nbytes)))
    return max(size for size in range(1, most + 1) if count % size == 0)


def log_softmax(x: te.Tensor, axis: int, machine: Machine) -> te.Tensor:
    """The logarithm of the softmax along an axis."""
    rows, reduction = rows_of(x, (axis,), machine)
    greatest = reduction.of(MAXIMUM, element_of(rows, x), "greatest")
    total = reduction.of(
        SUM,
        lambda row, position: mathematics.exp_of_negative(
            x(*rows.index(row, position)) - greatest(*row)
        ),
        "total",
        finish=mathematics.log,
        anchor=True,
    )

    def normalised(*at: Scalar) -> Scalar:
        row = rows.row_of(at)
        return x(*at) - greatest(*row) - total(*row)

    return te.compute(x.shape, normalised, name="log_softmax")


def normalise(
    x: te.Tensor, axes: Sequence[int], epsilon: float, machine: Machine, *, centred: bool = True
) -> te.Tensor:
    """Divide by the root of the mean square over axes, after subtracting the mean if centred."""
    rows, reduction = rows_of(x, axes, machine)
    mean = reduction.mean(element_of(rows, x), "mean") if centred else None

    def deviation(index: Sequence[Scalar]) -> Scalar:
        return x(*index) if mean is None else x(*index) - mean(*rows.row_of(index))

    scale = reduction.mean(
        lambda row, position: mathematics.power(deviation(rows.index(row, position)), 2),
        "scale",
        finish=lambda square: 1 / tirx.sqrt(square + tirx.const(epsilon, "float32")),
        anchor=True,
    )
    return te.compute(
        x.shape, lambda *at: deviation(at) * scale(*rows.row_of(at)), name="normalised"
    )


def layer_norm(
    x: te.Tensor,
    gamma: te.Tensor | None,
    beta: te.Tensor | None,
    axes: Sequence[int],
    epsilon: float,
    machine: Machine,
) -> te.Tensor:
    """Normalise over axes, then scale and shift each element along them.

    Args:
        x: Data of any shape.
        gamma: The scale, of the shape that the axes have; None for 1.
        beta: The shift, likewise; None for 0.
        axes: What to normalise over.
        epsilon: What to add to the variance.
        machine: The CPU.
    """
    axes = sorted_axes(axes, len(x.shape))
    return _affine(normalise(x, axes, epsilon, machine), gamma, beta, axes)


def rms_norm(
    x: te.Tensor, weight: te.Tensor, axes: Sequence[int], epsilon: float, machine: Machine
) -> te.Tensor:
    """Divide by the root of the mean square over axes, then scale each element along them."""
    axes = sorted_axes(axes, len(x.shape))
    return _affine(normalise(x, axes, epsilon, machine, centred=False), weight, None, axes)


def instance_norm(
    x: te.Tensor, gamma: te.Tensor | None, beta: te.Tensor | None, epsilon: float, machine: Machine
) -> te.Tensor:
    """Normalise each channel of (N, C, ...) by itself, then scale and shift it."""
    axes = range(2, len(x.shape))
    return _affine(normalise(x, axes, epsilon, machine), gamma, beta, (1,))


def _affine(
    x: te.Tensor, gamma: te.Tensor | None, beta: te.Tensor | None, axes: Sequence[int]
) -> te.Tensor:
    def scaled(*at: Scalar) -> Scalar:
        along = [at[axis] for axis in axes]
        product = x(*at) if gamma is None else x(*at) * gamma(*along)
        return product if beta is None else product + beta(*along)

    return te.compute(x.shape, scaled, name="scaled")
