# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportUnknownParameterType=false
# TVM ships no types
"""Direct convolution: a tile of output pixels and channels stays in registers.

Data are blocked, (N, C/lanes, H, W, lanes), so that one vector holds the channels of one pixel.
Channels that fill no vector are there but hold anything: nothing that is real is computed from
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from partc.codegen.kernels.common import (
    Block,
    Sch,
    anchor_attrs,
    extent,
    fuse_tail,
    tile_of,
    unroll_inner,
)
from partc.codegen.machine import Machine

RULE = "conv2d"

_LONGEST_TILE = 28
_LATENCY_HIDDEN = 8  # independent multiply-adds that keep two pipelines of four stages busy


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the plane; (height, width) of each.

    ``padding`` is what is added at the (top, left, bottom, right).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """The size of the plane that comes out."""
        top, left, bottom, right = self.padding
        return self._steps(0, height + top + bottom), self._steps(1, width + left + right)

    def reach(self, axis: int, steps: int) -> int:
        """How many input positions along an axis so many output positions read."""
        span = self.dilation[axis] * (self.kernel[axis] - 1)
        return (steps - 1) * self.strides[axis] + span + 1

    def _steps(self, axis: int, padded: int) -> int:
        return (padded - self.reach(axis, 1)) // self.strides[axis] + 1


@dataclass(frozen=True)
class Tile:
    """What stays in registers: rows x columns of pixels, times blocks of channels."""

    rows: int
    columns: int
    blocks: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def accumulators(self) -> int:
        return self.pixels * self.blocks


def conv2d(
    data: te.Tensor, weight: te.Tensor, window: Window, groups: int, machine: Machine
) -> te.Tensor:
    """Convolve blocked or plain data, giving blocked data.

    Args:
        data: (N, C/lanes, H, W, lanes), or (N, C, H, W).
        weight: What :func:`pack_weight` returned, (O/lanes, C/(groups*step), KH, KW, step, lanes).
        window: The kernel's shape and movement.
        groups: Into how many independent groups channels are divided; each must fill its blocks.
        machine: What to choose the tile for.

    Returns:
        (N, O/lanes, OH, OW, lanes).
    """
    shape = [int(size) for size in data.shape]
    out_blocks, steps, _, _, step, lanes = (int(size) for size in weight.shape)
    height, width = window.output(shape[2], shape[3])
    tile = choose_tile(machine, height, width, out_blocks // groups)
    rows, columns = _round_up(height, tile.rows), _round_up(width, tile.columns)
    read = _padded(data, window, rows, columns)
    blocks_per_group = out_blocks // groups
    channels_per_group = steps * step
    outer = te.reduce_axis((0, steps), "c_outer")
    inner = te.reduce_axis((0, step), "c_inner")
    kh = te.reduce_axis((0, window.kernel[0]), "kh")
    kw = te.reduce_axis((0, window.kernel[1]), "kw")

    def multiply_add(n: Any, o: Any, h: Any, w: Any, lane: Any) -> Any:
        channel = outer * step + inner
        if groups > 1:
            channel = o // blocks_per_group * channels_per_group + channel
        row = h * window.strides[0] + kh * window.dilation[0]
        column = w * window.strides[1] + kw * window.dilation[1]
        product = read(n, channel, row, column) * weight[o, outer, kh, kw, inner, lane]
        return te.sum(product, axis=[outer, kh, kw, inner])

    convolved = te.compute(
        (shape[0], out_blocks, rows, columns, lanes),
        multiply_add,
        name="conv2d",
        attrs=anchor_attrs(RULE, (tile.rows, tile.columns, tile.blocks)),
    )
    return te.compute(
        (shape[0], out_blocks, height, width, lanes),
        lambda *at: convolved(*at),
        name="conv2d_cropped",
    )


def pack_weight(weight: NDArray[Any], step: int, lanes: int) -> NDArray[Any]:
    """Arrange (O, C, KH, KW) as (O/lanes, C/step, KH, KW, step, lanes), with zeros behind O."""
    out_channels, channels, *kernel = weight.shape
    blocks = math.ceil(out_channels / lanes)
    padded = np.zeros((blocks * lanes, channels, *kernel), weight.dtype)
    padded[:out_channels] = weight
    split = padded.reshape(blocks, lanes, channels // step, step, *kernel)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def channel_step(channels: int, lanes: int) -> int:
    """The longest run of channels that divides both all of them and a block."""
    return math.gcd(channels, lanes)


def choose_tile(machine: Machine, height: int, width: int, blocks: int) -> Tile:
    """The tile that keeps the multiply-add units busiest on a plane of so many channel blocks."""
    return max(
        _tiles(machine, height, width, blocks),
        key=lambda tile: (_efficiency(machine, tile, height, width), -tile.rows, tile.columns),
    )


def _tiles(machine: Machine, height: int, width: int, blocks: int) -> Iterator[Tile]:
    """Every tile whose accumulators and operands fit the registers."""
    for channel_blocks in (count for count in (1, 2, 3, 4) if blocks % count == 0):
        # One register of each block's weights, one for the pixel if it needs spreading.
        operands = channel_blocks + (0 if machine.broadcasts else 1)
        most = min(_LONGEST_TILE, machine.registers - operands) // channel_blocks
        if machine.registers > 16 and channel_blocks > 1:
            most = min(most, 20 // channel_blocks)
        for columns in range(1, min(width, most) + 1):
            yield Tile(1, columns, channel_blocks)
        for rows in range(2, min(height, most // width) + 1):
            yield Tile(rows, width, channel_blocks)


def _efficiency(machine: Machine, tile: Tile, height: int, width: int) -> float:
    """The share of the peak that a tile can reach.

    Two multiply-adds and two loads are issued a cycle; multiply-adds of fewer accumulators than
    ``_LATENCY_HIDDEN`` wait for each other.
    """
    work = _round_up(height, tile.rows) * _round_up(width, tile.columns)
    loads = tile.pixels + tile.blocks
    busy = tile.accumulators / max(tile.accumulators, loads, _LATENCY_HIDDEN)
    overhead = tile.accumulators / (tile.accumulators + 0.5)
    return busy * overhead * height * width / work


def _round_up(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple


def _padded(data: te.Tensor, window: Window, rows: int, columns: int) -> Any:
    """How to read (n, channel, row, column) of the padded input, as far as tiles read it."""
    shape = [int(size) for size in data.shape]
    height, width = shape[2:4]
    top, left = window.padding[:2]
    reach = (window.reach(0, rows), window.reach(1, columns))
    blocked = len(shape) == 5
    if top or left or reach[0] > height or reach[1] > width:

        def inside(n: Any, c: Any, h: Any, w: Any, *lane: Any) -> Any:
            within = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
            return tirx.if_then_else(within, data(n, c, h - top, w - left, *lane), 0.0)

        data = te.compute((*shape[:2], *reach, *shape[4:]), inside, name="padded")
    if not blocked:
        return lambda n, channel, row, column: data(n, channel, row, column)
    lanes = shape[4]
    return lambda n, channel, row, column: data(n, channel // lanes, row, column, channel % lanes)


def schedule_conv2d(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """Tiles in registers, channels of a block in a vector, blocks of channels in parallel."""
    rows, columns, blocks = tile_of(schedule, anchor)
    producers = schedule.get_producers(anchor)
    tail = fuse_tail(schedule, anchor)
    n, o, h, w, lane = schedule.get_loops(tail)
    o_outer, o_inner = schedule.split(o, [None, blocks])
    h_outer, h_inner = schedule.split(h, [None, rows])
    w_outer, w_inner = schedule.split(w, [None, columns])
    schedule.reorder(n, o_outer, h_outer, w_outer, o_inner, h_inner, w_inner, lane)
    schedule.parallel(schedule.fuse(n, o_outer))
    schedule.compute_at(anchor, w_outer, preserve_unit_loops=True)
    _, b_o, b_h, b_w, b_lane, outer, kh, kw, inner = schedule.get_loops(anchor)[-9:]
    schedule.reorder(outer, kh, kw, inner, b_o, b_h, b_w, b_lane)
    for producer in producers:
        _schedule_padding(schedule, producer)
    unroll_inner(schedule, anchor, 3)
    initial = schedule.decompose_reduction(anchor, outer)
    unroll_inner(schedule, initial, 3)
    unroll_inner(schedule, tail, 3)


def _schedule_padding(schedule: Sch, padded: Block) -> None:
    loops = schedule.get_loops(padded)
    if len(loops) == 5:
        schedule.vectorize(loops[-1])
    if extent(schedule, loops[0]) * extent(schedule, loops[1]) > 1:
        schedule.parallel(schedule.fuse(*loops[:2]))
