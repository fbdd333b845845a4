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
from collections.abc import Callable, Iterator
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
    most_accumulators,
    tile_of,
    unroll_inner,
)
from partc.codegen.machine import Machine

RULE = "conv2d"

_LATENCY_HIDDEN = 10  # independent multiply-adds that keep two pipelines of four stages busy
_LOAD_SLOTS = 1.15  # some loads are of two cache lines
_L2_NBYTES_PER_CYCLE = 32
_OVERHEAD = 0.5  # of counting steps, in multiply-adds


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
    data: te.Tensor,
    weight: te.Tensor,
    window: Window,
    groups: int,
    machine: Machine,
    slot_of: Callable[[Any], Any] = lambda channel: channel,
) -> te.Tensor:
    """Convolve blocked or plain data, giving blocked data.

    Args:
        data: (N, blocks, H, W, lanes), or plain, (N, C, H, W).
        weight: What :func:`pack_weight` returned, (O/lanes, C/(groups*step), KH, KW, step, lanes).
        window: How the kernel moves.
        groups: Into how many independent groups channels are divided.
        machine: What to choose the tile for.
        slot_of: Gives the slot in which blocked data hold a channel; for ``step`` channels from a
            multiple of that on, these are side by side in one block.

    Returns:
        (N, O/lanes, OH, OW, lanes), every group from the beginning of a block on.
    """
    batch, _, *plane = (int(size) for size in data.shape)
    blocks, steps, _, _, step, lanes = (int(size) for size in weight.shape)
    height, width = window.output(plane[0], plane[1])
    depth = steps * step * math.prod(window.kernel)
    tile = choose_tile(machine, height, width, blocks // groups, depth)
    rows, columns = _round_up(height, tile.rows), _round_up(width, tile.columns)
    read = _reader(data, window, rows, columns, slot_of)
    outer = te.reduce_axis((0, steps), "outer")
    inner = te.reduce_axis((0, step), "inner")
    kh = te.reduce_axis((0, window.kernel[0]), "kh")
    kw = te.reduce_axis((0, window.kernel[1]), "kw")

    def multiply_add(n: Any, o: Any, h: Any, w: Any, lane: Any) -> Any:
        group = o // (blocks // groups) if groups > 1 else 0
        channel = group * (steps * step) + outer * step + inner
        row = h * window.strides[0] + kh * window.dilation[0]
        column = w * window.strides[1] + kw * window.dilation[1]
        product = read(n, channel, row, column) * weight[o, outer, kh, kw, inner, lane]
        return te.sum(product, axis=[outer, kh, kw, inner])

    convolved = te.compute(
        (batch, blocks, rows, columns, lanes),
        multiply_add,
        name="conv2d",
        attrs=anchor_attrs(RULE, (tile.rows, tile.columns, tile.blocks)),
    )
    return te.compute(
        (batch, blocks, height, width, lanes), lambda *at: convolved(*at), name="conv2d_cropped"
    )


def pack_weight(weight: NDArray[Any], groups: int, step: int, lanes: int) -> NDArray[Any]:
    """Arrange a weight as a kernel reads it.

    Args:
        weight: (O, C/groups, KH, KW).
        groups: Groups of channels; each one's outputs start a block.
        step: How many input channels lie together; divides C/groups.
        lanes: How many output channels lie together.

    Returns:
        (O/lanes, C/(groups*step), KH, KW, step, lanes), with zeros behind each group's outputs.
    """
    out_channels, channels, *kernel = weight.shape
    each = out_channels // groups
    blocks = math.ceil(each / lanes)
    padded = np.zeros((groups, blocks * lanes, channels, *kernel), weight.dtype)
    padded[:, :each] = weight.reshape(groups, each, channels, *kernel)
    split = padded.reshape(groups * blocks, lanes, channels // step, step, *kernel)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))


def choose_tile(machine: Machine, height: int, width: int, blocks: int, depth: int) -> Tile:
    """The tile that keeps the multiply-add units busiest.

    Args:
        machine: The CPU.
        height: Of the plane that comes out.
        width: Likewise.
        blocks: How many blocks of channels come out.
        depth: How many products are summed for each number.
    """
    return max(
        _tiles(machine, height, width, blocks),
        key=lambda tile: (
            _efficiency(machine, tile, depth) * _useful(tile, height, width),
            -tile.rows,
            tile.columns,
        ),
    )


def _tiles(machine: Machine, height: int, width: int, blocks: int) -> Iterator[Tile]:
    """Every tile that registers can hold."""
    for channel_blocks in (count for count in (1, 2, 3, 4, 5, 6) if blocks % count == 0):
        most = _most_pixels(machine, channel_blocks)
        for columns in range(1, min(width, most) + 1):
            yield Tile(1, columns, channel_blocks)
        for rows in range(2, min(height, most // width) + 1):
            yield Tile(rows, width, channel_blocks)


def _most_pixels(machine: Machine, blocks: int) -> int:
    """How many pixels of so many channel blocks fit the registers, operands included.

    Where a pixel has to be spread over a register first, LLVM keeps it there for all the blocks.
    """
    if machine.broadcasts:
        return most_accumulators(machine) // blocks
    free = machine.registers - (1 if machine.multiply_adds else 2)
    return free - 1 if blocks == 1 else free // (blocks + 1)


def _efficiency(machine: Machine, tile: Tile, depth: int) -> float:
    """The share of the peak that a tile can reach.

    Two multiply-adds and two loads are issued a cycle; fewer multiply-adds than
    ``_LATENCY_HIDDEN`` wait for each other. Weights that do not stay in the first-level cache come
    from the second.
    """
    weights = 4 * machine.lanes * tile.blocks
    from_l2 = 2 * weights / _L2_NBYTES_PER_CYCLE if depth * weights > machine.l1_nbytes / 2 else 0
    loads = _LOAD_SLOTS * (tile.pixels + tile.blocks)
    slots = max(tile.accumulators, loads, _LATENCY_HIDDEN, from_l2)
    return tile.accumulators / (slots + _OVERHEAD)


def _useful(tile: Tile, height: int, width: int) -> float:
    """The share of a tile's pixels that lie in the plane."""
    covered = _round_up(height, tile.rows) * _round_up(width, tile.columns)
    return height * width / covered


def _round_up(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple


def _reader(
    data: te.Tensor, window: Window, rows: int, columns: int, slot_of: Callable[[Any], Any]
) -> Callable[..., Any]:
    """How to read (n, channel, row, column) of the padded input, as far as tiles read it."""
    shape = [int(size) for size in data.shape]
    height, width = shape[2:4]
    top, left = window.padding[:2]
    reach = (window.reach(0, rows), window.reach(1, columns))
    if top or left or reach[0] > height or reach[1] > width:

        def inside(n: Any, c: Any, h: Any, w: Any, *lane: Any) -> Any:
            within = tirx.all(h >= top, h < height + top, w >= left, w < width + left)
            return tirx.if_then_else(within, data(n, c, h - top, w - left, *lane), 0.0)

        data = te.compute((*shape[:2], *reach, *shape[4:]), inside, name="padded")
    if len(shape) == 4:
        return lambda n, channel, row, column: data(n, channel, row, column)
    lanes = shape[4]

    def read(n: Any, channel: Any, row: Any, column: Any) -> Any:
        slot = slot_of(channel)
        return data(n, slot // lanes, row, column, slot % lanes)

    return read


def schedule_conv2d(schedule: Sch, anchor: Block, machine: Machine) -> None:  # noqa: ARG001
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
