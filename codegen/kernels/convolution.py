# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportUnknownParameterType=false
# TVM ships no types
"""Direct convolution: a tile of output pixels and channels stays in registers.

Data are blocked, (N, C/lanes, H, W, lanes), so that one vector holds the channels of one pixel.
Channels that fill no vector are there but hold anything: nothing that is real is computed from
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from partc.codegen.kernels.common import (
    PARTITION,
    Block,
    Loop,
    Sch,
    Tensor,
    anchor_attrs,
    extent,
    fuse_tail,
    round_up,
    tile_of,
    unroll_inner,
)
from partc.codegen.kernels.convolution_plan import Problem, Window, plan_conv2d
from partc.codegen.machine import Machine

RULE = "conv2d"


def conv2d(
    data: Tensor,
    weight: Tensor,
    problem: Problem,
    machine: Machine,
    slot_of: Callable[[Any], Any] = lambda channel: channel,
) -> Tensor:
    """Convolve blocked or plain data, giving blocked data.

    Args:
        data: (N, blocks, H, W, lanes), or plain, (N, C, H, W).
        weight: What :func:`pack_weight` returned.
        problem: What to compute.
        machine: What to divide the work for.
        slot_of: Gives the slot in which blocked data hold a channel; for ``step`` channels from a
            multiple of that on, the slots follow each other.

    Returns:
        (N, O/lanes, OH, OW, lanes), every group from the beginning of a block on.
    """
    window, groups = problem.window, problem.groups
    tile, shares = plan_conv2d(problem, machine)
    blocks, steps, _, _, step, lanes = (int(size) for size in weight.shape)
    height, width = window.output(*(int(size) for size in data.shape[2:4]))
    read = _reader(data, window, (height, width), slot_of)
    # What of the input a band reads cannot be told where a table says which channels those are.
    in_bands = int(shares.parts == 1 and not isinstance(slot_of(tirx.const(0)), te.TensorSlice))
    extents = {"outer": steps, "kh": window.kernel[0], "kw": window.kernel[1], "inner": step}
    summed: list[Any] = [te.reduce_axis((0, size), name) for name, size in extents.items()]
    outer, kh, kw, inner = summed

    def multiply_add(n: Any, o: Any, h: Any, w: Any, lane: Any) -> Any:
        group = o // problem.blocks if groups > 1 else 0
        channel = group * (steps * step) + outer * step + inner
        product = read(n, channel, (h, w), (kh, kw)) * weight[o, outer, kh, kw, inner, lane]
        return te.sum(product, axis=summed)

    plan = (*tile.extents, shares.bands, shares.parts, in_bands, window.is_pointwise)
    convolved: Tensor = te.compute(
        (problem.batch, blocks, problem.height, problem.width, lanes),
        multiply_add,
        name="conv2d",
        attrs=anchor_attrs(RULE, plan),
    )

    def place(n: Any, o: Any, h: Any, w: Any, lane: Any) -> Any:
        pixel = (h * width + w, 0) if window.is_pointwise else (h, w)
        return convolved(n, o, *pixel, lane)

    shape = (problem.batch, groups * problem.blocks, height, width, lanes)
    return te.compute(shape, place, name="conv2d_plane")


def pack_weight(
    weight: NDArray[Any], problem: Problem, step: int, machine: Machine
) -> NDArray[Any]:
    """Arrange a weight as the kernel reads it.

    Args:
        weight: (O, C/groups, KH, KW).
        problem: What is computed with it.
        step: How many input channels lie together; divides C/groups.
        machine: Whose vectors output channels fill.

    Returns:
        (blocks, C/(groups*step), KH, KW, step, lanes). Each group's outputs start a block, and
        what is behind them is zero, up to the blocks of a whole tile.
    """
    tile, _ = plan_conv2d(problem, machine)
    blocks = round_up(problem.blocks, tile.blocks)
    groups, lanes = problem.groups, machine.lanes
    out_channels, channels, *kernel = weight.shape
    each = out_channels // groups
    padded = np.zeros((groups, blocks * lanes, channels, *kernel), weight.dtype)
    padded[:, :each] = weight.reshape(groups, each, channels, *kernel)
    split = padded.reshape(groups * blocks, lanes, channels // step, step, *kernel)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def _reader(
    data: Tensor, window: Window, plane: tuple[int, int], slot_of: Callable[[Any], Any]
) -> Callable[..., Any]:
    """How to read what a pixel of a problem takes from a channel through one tap of the window.

    ``plane`` is the size of what comes out, whose rows a pointwise problem joins.
    """
    shape = [int(size) for size in data.shape]
    height, width = shape[2:4]
    top, left = window.padding[:2]
    reach = (window.reach(0, plane[0]), window.reach(1, plane[1]))
    if top or left or reach[0] > height or reach[1] > width:

        def inside(n: Any, c: Any, h: Any, w: Any, *lane: Any) -> Any:
            within = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
            return tirx.if_then_else(within, data(n, c, h - top, w - left, *lane), 0.0)

        data = te.compute((*shape[:2], *reach, *shape[4:]), inside, name="padded")
    lanes = shape[4:]

    def read(n: Any, channel: Any, pixel: tuple[Any, Any], tap: tuple[Any, Any]) -> Any:
        if window.is_pointwise:
            pixel = (pixel[0] // plane[1], pixel[0] % plane[1])
        at = [
            position * stride + offset * dilation
            for position, stride, offset, dilation in zip(
                pixel, window.strides, tap, window.dilation, strict=True
            )
        ]
        if not lanes:
            return data(n, channel, *at)
        slot = slot_of(channel)
        return data(n, slot // lanes[0], *at, slot % lanes[0])

    return read


def schedule_conv2d(schedule: Sch, anchor: Block, machine: Machine) -> None:  # noqa: ARG001
    """Tiles in registers; for each band of rows the input in the cache; bands in parallel."""
    rows, columns, blocks, bands, parts, in_bands, is_pointwise = tile_of(schedule, anchor)
    padding = schedule.get_producers(anchor)
    tail = fuse_tail(schedule, anchor)
    if is_pointwise:
        _join_rows(schedule, tail)
    n, o, h, w, lane = schedule.get_loops(tail)
    ragged_rows, ragged_columns = extent(schedule, h) % rows, extent(schedule, w) % columns
    part, o_outer, o_inner = schedule.split(o, [parts, None, blocks])
    band, h_outer, h_inner = schedule.split(h, [bands, None, rows])
    w_outer, w_inner = schedule.split(w, [None, columns])
    schedule.reorder(n, band, part, o_outer, h_outer, w_outer, o_inner, h_inner, w_inner, lane)
    share = schedule.fuse(n, band, part)
    schedule.parallel(share)
    if ragged_rows:
        schedule.annotate(h_outer, PARTITION, 1)
    if ragged_columns:
        schedule.annotate(w_outer, PARTITION, 1)
    schedule.compute_at(anchor, w_outer, preserve_unit_loops=True)
    b_o, b_h, b_w, b_lane, outer, kh, kw, inner = schedule.get_loops(anchor)[-8:]
    schedule.reorder(outer, kh, kw, inner, b_o, b_h, b_w, b_lane)
    for block in padding:
        _schedule_padding(schedule, block, share if in_bands else None)
    unroll_inner(schedule, anchor, 3)
    initial = schedule.decompose_reduction(anchor, outer)
    unroll_inner(schedule, initial, 3)
    unroll_inner(schedule, tail, 3)


def _join_rows(schedule: Sch, tail: Block) -> None:
    """Go over a plane as over one column of pixels."""
    width = extent(schedule, schedule.get_loops(tail)[3])
    schedule.transform_block_layout(
        tail, lambda n, o, h, w, lane: (n, o, h * width + w, tirx.const(0, w.ty), lane)
    )


def _schedule_padding(schedule: Sch, padded: Block, share: Loop | None) -> None:
    """Pad the rows of a band for the channels of all its tiles, or all rows in a loop before."""
    if share is not None:
        schedule.compute_at(padded, share, preserve_unit_loops=True)
    loops = schedule.get_loops(padded)
    if _is_blocked(schedule, padded):
        schedule.vectorize(loops[-1])
    else:
        schedule.annotate(loops[-1], PARTITION, 1)
    if share is None:
        schedule.parallel(schedule.fuse(*loops[:3]))


def _is_blocked(schedule: Sch, padded: Block) -> bool:
    return len(schedule.get(padded).writes[0].region) == 5
