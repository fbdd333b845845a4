# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""Matrix products, of activations by weights or by each other: a tile of the result in registers.

The right operand is arranged in panels, a few vectors of columns each, so that the innermost loop
walks along memory (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
2008). Weights are arranged at compile time, activations in the kernel, which keeps them in the
cache. The left operand is read as it is, one number at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx
from tvm.tirx import IndexMap

from partc.codegen.kernels.common import (
    PARTITION,
    Block,
    Loop,
    Sch,
    anchor_attrs,
    divisors,
    extent,
    fuse_tail,
    most_accumulators,
    round_up,
    tile_of,
    unroll_inner,
)
from partc.codegen.machine import FLOAT32_NBYTES, Machine

RULE = "matmul"

_MOST_ROWS = 12  # each may need an address of its own
_MOST_BLOCKS = 8  # 512 bytes of AVX-512 vectors
_LATENCY_HIDDEN = 8  # independent multiply-adds that keep two pipelines of four stages busy
_ENOUGH_PARTS = 8  # for a few threads to share, whatever their number


@dataclass(frozen=True)
class Tile:
    """What stays in registers: rows, times blocks of columns that fill a vector each."""

    rows: int
    blocks: int

    @property
    def accumulators(self) -> int:
        return self.rows * self.blocks

    @property
    def loads(self) -> int:
        """What is read in each step; vectors may have to come from the second-level cache."""
        return self.rows + 2 * self.blocks


def choose_tile(machine: Machine, rows: int, blocks: int) -> Tile:
    """The tile that keeps the multiply-add units busiest on so many rows and blocks of columns."""
    return max(
        _tiles(machine, rows, blocks),
        key=lambda tile: (_efficiency(tile, rows, blocks), tile.accumulators, -tile.loads),
    )


def _tiles(machine: Machine, rows: int, blocks: int) -> Iterator[Tile]:
    """Every tile whose accumulators and operands fit the registers."""
    for width in range(1, min(blocks, _MOST_BLOCKS) + 1):
        for height in range(1, min(rows, _MOST_ROWS) + 1):
            # What only one row multiplies is never held; one register spreads what is not taken
            # from memory, one is for a product that is not yet added.
            held = (width if height > 1 else 1) + (1 if machine.broadcasts else 2)
            room = min(machine.registers - held, most_accumulators(machine))
            if height * width <= max(room, 1):
                yield Tile(height, width)


def _efficiency(tile: Tile, rows: int, blocks: int) -> float:
    """The share of the peak that a tile can reach.

    Two multiply-adds and two loads are issued a cycle; fewer multiply-adds than
    ``_LATENCY_HIDDEN`` wait for each other. Counting steps takes time as well.
    """
    work = round_up(rows, tile.rows) * round_up(blocks, tile.blocks)
    cost = max(tile.accumulators, tile.loads, _LATENCY_HIDDEN) + 1
    return tile.accumulators / cost * rows * blocks / work


@dataclass(frozen=True)
class _Extents:
    """A product's axes: those of the stack, those that are rows, the columns and what is summed."""

    stack: list[int]
    rows: list[int]
    columns: int
    depth: int

    def tile(self, machine: Machine) -> Tile:
        return choose_tile(machine, math.prod(self.rows), math.ceil(self.columns / machine.lanes))


def _stack_of(leading: Sequence[int]) -> tuple[list[int], list[int]]:
    """Divide leading axes into those of a stack and those that together are the rows.

    Only one axis of the rows is longer than 1: TVM would not see that a tile which spans two is
    still a rectangle.
    """
    longer = [index for index, size in enumerate(leading) if size > 1]
    first = longer[-1] if len(longer) > 1 else 0
    return list(leading[:first]), list(leading[first:])


def pack_weight(weight: NDArray[Any], panel: int) -> NDArray[Any]:
    """Arrange (K, N) as (N/panel, K, panel), with zeros behind N."""
    depth, columns = weight.shape
    padded = np.zeros((depth, round_up(columns, panel)), weight.dtype)
    padded[:, :columns] = weight
    return np.ascontiguousarray(padded.reshape(depth, -1, panel).transpose(1, 0, 2))


def dense(data: te.Tensor, weight: te.Tensor, units: int, machine: Machine) -> te.Tensor:
    """Multiply rows by a constant matrix.

    Args:
        data: (..., M, K).
        weight: What :func:`pack_weight` returned, (N/panel, K, panel), for the panel that
            :func:`panel_width` returned.
        units: N.
        machine: What to choose the tile for.

    Returns:
        (..., M, N).
    """
    *leading, depth = _shape(data)
    stack, rows = _stack_of(leading)
    return _product(
        _Extents(stack, rows, units, depth),
        machine,
        lambda z, row, k: data(*_unflatten(z, stack), *_unflatten(row, rows), k),
        lambda _, part, k, column: weight(part, k, column),
    )


