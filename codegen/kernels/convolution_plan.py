# pyright: reportMissingTypeStubs=false
# TVM ships no types
"""How to divide a direct convolution: what stays in registers, in the cache, and to a thread.

Times are in cycles of a core that starts two vector multiply-adds and two vector loads in each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from partc.codegen.kernels.common import (
    L2_NBYTES_PER_CYCLE,
    L3_NBYTES_PER_CYCLE,
    PER_CYCLE,
    divisors,
    most_accumulators,
    round_up,
)
from partc.codegen.machine import FLOAT32_NBYTES, Machine

# Fitted to timings of single layers on Zen 5. Two pipelines of four stages would be kept busy by 8
# multiply-adds; but with AVX2, tiles of 8 reached 0.87 of what tiles of 12 did.
_LATENCY_HIDDEN = 10
_LOAD_SLOTS = 1.15  # some loads are of two cache lines
_OVERHEAD = 0.5  # of counting steps, in multiply-adds
_MOST_BLOCKS = 6

# Assumed.
_COPY_NBYTES_PER_CYCLE = 16
_CORES = (2, 4)  # on which shares are to be even
_LEAST_RAGGED = 4  # tiles, of which one is slow
_HIDDEN = 0.75  # the part of what is fetched that comes while something is computed


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the plane; (height, width) of each.

    ``padding`` is what is added at the (top, left, bottom, right).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def is_pointwise(self) -> bool:
        """Whether each pixel comes from a single one."""
        return self.kernel == (1, 1) and not any(self.padding)

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
class Problem:
    """What a convolution is to compute.

    Args:
        batch: How many images.
        groups: Groups of channels.
        channels: Of the input, in one group.
        blocks: Vectors of output channels, in one group.
        height: Of the plane that comes out; of a pointwise window, all its pixels: they are taken
            as one column, so that tiles need not end where a row does.
        width: Likewise; of a pointwise window, 1.
        window: How the kernel moves.
    """

    batch: int
    groups: int
    channels: int
    blocks: int
    height: int
    width: int
    window: Window

    @classmethod
    def of(
        cls, shape: Sequence[int], out_channels: int, groups: int, window: Window, lanes: int
    ) -> Problem:
        """What a convolution of (N, C, H, W) data is to compute."""
        batch, channels, *plane = shape
        height, width = window.output(plane[0], plane[1])
        if window.is_pointwise:
            height, width = height * width, 1
        blocks = math.ceil(out_channels // groups / lanes)
        return cls(batch, groups, channels // groups, blocks, height, width, window)

    @property
    def depth(self) -> int:
        """How many products are summed for each number."""
        return self.channels * math.prod(self.window.kernel)


@dataclass(frozen=True)
class Tile:
    """What stays in registers: rows x columns of pixels, times blocks of channels."""

    rows: int
    columns: int
    blocks: int

    @property
    def extents(self) -> tuple[int, int, int]:
        return self.rows, self.columns, self.blocks

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def accumulators(self) -> int:
        return self.pixels * self.blocks


@dataclass(frozen=True)
class Shares:
    """What is done in parallel: bands of rows, times parts of the channels."""

    bands: int
    parts: int


@functools.cache
def plan_conv2d(problem: Problem, machine: Machine) -> tuple[Tile, Shares]:
    """How to divide a convolution."""
    tile = choose_tile(problem, machine)
    return tile, choose_shares(problem, tile, machine)


def choose_tile(problem: Problem, machine: Machine) -> Tile:
    """The tile that keeps the multiply-add units busiest."""
    return max(
        _tiles(problem, machine),
        key=lambda tile: (
            _efficiency(tile, problem, machine) * _useful(tile, problem),
            -tile.rows,
            tile.columns,
        ),
    )


def _tiles(problem: Problem, machine: Machine) -> Iterator[Tile]:
    """Every tile that registers can hold; the last blocks of a group may lack some of it."""
    for blocks in range(1, min(_MOST_BLOCKS, problem.blocks) + 1):
        if problem.groups > 1 and problem.blocks % blocks:
            continue
        most = _most_pixels(machine, blocks)
        for columns in range(1, min(problem.width, most) + 1):
            yield Tile(1, columns, blocks)
        for rows in range(2, min(problem.height, most // problem.width) + 1):
            yield Tile(rows, problem.width, blocks)


def _most_pixels(machine: Machine, blocks: int) -> int:
    """How many pixels of so many channel blocks fit the registers, operands included.

    Where a pixel has to be spread over a register first, LLVM keeps it there for all the blocks.
    """
    if machine.broadcasts:
        return most_accumulators(machine) // blocks
    free = machine.registers - (1 if machine.multiply_adds else 2)
    return free - 1 if blocks == 1 else free // (blocks + 1)


def _efficiency(tile: Tile, problem: Problem, machine: Machine) -> float:
    """The share of the peak that a tile can reach.

    Fewer multiply-adds than ``_LATENCY_HIDDEN`` wait for each other. Weights that do not stay in
    the first-level cache come from the second.
    """
    weights = machine.vector_nbytes * tile.blocks
    streamed = problem.depth * weights > machine.l1_nbytes / 2
    from_l2 = PER_CYCLE * weights / L2_NBYTES_PER_CYCLE if streamed else 0
    loads = _LOAD_SLOTS * (tile.pixels + tile.blocks)
    slots = max(tile.accumulators, loads, _LATENCY_HIDDEN, from_l2)
    return tile.accumulators / (slots + _OVERHEAD)


def _useful(tile: Tile, problem: Problem) -> float:
    """The share of a tile's time that is not lost where the last one ends early.

    That one takes about as long as the others: its fewer multiply-adds wait for each other.
    """
    sizes = (problem.height, problem.width, problem.blocks)
    parts = (tile.rows, tile.columns, tile.blocks)
    return math.prod(size / round_up(size, part) for size, part in zip(sizes, parts, strict=True))


def choose_shares(problem: Problem, tile: Tile, machine: Machine) -> Shares:
    """The division among threads, whose number is only known when they run, that is fastest."""
    channel_tiles = problem.groups * math.ceil(problem.blocks / tile.blocks)
    return min(
        (Shares(b, p) for b in _bands(problem, tile) for p in divisors(channel_tiles)),
        key=lambda shares: (_cycles(shares, problem, tile, machine), shares.parts, shares.bands),
    )


def _bands(problem: Problem, tile: Tile) -> list[int]:
    """Into how many bands of whole tiles rows can be divided.

    If the last tile lacks rows, bands are of several: the loop over them is where TVM compiles full
    tiles apart.
    """
    tiles = math.ceil(problem.height / tile.rows)
    if problem.height % tile.rows == 0:
        return divisors(tiles)
    return [bands for bands in divisors(tiles) if bands == 1 or tiles // bands >= _LEAST_RAGGED]


def _cycles(shares: Shares, problem: Problem, tile: Tile, machine: Machine) -> float:
    """The time of a core of two or four, which work for as long as the one with most shares."""
    count = problem.batch * shares.bands * shares.parts
    idle = sum(math.ceil(count / cores) * cores / count for cores in _CORES) / len(_CORES)
    work = _product_cycles(problem) + _fetch_cycles(shares, problem, tile, machine)
    return (work + _padding_cycles(shares, problem)) * idle


def _product_cycles(problem: Problem) -> float:
    vectors = problem.batch * problem.groups * problem.blocks * problem.height * problem.width
    return vectors * problem.depth / PER_CYCLE


def _fetch_cycles(shares: Shares, problem: Problem, tile: Tile, machine: Machine) -> float:
    """What reading weights once for each band, and input once for each tile of channels, costs."""
    weights = problem.depth * problem.groups * problem.blocks * machine.vector_nbytes
    band = _band_nbytes(shares, problem)
    steps = math.ceil(problem.blocks / tile.blocks)
    bands = problem.batch * shares.bands
    from_weights = bands * weights / _rate(weights, machine)
    from_input = bands * steps * band / _rate(band, machine)
    return (1 - _HIDDEN) * (from_weights + from_input)


def _rate(nbytes: float, machine: Machine) -> float:
    return L2_NBYTES_PER_CYCLE if nbytes <= machine.l2_nbytes / 2 else L3_NBYTES_PER_CYCLE


def _padding_cycles(shares: Shares, problem: Problem) -> float:
    """What copying the input between its padding costs, for each band and its neighbours' rows."""
    if not any(problem.window.padding):
        return 0.0
    bands = shares.bands if shares.parts == 1 else 1
    band = _band_nbytes(Shares(bands, 1), problem)
    return problem.batch * bands * band / _COPY_NBYTES_PER_CYCLE


def _band_nbytes(shares: Shares, problem: Problem) -> int:
    """The input of a band of rows."""
    rows = problem.window.reach(0, math.ceil(problem.height / shares.bands))
    columns = problem.window.reach(1, problem.width)
    return FLOAT32_NBYTES * problem.groups * problem.channels * rows * columns
