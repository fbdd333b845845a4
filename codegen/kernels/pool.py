# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""Pooling in blocked layout, of a window or of whole planes.

The size of the result comes from the caller, because frameworks round it differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from tvm import te, tirx

from partc.codegen.kernels.common import (
    PARTITION,
    Block,
    Sch,
    anchor_attrs,
    fuse_tail,
    unroll_inner,
)
from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.sliding import (
    Expression,
    Tensor,
    crop,
    is_worth_threads,
    slide,
    tile_width,
)
from partc.codegen.machine import Machine

GLOBAL_RULE = "global pool"


def max_pool2d(data: Tensor, window: Window, output: tuple[int, int], machine: Machine) -> Tensor:
    """Take the largest of what a window covers; what lies outside the plane does not count.

    Args:
        data: (N, C/lanes, H, W, lanes).
        window: How the window moves.
        output: Height and width of the result.
        machine: What to tile for.

    Returns:
        (N, C/lanes, *output, lanes).
    """
    largest = slide(
        data, window, output, machine, te.max, lambda value, *_: value, _lowest(data.dtype)
    )
    return crop(largest, output[1])


def avg_pool2d(
    data: Tensor,
    window: Window,
    output: tuple[int, int],
    machine: Machine,
    *,
    count_include_pad: bool,
) -> Tensor:
    """Average what a window covers.

    Args:
        data: (N, C/lanes, H, W, lanes).
        window: How the window moves.
        output: Height and width of the result.
        machine: What to tile for.
        count_include_pad: Whether the zeros of the padding are averaged, too. What a result that
            was rounded up reaches beyond the padding never is.

    Returns:
        (N, C/lanes, *output, lanes).
    """
    sums = slide(data, window, output, machine, te.sum, lambda value, *_: value, 0.0)
    plane = (int(data.shape[2]), int(data.shape[3]))
    rows, columns = (
        _counts(window, axis, plane[axis], output[axis], padded=count_include_pad)
        for axis in (0, 1)
    )
    return crop(
        sums, output[1], lambda value, h, w: value * (_inverse(rows, h) * _inverse(columns, w))
    )


def adaptive_window(plane: tuple[int, int], output: tuple[int, int]) -> Window | None:
    """The window of an adaptive pool, if all of its windows are alike and none overlap."""
    if plane[0] % output[0] or plane[1] % output[1]:
        return None
    size = (plane[0] // output[0], plane[1] // output[1])
    return Window(kernel=size, strides=size, dilation=(1, 1), padding=(0, 0, 0, 0))


def global_avg_pool2d(data: Tensor, machine: Machine) -> Tensor:
    """Average every plane: (N, C/lanes, H, W, lanes) becomes (N, C/lanes, 1, 1, lanes)."""
    sums = _reduce_planes(data, te.sum, 0.0, machine)
    inverse = 1.0 / (int(data.shape[2]) * int(data.shape[3]))
    return te.compute(sums.shape, lambda *at: sums(*at) * tirx.const(inverse, data.dtype))


def global_max_pool2d(data: Tensor, machine: Machine) -> Tensor:
    """Largest of every plane: (N, C/lanes, H, W, lanes) becomes (N, C/lanes, 1, 1, lanes)."""
    return _reduce_planes(data, te.max, _lowest(data.dtype), machine)


def _lowest(dtype: str) -> Expression:
    return tirx.min_value(dtype)


def _counts(window: Window, axis: int, size: int, output: int, *, padded: bool) -> list[int]:
    """How many elements are averaged at each index of an axis."""
    before, after = window.padding[axis], window.padding[axis + 2]
    counted = range(-before, size + after) if padded else range(size)
    steps = range(window.kernel[axis])
    starts = (at * window.strides[axis] - before for at in range(output))
    return [
        max(1, sum(start + step * window.dilation[axis] in counted for step in steps))
        for start in starts
    ]


def _inverse(counts: Sequence[int], at: Expression) -> Expression:
    """``1 / counts[at]``, for counts that change at few places."""
    start = 0
    runs: list[tuple[int, int]] = []
    for count, run in groupby(counts):
        runs.append((start, count))
        start += len(list(run))
    value: Expression = tirx.const(1.0 / runs[0][1], "float32")
    for start, count in runs[1:]:
        value = tirx.Select(at < start, value, tirx.const(1.0 / count, "float32"))
    return value


def _reduce_planes(
    data: Tensor, reduction: Callable[..., Expression], neutral: Expression, machine: Machine
) -> Tensor:
    """Reduce every plane, in several parts that do not wait for each other."""
    batch, blocks, height, width, lanes = map(int, data.shape)
    pixels = height * width
    parts = tile_width(pixels, machine)
    steps: Expression = te.reduce_axis((0, -(-pixels // parts)), "step")
    part: Expression = te.reduce_axis((0, parts), "part")

    def one_part(n: Expression, c: Expression, p: Expression, v: Expression) -> Expression:
        at = steps * parts + p
        value = data[n, c, at // width, at % width, v]
        return reduction(tirx.if_then_else(at < pixels, value, neutral), axis=steps)

    partial: Tensor = te.compute((batch, blocks, parts, lanes), one_part, name="partial")
    return te.compute(
        (batch, blocks, 1, 1, lanes),
        lambda n, c, _h, _w, v: reduction(partial[n, c, part, v], axis=part),
        name="pool",
        attrs=anchor_attrs(GLOBAL_RULE),
    )


def schedule_global_pool(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """Schedule a global pool, what is computed of its input and what of its result."""
    (partial,) = schedule.get_producers(anchor)
    _inline_producers(schedule, partial)
    tail = fuse_tail(schedule, anchor)
    n, c, *_, lanes = schedule.get_loops(tail)
    planes = schedule.fuse(n, c)
    if is_worth_threads(schedule, partial, machine):
        schedule.parallel(planes)
    for block in (anchor, partial):
        schedule.compute_at(block, planes, preserve_unit_loops=True)
    *_, part, v, step = schedule.get_loops(partial)
    schedule.reorder(step, part, v)
    schedule.annotate(step, PARTITION, 1)
    unroll_inner(schedule, partial, 1)
    unroll_inner(schedule, schedule.decompose_reduction(partial, step), 1)
    *_, v, part = schedule.get_loops(anchor)
    schedule.reorder(part, v)
    unroll_inner(schedule, anchor, 1)
    unroll_inner(schedule, schedule.decompose_reduction(anchor, part), 0)
    schedule.vectorize(lanes)


def _inline_producers(schedule: Sch, block: Block) -> None:
    """Compute what a block reads where it is read."""
    for producer in schedule.get_producers(block):
        _inline_producers(schedule, producer)
        schedule.compute_inline(producer)