def panel_width(shape: Sequence[int], units: int, machine: Machine) -> int:
    """How wide panels of weights are to be, for data of a shape (..., M, K) and N units."""
    *leading, depth = shape
    return _Extents(*_stack_of(leading), units, depth).tile(machine).blocks * machine.lanes


def matmul(a: te.Tensor, b: te.Tensor, machine: Machine) -> te.Tensor:
    """Multiply stacks of matrices, which broadcast against each other as NumPy's do.

    Args:
        a: (..., M, K).
        b: (..., K, N).
        machine: What to choose the tile for.

    Returns:
        (..., M, N).
    """
    *batch_a, height, depth = _shape(a)
    *batch_b, _, columns = _shape(b)
    batch = list(np.broadcast_shapes(tuple(batch_a), tuple(batch_b)))
    shared = math.prod(batch_b) == 1
    stack, rows = _stack_of([*batch, height]) if shared else (batch, [height])
    extents = _Extents(stack, rows, columns, depth)
    panel = extents.tile(machine).blocks * machine.lanes

    def left(z: Any, row: Any, k: Any) -> Any:
        return a(*_broadcast(_unflatten(z, stack) + _unflatten(row, rows), [*batch_a, height]), k)

    def right(z: Any, k: Any, column: Any) -> Any:
        return b(*_broadcast(_unflatten(z, [] if shared else stack), batch_b), k, column)

    packed = _packed(right, (1 if shared else math.prod(stack), columns, depth), panel)
    return _product(
        extents,
        machine,
        left,
        lambda z, part, k, column: packed(0 if shared else z, part, k, column),
    )


def _packed(
    entry: Callable[[Any, Any, Any], Any], shape: tuple[int, int, int], panel: int
) -> te.Tensor:
    """The right operand in panels, with zeros behind its columns."""
    batch, columns, depth = shape

    def at(z: Any, part: Any, k: Any, lane: Any) -> Any:
        column = part * panel + lane
        if columns % panel == 0:
            return entry(z, k, column)
        return tirx.if_then_else(column < columns, entry(z, k, column), 0.0)

    return _compute((batch, math.ceil(columns / panel), depth, panel), at, "packed")


