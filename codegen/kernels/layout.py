# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportReturnType=false
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# TVM ships no types
"""Between plain (N, C, H, W) and blocked (N, C/lanes, H, W, lanes) data, and other transpositions.

What is contiguous before and what is contiguous after are two axes. Tiles of lanes x lanes numbers
along them are read as vectors, transposed in registers and written as vectors. The last tile of an
axis that lanes does not divide is moved back so far that it ends with the axis: it writes some
numbers for the second time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tvm import te, tirx

from partc.codegen.kernels.common import Block, Sch, anchor_attrs
from partc.codegen.kernels.default import SERIAL_ELEMENTS
from partc.codegen.machine import Machine

RULE = "transposition"

_LINE = 16  # float32 numbers in a cache line
_UNIT = 4  # float32 numbers in 128 bits, within which every vector unit interleaves at full speed

# TVM's expressions, whose declared types are wrong.
Expr: TypeAlias = Any
Statement: TypeAlias = Any


def to_blocked(data: te.Tensor, machine: Machine) -> te.Tensor:
    """Gather the channels of a pixel in vectors.

    Args:
        data: (N, C, ...), float32.
        machine: Whose vectors.

    Returns:
        (N, C/lanes, ..., lanes). Lanes behind the last channel repeat it.
    """
    batch, channels, *plane = _shape(data)
    lanes, pixels = machine.lanes, math.prod(plane)
    blocks = math.ceil(channels / lanes)
    shape = (batch, blocks, *plane, lanes)

    def clamp(channel: Expr) -> Expr:
        return channel if channels % lanes == 0 else tirx.min(channel, channels - 1)

    if pixels < lanes:
        return te.compute(
            shape,
            lambda n, o, *at: data(n, clamp(o * lanes + at[-1]), *at[:-1]),
            name="to_blocked",
        )
    span = _span(pixels, lanes)

    def cell(source: Expr, target: Expr, image: Expr, block: Expr, step: Expr) -> Statement:
        begin = _begin(step, pixels, span)

        def load(channel: int, pixel: int) -> Expr:
            plane = image * channels + clamp(block * lanes + channel)
            return _load(source, plane * pixels + begin + pixel, lanes)

        def store(pixel: int, _: int, value: Expr) -> Statement:
            offset = (image * blocks + block) * pixels + begin + pixel
            return _store(target, offset * lanes, value, lanes)

        return _transpose_cell(lanes, (lanes, span), load, store)

    return _in_cells(data, shape, (batch, blocks, math.ceil(pixels / span)), cell, "to_blocked")


def to_plain(data: te.Tensor, channels: int, machine: Machine) -> te.Tensor:
    """Gather the pixels of a channel in rows.

    Args:
        data: (N, C/lanes, ..., lanes), float32.
        channels: C; what the lanes behind it hold is dropped.
        machine: Whose vectors.

    Returns:
        (N, C, ...).
    """
    batch, blocks, *plane, _ = _shape(data)
    lanes, pixels = machine.lanes, math.prod(plane)
    shape = (batch, channels, *plane)
    if pixels < lanes:
        return te.compute(
            shape, lambda n, c, *at: data(n, c // lanes, *at, c % lanes), name="to_plain"
        )
    span = _span(pixels, lanes)
    surely = channels - (blocks - 1) * lanes

    def cell(source: Expr, target: Expr, image: Expr, block: Expr, step: Expr) -> Statement:
        begin = _begin(step, pixels, span)

        def load(pixel: int, _: int) -> Expr:
            offset = (image * blocks + block) * pixels + begin + pixel
            return _load(source, offset * lanes, lanes)

        def store(lane: int, pixel: int, value: Expr) -> Statement:
            channel = block * lanes + lane
            offset = (image * channels + channel) * pixels + begin + pixel
            write = _store(target, offset, value, lanes)
            return write if lane < surely else tirx.IfThenElse(channel < channels, write, None)

        return _transpose_cell(lanes, (span, lanes), load, store)

    return _in_cells(data, shape, (batch, blocks, math.ceil(pixels / span)), cell, "to_plain")


def permute_dims(data: te.Tensor, axes: Sequence[int], machine: Machine) -> te.Tensor:
    """Reorder the axes of a float32 tensor: axis ``i`` of the result is ``axes[i]`` of the data.

    The result is marked as an anchor if it is transposed in registers. Otherwise whole rows move,
    or too little for a tile, and the default schedule does.
    """
    shape, permutation = _merge(_shape(data), axes)
    lanes, last = machine.lanes, len(shape) - 1
    if permutation[-1:] in ([], [last]) or min(shape[permutation[-1]], shape[last]) < lanes:
        return te.compute(
            [data.shape[axis] for axis in axes],
            lambda *at: data(*(at[axes.index(axis)] for axis in range(len(axes)))),
            name="permute_dims",
        )
    out_shape = [shape[axis] for axis in permutation]
    strides = [_strides(shape)[axis] for axis in permutation]
    out_strides = _strides(out_shape)
    row_axis, column_axis = len(out_shape) - 1, permutation.index(last)
    spans = [
        _span(size, lanes) if axis in (row_axis, column_axis) else 1
        for axis, size in enumerate(out_shape)
    ]

    def cell(source: Expr, target: Expr, *steps: Expr) -> Statement:
        at = [_begin(*each) for each in zip(steps, out_shape, spans, strict=True)]
        origin, out_origin = _dot(at, strides), _dot(at, out_strides)

        def load(row: int, column: int) -> Expr:
            return _load(source, origin + row * strides[row_axis] + column, lanes)

        def store(column: int, row: int, value: Expr) -> Statement:
            offset = out_origin + column * out_strides[column_axis] + row
            return _store(target, offset, value, lanes)

        return _transpose_cell(lanes, (spans[row_axis], spans[column_axis]), load, store)

    result = [int(data.shape[axis]) for axis in axes]
    cells = [math.ceil(size / span) for size, span in zip(out_shape, spans, strict=True)]
    return _in_cells(data, result, cells, cell, "permute_dims")


def schedule_transposition(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """Leave a transposition as it is: it was written as a loop over tiles."""


def _shape(data: te.Tensor) -> list[int]:
    return [int(size) for size in data.shape]


def _span(size: int, lanes: int) -> int:
    """How far a cell reaches along an axis: a cache line, so that none is fetched twice."""
    return _LINE if size >= _LINE else lanes


def _begin(step: Expr, size: int, span: int) -> Expr:
    """Where a cell begins along an axis."""
    return step * span if size % span == 0 else tirx.min(step * span, size - span)


def _load(source: Expr, offset: Expr, lanes: int) -> Expr:
    return tirx.BufferLoad(source, _flat(source, offset, lanes))


def _store(target: Expr, offset: Expr, value: Expr, lanes: int) -> Statement:
    return tirx.BufferStore(target, value, _flat(target, offset, lanes))


def _flat(buffer: Expr, offset: Expr, lanes: int) -> list[Expr]:
    """Indices of a vector at an offset from the beginning of a buffer: its rows are adjacent."""
    return [0] * (len(buffer.shape) - 1) + [tirx.Ramp(offset, 1, lanes)]


def _in_cells(
    data: te.Tensor,
    shape: Sequence[int],
    grid: Sequence[int],
    cell: Callable[..., Statement],
    name: str,
) -> te.Tensor:
    """A tensor that is computed by a parallel loop over a grid of cells."""

    def body(sources: Sequence[Expr], targets: Sequence[Expr]) -> Statement:
        index: Expr = tirx.Var("cell", "int32")
        steps = [index // stride % size for stride, size in zip(_strides(grid), grid, strict=True)]
        inner = cell(sources[0], targets[0], *steps)
        large = math.prod(shape) >= SERIAL_ELEMENTS
        kind = tirx.ForKind.PARALLEL if large else tirx.ForKind.SERIAL
        return tirx.For(index, 0, math.prod(grid), kind, inner)

    return te.extern(
        tuple(shape), [data], body, name=name, dtype="float32", attrs=anchor_attrs(RULE)
    )


def _transpose_cell(
    lanes: int,
    spans: tuple[int, int],
    load: Callable[[int, int], Expr],
    store: Callable[[int, int, Expr], Statement],
) -> Statement:
    """Transpose (rows, columns), tile by tile.

    Args:
        lanes: The rows and the columns of a tile.
        spans: How many rows and columns there are.
        load: What stands from (row, column) on, along the row.
        store: Writes from (column, row) on, along the column.
    """
    registers = _Registers(lanes)
    for row, column in itertools.product(*(range(0, span, lanes) for span in spans)):
        tile = [registers.bind(load(row + index, column)) for index in range(lanes)]
        for index, vector in enumerate(registers.transpose(tile)):
            registers.statements.append(store(column + index, row, vector))
    return tirx.SeqStmt(registers.statements)


class _Registers:
    """Code that shuffles vectors, and the vectors it has so far."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.statements: list[Statement] = []

    def bind(self, value: Expr) -> Expr:
        register: Expr = tirx.Var("v", f"float32x{self.lanes}")
        self.statements.append(tirx.Bind(register, value))
        return register

    def transpose(self, rows: Sequence[Expr]) -> list[Expr]:
        """Transpose as many vectors as each has lanes.

        Blocks of 4 x 4 first, by interleaving; then the matrix of these blocks, by taking even
        and odd blocks of neighbours apart.
        """
        quads = [rows[begin : begin + _UNIT] for begin in range(0, self.lanes, _UNIT)]
        interleaved = [self._interleave(*quad) for quad in quads]
        by_column = [self._deinterleave(column) for column in zip(*interleaved, strict=True)]
        return [column for block in zip(*by_column, strict=True) for column in block]

    def _interleave(self, a: Expr, b: Expr, c: Expr, d: Expr) -> list[Expr]:
        """Unit u of vector i of the result holds lane i of unit u of a, b, c and d."""
        ab, cd = self._zip(a, b, 1), self._zip(c, d, 1)
        return [
            vector for low, high in zip(ab, cd, strict=True) for vector in self._zip(low, high, 2)
        ]

    def _zip(self, a: Expr, b: Expr, width: int) -> list[Expr]:
        """Interleave the low halves of all units, then the high ones, ``width`` lanes at once."""
        half = _UNIT // 2
        return [
            self._shuffle(
                a,
                b,
                [
                    vector + unit + begin + at + lane
                    for unit in range(0, self.lanes, _UNIT)
                    for at in range(0, half, width)
                    for vector in (0, self.lanes)
                    for lane in range(width)
                ],
            )
            for begin in (0, half)
        ]

    def _deinterleave(self, vectors: Sequence[Expr]) -> list[Expr]:
        """Unit u of vector i of the result is unit i of vector u."""
        if len(vectors) == 1:
            return list(vectors)
        pairs = [self._split(*pair) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        even, odd = (self._deinterleave(half) for half in zip(*pairs, strict=True))
        return [vector for pair in zip(even, odd, strict=True) for vector in pair]

    def _split(self, a: Expr, b: Expr) -> list[Expr]:
        """The even units of two vectors, then the odd ones."""
        return [
            self._shuffle(
                a, b, [lane for lane in range(2 * self.lanes) if lane // _UNIT % 2 == odd]
            )
            for odd in (0, 1)
        ]

    def _shuffle(self, a: Expr, b: Expr, lanes: list[int]) -> Expr:
        return self.bind(tirx.Shuffle([a, b], lanes))


def _merge(shape: Sequence[int], axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Join axes that stay neighbours, and leave out those of one element."""
    kept = [axis for axis in axes if shape[axis] > 1]
    real = sorted(kept)
    runs: list[list[int]] = []
    for axis in kept:
        follows = runs and real.index(axis) == real.index(runs[-1][-1]) + 1
        runs[-1].append(axis) if follows else runs.append([axis])
    ordered = sorted(runs)
    sizes = [math.prod(shape[axis] for axis in run) for run in ordered]
    return sizes, [ordered.index(run) for run in runs]


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _dot(position: Sequence[Expr], strides: Sequence[int]) -> Expr:
    return sum(at * stride for at, stride in zip(position, strides, strict=True))
