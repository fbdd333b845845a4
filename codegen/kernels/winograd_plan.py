# pyright: reportMissingTypeStubs=false
# TVM ships no types
"""How to divide a Winograd convolution, and whether it beats the direct one: counted, not tried.

Times are in cycles of a core that starts two vector multiply-adds and two vector loads in each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from partc.codegen.kernels.common import (
    L2_NBYTES_PER_CYCLE,
    L3_NBYTES_PER_CYCLE,
    PER_CYCLE,
    most_accumulators,
)
from partc.codegen.kernels.winograd_transform import KERNEL, TILES
from partc.codegen.machine import Machine

_IN_FLIGHT = 8  # independent multiply-adds that hide the latency of one
_MOST_BLOCKS = 4

# Fitted to timings of single layers on Zen 5, with vectors of 16, 8 and 4 lanes.
_MEMORY_NBYTES_PER_CYCLE = 10
_L3_TO_L2 = 16  # how much larger a third-level cache is taken to be
_TRANSFORM_CYCLES = 3  # for each vector of a transformed tile, in both dimensions together
_START_CYCLES = 12  # of a register tile: its zeros, and filling the pipelines
_PRODUCT_EFFICIENCY = 0.9
_DIRECT_EFFICIENCY = 0.95


@dataclass(frozen=True)
class Layer:
    """A 3x3 convolution with stride 1: batch, channels in and out, the plane that comes out."""

    batch: int
    channels: int
    out_channels: int
    height: int
    width: int

    def tiles(self, tile: int) -> tuple[int, int]:
        """How many tiles of the output lie below and beside each other."""
        return math.ceil(self.height / tile), math.ceil(self.width / tile)

    def in_blocks(self, machine: Machine) -> int:
        return math.ceil(self.channels / machine.lanes)

    def out_blocks(self, machine: Machine) -> int:
        return math.ceil(self.out_channels / machine.lanes)


@dataclass(frozen=True)
class Plan:
    """How tiles of the output are grouped.

    Args:
        tile: Height and width of an output tile.
        rows: Rows of tiles in a group, whose intermediates are in the cache together.
        columns: Columns of tiles in a group.
        pixels: Tiles that a register tile of the matrix product holds.
        blocks: Blocks of output channels that it holds.
        whole: Whether the whole input is transformed first, rather than each group before its
            matrix product. Then there is work in parallel where groups are few.
    """

    tile: int
    rows: int
    columns: int
    pixels: int
    blocks: int
    whole: bool

    @property
    def side(self) -> int:
        """Height and width of an input tile."""
        return self.tile + KERNEL - 1

    @property
    def register_tiles(self) -> int:
        """How many register tiles hold a group's tiles, for one output block."""
        return math.ceil(self.rows * self.columns / self.pixels)

    def groups(self, layer: Layer) -> tuple[int, int]:
        """How many groups lie below and beside each other."""
        tall, wide = layer.tiles(self.tile)
        return math.ceil(tall / self.rows), math.ceil(wide / self.columns)


def choose_winograd(layer: Layer, machine: Machine) -> int | None:
    """The output tile that makes a layer fastest, or None if direct convolution is faster.

    Weights are taken to come from memory: other layers' have displaced them from the caches.
    """

    def cycles(tile: int) -> float:
        plan = plan_winograd(layer, tile, machine)
        return _plan_cycles(layer, plan, machine) + _fetch_cycles(layer, plan.side, machine)

    best = min(TILES, key=cycles)
    return best if cycles(best) < _direct_cycles(layer, machine) else None


def plan_winograd(layer: Layer, tile: int, machine: Machine) -> Plan:
    """The fastest division of a layer into groups and register tiles."""
    return min(_plans(layer, tile, machine), key=lambda plan: _plan_cycles(layer, plan, machine))


def _plans(layer: Layer, tile: int, machine: Machine) -> Iterator[Plan]:
    tall, wide = layer.tiles(tile)
    shapes = [(rows, wide) for rows in _even_parts(tall)]
    shapes += [(1, columns) for columns in _even_parts(wide)[:-1]]
    for rows, columns in shapes:
        for pixels, blocks in _register_tiles(layer.out_blocks(machine), rows * columns, machine):
            for whole in (False, True):
                yield Plan(tile, rows, columns, pixels, blocks, whole)