def _product(
    extents: _Extents,
    machine: Machine,
    left: Callable[[Any, Any, Any], Any],
    right: Callable[[Any, Any, Any, Any], Any],
) -> te.Tensor:
    """The anchor, whose rows are repeated to fill the last tile, and what is left of it.

    Args:
        extents: The product's axes.
        machine: What to choose the tile for.
        left: The left operand at (matrix, row, k).
        right: The right operand at (matrix, panel, k, column of the panel).
    """
    tile = extents.tile(machine)
    panel = tile.blocks * machine.lanes
    rows, columns = math.prod(extents.rows), extents.columns
    padded = round_up(rows, tile.rows)
    # The schedule sets the last panel apart only where there are several tiles of rows.
    skips = padded > tile.rows and math.ceil(columns / machine.lanes) % tile.blocks > 0
    k = te.reduce_axis((0, extents.depth), "k")

    def multiply_add(z: Any, row: Any, part: Any, column: Any) -> Any:
        row = row if padded == rows else te.min(row, rows - 1)
        product = left(z, row, k) * right(z, part, k, column)
        if skips:
            block = part * tile.blocks + column // machine.lanes
            product = tirx.if_then_else(block * machine.lanes < columns, product, 0.0)
        return te.sum(product, axis=k)

    product = _compute(
        (math.prod(extents.stack), padded, math.ceil(columns / panel), panel),
        multiply_add,
        "product",
        attrs=anchor_attrs(RULE, (tile.rows,)),
    )
    first_row = len(extents.stack)

    def cropped(*at: Any) -> Any:
        z = _flatten(at[:first_row], extents.stack)
        row = _flatten(at[first_row:-1], extents.rows)
        return product(z, row, at[-1] // panel, at[-1] % panel)

    return _compute((*extents.stack, *extents.rows, columns), cropped, "cropped")


def _compute(shape: tuple[int, ...], at: Callable[..., Any], name: str, **attrs: Any) -> te.Tensor:
    tensor: Any = te.compute(shape, at, name=name, **attrs)  # whose declared type is wrong
    return tensor


def _shape(tensor: Any) -> list[int]:
    return [int(size) for size in tensor.shape]


def _flatten(at: Sequence[Any], shape: Sequence[int]) -> Any:
    """The index into all of some axes as one; what TVM need not simplify is left out."""
    flat: Any = None
    for index, size in zip(at, shape, strict=True):
        if size > 1:
            flat = index if flat is None else flat * size + index
    return flat if flat is not None else at[-1] if at else 0


def _unflatten(flat: Any, shape: Sequence[int]) -> list[Any]:
    at: list[Any] = []
    for size in reversed(shape[1:]):
        at.insert(0, flat % size)
        flat = flat // size
    return [flat, *at] if shape else []


def _broadcast(at: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """The index into something of a shape that is broadcast to more or longer axes."""
    last = [0] * len(shape) + list(at)
    return [0 if size == 1 else each for each, size in zip(last[len(at) :], shape, strict=True)]


def schedule_matmul(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """Tiles in registers; parts of the batch, of the rows and of the columns in parallel."""
    (tile_rows,) = tile_of(schedule, anchor)
    lanes = machine.lanes
    batch, rows, panels, panel, depth = (
        int(axis.dom.extent) for axis in schedule.get(anchor).iter_vars
    )
    packing = schedule.get_producers(anchor)
    tail = fuse_tail(schedule, anchor)
    z, row, column = _matrix_loops(schedule, tail, batch)
    ragged = extent(schedule, column) % panel > 0
    whole = _Part(rows // tile_rows, panels)
    alone = batch >= _ENOUGH_PARTS and any(_batch(schedule, each) == batch for each in packing)
    tile_nbytes = tile_rows * depth * FLOAT32_NBYTES
    part = whole if alone else _split(whole, batch, ragged, machine.l2_nbytes // 2 // tile_nbytes)
    row_part, row_tile, row_inner = schedule.split(row, [None, part.row_tiles, tile_rows])
    panel_part, panel_inner, block, lane = schedule.split(
        column, [None, part.panels, panel // lanes, lanes]
    )
    schedule.reorder(z, row_part, panel_part, panel_inner, row_tile, row_inner, block, lane)
    outermost = schedule.fuse(z, row_part, panel_part)
    schedule.parallel(outermost)
    schedule.compute_at(anchor, row_tile, preserve_unit_loops=True)
    if ragged and part.panels > 1:
        schedule.annotate(panel_inner, PARTITION, 1)
    for producer in packing:
        if alone:
            schedule.compute_at(producer, outermost, preserve_unit_loops=True)
        _schedule_packing(schedule, producer, lanes)
    _schedule_product(schedule, anchor, lanes)
    unroll_inner(schedule, tail, 2)


def _batch(schedule: Sch, block: Block) -> int:
    return int(schedule.get(block).iter_vars[0].dom.extent)


@dataclass(frozen=True)
class _Part:
    """What one thread does at a time of one matrix of the batch."""

    row_tiles: int
    panels: int


def _split(whole: _Part, batch: int, ragged: bool, cached_tiles: int) -> _Part:
    """Divide matrices among threads.

    Every panel passes over the rows of a part, which therefore are to stay in the cache. Where the
    last panel is ragged, a part has several panels, of which the last can be set apart.
    """
    together = ragged and whole.row_tiles > 1
    panels = next((each for each in divisors(whole.panels) if each > together), whole.panels)
    counts = (
        (row_tiles, batch * (whole.row_tiles // row_tiles) * (whole.panels // panels))
        for row_tiles in reversed(divisors(whole.row_tiles))
        if row_tiles <= cached_tiles
    )
    fair = (tiles for tiles, parts in counts if parts >= _ENOUGH_PARTS or parts % 2 == 0)
    return _Part(next(fair, 1), panels)


def _matrix_loops(schedule: Sch, tail: Block, batch: int) -> tuple[Loop, Loop, Loop]:
    """The loops of the result as (batch, row, column).

    The block's axes are fused, not its loops: what it reads of the product then remains a
    rectangle.
    """
    axes = schedule.get(tail).iter_vars
    sizes = [int(axis.dom.extent) for axis in axes]
    first_row = next(each for each in range(len(sizes)) if math.prod(sizes[:each]) == batch)

    def fused(*at: Any) -> list[Any]:
        parts = [slice(0, first_row), slice(first_row, -1)]
        return [*(_flatten(at[part], sizes[part]) for part in parts if sizes[part]), at[-1]]

    index_map = IndexMap.from_func(fused, len(sizes), index_dtype=str(axes[0].var.ty.dtype))
    schedule.transform_block_layout(tail, index_map)
    *stack, row, column = schedule.get_loops(tail)
    return (stack[0] if stack else schedule.add_unit_loop(row)), row, column


def _schedule_product(schedule: Sch, anchor: Block, lanes: int) -> None:
    z, row, panel, column, k = schedule.get_loops(anchor)[-5:]
    block, lane = schedule.split(column, [None, lanes])
    schedule.reorder(z, panel, k, row, block, lane)
    unroll_inner(schedule, anchor, 2)
    initial = schedule.decompose_reduction(anchor, k)
    unroll_inner(schedule, initial, 2)


def _schedule_packing(schedule: Sch, packed: Block, lanes: int) -> None:
    outer = schedule.get_loops(packed)[:-4]
    z, panel, _, column = schedule.get_loops(packed)[-4:]
    schedule.split(column, [None, lanes])
    unroll_inner(schedule, packed, 1)
    if outer:
        schedule.annotate(panel, PARTITION, 1)
    else:
        schedule.parallel(schedule.fuse(z, panel))