def _even_parts(size: int) -> list[int]:
    """The sizes of the largest part when something is divided as evenly as it can be."""
    return sorted({math.ceil(size / parts) for parts in range(1, size + 1)})


def _register_tiles(out_blocks: int, tiles: int, machine: Machine) -> Iterator[tuple[int, int]]:
    """Every (pixels, blocks) that leaves registers for weights, a pixel and one number more."""
    for blocks in (count for count in range(1, _MOST_BLOCKS + 1) if out_blocks % count == 0):
        most = min(most_accumulators(machine), machine.registers - blocks - 2) // blocks
        for pixels in range(1, min(most, tiles) + 1):
            yield pixels, blocks


def _plan_cycles(layer: Layer, plan: Plan, machine: Machine) -> float:
    """The time of a core of two, which share the work as evenly as its parts allow."""
    groups = layer.batch * math.prod(plan.groups(layer))
    product = max(_product_cycles(layer, plan, machine), _weight_cycles(layer, plan.side, machine))
    group = product + _spill_cycles(layer, plan, machine) + _transform_cycles(layer, plan, machine)
    parts = groups * (_steps(layer, plan, machine) if plan.whole else 1)
    return groups * group * math.ceil(parts / 2) * 2 / parts


def _product_cycles(layer: Layer, plan: Plan, machine: Machine) -> float:
    """The multiply-adds of one group."""
    accumulators = plan.pixels * plan.blocks
    issued = max(accumulators, plan.pixels + plan.blocks, _IN_FLIGHT) / PER_CYCLE
    register_tile = layer.channels * issued / _PRODUCT_EFFICIENCY + _START_CYCLES + accumulators
    return _steps(layer, plan, machine) * plan.side**2 * plan.register_tiles * register_tile


def _transform_cycles(layer: Layer, plan: Plan, machine: Machine) -> float:
    blocks = layer.in_blocks(machine) + layer.out_blocks(machine)
    tiles = plan.register_tiles * plan.pixels
    return _TRANSFORM_CYCLES * plan.side**2 * tiles * blocks


def _weight_cycles(layer: Layer, side: int, machine: Machine) -> float:
    """What it takes to read all weights once, which each group does."""
    nbytes = _weight_nbytes(layer, side, machine)
    if nbytes <= machine.l2_nbytes / 2:
        return nbytes / L2_NBYTES_PER_CYCLE
    if nbytes <= machine.l2_nbytes * _L3_TO_L2:
        return nbytes / L3_NBYTES_PER_CYCLE
    return nbytes / _MEMORY_NBYTES_PER_CYCLE


def _spill_cycles(layer: Layer, plan: Plan, machine: Machine) -> float:
    """What it takes to read a group's transformed input from behind the second-level cache."""
    tiles = plan.register_tiles * plan.pixels
    block_nbytes = plan.side**2 * tiles * machine.vector_nbytes
    nbytes = block_nbytes * layer.in_blocks(machine)
    held = nbytes * (math.prod(plan.groups(layer)) * layer.batch if plan.whole else 1)
    if held + block_nbytes * plan.blocks <= machine.l2_nbytes:
        return 0.0
    rate = L3_NBYTES_PER_CYCLE
    if held > machine.l2_nbytes * _L3_TO_L2 / 2:
        rate = _MEMORY_NBYTES_PER_CYCLE
    return nbytes * (1 + _steps(layer, plan, machine)) / rate


def _steps(layer: Layer, plan: Plan, machine: Machine) -> int:
    """How many times a group's transformed input is read."""
    return layer.out_blocks(machine) // plan.blocks


def _direct_cycles(layer: Layer, machine: Machine) -> float:
    vectors = layer.batch * layer.height * layer.width * layer.out_blocks(machine)
    products = vectors * layer.channels * KERNEL**2
    return products / PER_CYCLE / _DIRECT_EFFICIENCY + _fetch_cycles(layer, KERNEL, machine)


def _fetch_cycles(layer: Layer, side: int, machine: Machine) -> float:
    """What it takes to read the weights for the first time."""
    return _weight_nbytes(layer, side, machine) / _MEMORY_NBYTES_PER_CYCLE


def _weight_nbytes(layer: Layer, side: int, machine: Machine) -> int:
    return side**2 * layer.channels * layer.out_blocks(machine) * machine.vector_nbytes
