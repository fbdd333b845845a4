# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# TVM ships no types
"""The schedule of every function that has no anchor: vectors inside, threads outside.

It rests on one analysis: how far every access of a block moves in memory per step of each axis.
Axes that all accesses walk through as one are fused; what is contiguous becomes vector code; a
reduction keeps a tile of results in registers. A primitive that TVM refuses is left out: a schedule
may be slow, but it is there and it is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import tvm_ffi
from tvm import ir, sym, tirx
from tvm.s_tir import ScheduleError

from partc.codegen.kernels.common import (
    STACK,
    Block,
    Loop,
    Sch,
    extent,
    unroll_inner,
)
from partc.codegen.machine import Machine

INJECTIVE = "injective"
"""What :func:`schedule_default` calls a function that is element-wise or only moves data."""

DEFAULT = "default"
"""What it calls any other function."""

SERIAL_ELEMENTS = 1 << 15
"""Waking the other threads takes a few microseconds, in which one thread gets this far."""

_PARALLEL_STEPS = 16  # enough to divide evenly among a few threads
_LINE = 16  # float32 numbers in a cache line
_MOST_EDGES = 8  # of formulas along an axis, before code gets too long
_MOST_REPEATS = 8  # of what is read, before code gets too long
_MOST_ROWS = 4  # of a tile of results, which takes up to half of the registers
_MOST_PARTS = 4  # vectors of sums that do not wait for each other

_STEPS_A_PART = 8  # below which joining the parts takes longer than computing them

_SPATIAL, _REDUCED = tirx.IterVar.DataPar, tirx.IterVar.CommReduce
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)
_DIVISIONS = (tirx.FloorDiv, tirx.Div)

Expr: TypeAlias = Any


def schedule_default(schedule: Sch, machine: Machine) -> str:
    """Schedule every block of a function.

    Args:
        schedule: Of a function with static shapes; each block is an element-wise or other
            injective computation, a reduction, or left as it is.
        machine: What to schedule for.

    Returns:
        ``INJECTIVE`` or ``DEFAULT``.
    """
    _inline_injective(schedule)
    kinds = [_schedule_block(schedule, block, machine) for block in _blocks(schedule)]
    return INJECTIVE if set(kinds) == {INJECTIVE} else DEFAULT


def _blocks(schedule: Sch) -> list[Block]:
    """The blocks of a function; none of one that was written out whole, as a single block."""
    (function,) = schedule.mod.functions.values()
    root = schedule.get_sblock(function.body.block.name_hint)
    return list(schedule.get_child_blocks(root))


def _schedule_block(schedule: Sch, block: Block, machine: Machine) -> str:
    axes = _axes(schedule, block)
    if not axes:
        return DEFAULT
    if all(axis.spatial for axis in axes):
        _schedule_injective(schedule, axes, machine)
        return INJECTIVE
    _schedule_reduction(schedule, block, axes, machine)
    return DEFAULT


# What a block does --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """A loop over one iterator of a block.

    Args:
        loop: The loop.
        extent: How often it runs.
        innermost: How often it ran before it was fused with loops around it. Indices of what was
            fused are simplified only if vectors divide that.
        spatial: Whether its steps are independent of each other.
        strides: By how many elements each access moves per step, the write first; None where
            that is not one number.
        edges: Between which steps the value changes from one formula to another.
        conditional: Whether the value depends on the step by more than what is read.
        repeats: How many steps one after the other read the same, as in an enlarged image.
    """

    loop: Loop
    extent: int
    innermost: int
    spatial: bool
    strides: tuple[int | None, ...]
    edges: tuple[int, ...]
    conditional: bool
    repeats: int

    @property
    def contiguous(self) -> bool:
        """Whether the write moves by one element, and each read by one or not at all."""
        return self.strides[0] == 1 and set(self.strides) <= {0, 1}

    def continues(self, outer: _Axis) -> bool:
        """Whether all accesses walk through this axis and the one around it as through one."""
        if 1 in (self.extent, outer.extent):
            return True
        joined = all(
            near is not None and far == near * self.extent
            for near, far in zip(self.strides, outer.strides, strict=True)
        )
        return joined and not (self.conditional or outer.conditional)


def _axes(schedule: Sch, block: Block) -> list[_Axis]:
    """The axes of a block that stores one value per step; none of any other block."""
    statement = schedule.get(block)
    loops = list(schedule.get_loops(block))
    iterators = list(statement.iter_vars)
    known = all(isinstance(schedule.get(loop).extent, tirx.IntImm) for loop in loops)
    plain = {int(iterator.iter_type) for iterator in iterators} <= {_SPATIAL, _REDUCED}
    stores = isinstance(statement.body, tirx.BufferStore)
    if not (loops and known and plain and stores and len(loops) == len(iterators)):
        return []
    accesses = _Accesses(statement.body, iterators)
    return [
        _Axis(
            loop,
            extent(schedule, loop),
            extent(schedule, loop),
            int(iterator.iter_type) == _SPATIAL,
            accesses.strides(iterator.var),
            accesses.edges(iterator.var, extent(schedule, loop)),
            accesses.decide(iterator.var),
            accesses.repeats(iterator.var),
        )
        for loop, iterator in zip(loops, iterators, strict=True)
    ]


class _Accesses:
    """What a block reads and writes, and on what conditions."""

    def __init__(self, store: Any, iterators: Sequence[Any]) -> None:
        self._analyzer: Any = sym.Analyzer()
        for iterator in iterators:
            self._analyzer.bind(iterator.var, iterator.dom)
        self._offsets = [self._offset(store.buffer, store.indices)]
        self._others: list[Expr] = []
        self._comparisons: list[Any] = []
        self._divisions: list[Any] = []
        callbacks = [(_COMPARISONS, self._comparisons.append), (_DIVISIONS, self._divisions.append)]
        tvm_ffi.structural_walk(store.value, callbacks)
        callbacks = [(ir.TensorLoad, self._keep), (tirx.Var, self._others.append)]
        tvm_ffi.structural_walk(store.value, callbacks, order="pre")

    def strides(self, variable: Expr) -> tuple[int | None, ...]:
        return tuple(_coefficient(offset, variable) for offset in self._offsets)

    def edges(self, variable: Expr, extent: int) -> tuple[int, ...]:
        found = {edge for each in self._comparisons for edge in _edges(each, variable)}
        return tuple(sorted(edge for edge in found if 0 < edge < extent))

    def decide(self, variable: Expr) -> bool:
        return any(each.same_as(variable) for each in self._others)

    def repeats(self, variable: Expr) -> int:
        divisors = [
            int(each.b)
            for each in self._divisions
            if each.a.same_as(variable) and isinstance(each.b, tirx.IntImm)
        ]
        return min(divisors, default=1)

    def _keep(self, load: Any) -> Any:
        self._offsets.append(self._offset(load.source, load.indices))
        return tvm_ffi.structural.WalkResult.SKIP

    def _offset(self, buffer: Any, indices: Sequence[Expr]) -> Expr:
        offset: Expr = 0
        for size, index in zip(buffer.shape, indices, strict=True):
            offset = offset * size + index
        return self._analyzer.simplify(offset)


def _coefficient(offset: Expr, variable: Expr) -> int | None:
    linear = sym.detect_linear_equation(offset, [variable])
    return int(linear[0]) if linear and isinstance(linear[0], tirx.IntImm) else None


def _edges(comparison: Any, variable: Expr) -> list[int]:
    """Where a comparison of an iterator with a number changes its mind."""
    a, b = comparison.a, comparison.b
    if a.same_as(variable) and isinstance(b, tirx.IntImm):
        return [int(b) + isinstance(comparison, (tirx.LE, tirx.GT))]
    if b.same_as(variable) and isinstance(a, tirx.IntImm):
        return [int(a) + isinstance(comparison, (tirx.LT, tirx.GE))]
    return []


# Element by element -------------------------------------------------------------------------------


def _inline_injective(schedule: Sch) -> None:
    """Compute what is only read by injective blocks where it is read, unless that costs more."""
    for block in _blocks(schedule):
        consumers = schedule.get_consumers(block)
        if consumers and _inlines(schedule, block, consumers):
            with suppress(ScheduleError):
                schedule.compute_inline(block)


def _inlines(schedule: Sch, block: Block, consumers: Sequence[Block]) -> bool:
    iterators = schedule.get(block).iter_vars
    readers = [schedule.get(consumer).iter_vars for consumer in consumers]
    if not all(int(each.iter_type) == _SPATIAL for each in iterators):
        return False
    if _is_cheap(schedule.get(block).body):
        return all(int(each.iter_type) == _SPATIAL for reader in readers for each in reader)
    return sum(_volume(reader) for reader in readers) <= _volume(iterators)


def _volume(iterators: Sequence[Any]) -> int:
    return math.prod(int(each.dom.extent) for each in iterators)


def _is_cheap(body: Any) -> bool:
    """Whether computing a value again costs no more than reading it would."""
    operators: list[Any] = []
    tvm_ffi.structural_walk(body, [((ir.Call, tirx.Div), operators.append)])
    return all(isinstance(each, ir.Call) and _is_choice(each) for each in operators)


def _is_choice(call: Any) -> bool:
    return str(getattr(call.op, "name", "")).endswith("if_then_else")


def _schedule_injective(schedule: Sch, axes: Sequence[_Axis], machine: Machine) -> None:
    """Vectors along the last axis, threads over the first ones."""
    merged = _merge(schedule, axes)
    loops = [axis.loop for axis in merged]
    with suppress(ScheduleError):
        loops = _arrange_inner(schedule, merged, machine)
    if math.prod(axis.extent for axis in merged) >= SERIAL_ELEMENTS:
        _parallelize(schedule, loops)


def _arrange_inner(schedule: Sch, axes: Sequence[_Axis], machine: Machine) -> list[Loop]:
    """Turn the last axis into vector code, and return the loops around it."""
    *outer, inner = axes
    loops = [axis.loop for axis in outer]
    across = next((axis for axis in outer if 1 in axis.strides[1:]), None)
    if outer and 0 < len(inner.edges) <= _MOST_EDGES:
        sizes = [end - begin for begin, end in pairwise((0, *inner.edges))]
        schedule.loop_partition(inner.loop, [*sizes, None])
        return loops
    if inner.contiguous and not inner.conditional:
        return [*loops, _vectorize(schedule, inner, machine)]
    if 1 < inner.repeats <= _MOST_REPEATS and inner.innermost % inner.repeats == 0:
        steps, same = schedule.split(inner.loop, [None, inner.repeats])
        schedule.unroll(same)
        return [*loops, steps]
    if across and not (inner.contiguous or across.innermost % _LINE or inner.innermost % _LINE):
        return _tile_transposed(schedule, outer, across, inner)
    return [*loops, inner.loop]


def _vectorize(schedule: Sch, axis: _Axis, machine: Machine) -> Loop:
    """Step through an axis in vectors; LLVM does better than a predicate if lanes do not fit."""
    if axis.innermost % machine.lanes:
        return axis.loop
    steps, vector = schedule.split(axis.loop, [None, machine.lanes])
    schedule.vectorize(vector)
    return steps


def _tile_transposed(
    schedule: Sch, outer: Sequence[_Axis], across: _Axis, inner: _Axis
) -> list[Loop]:
    """Walk in squares through what is read along another axis than it is written."""
    far, near = schedule.split(across.loop, [None, _LINE])
    steps, row = schedule.split(inner.loop, [None, _LINE])
    loops = [*(axis.loop for axis in outer if axis is not across), far, steps]
    schedule.reorder(*loops, near, row)
    return loops


def _merge(schedule: Sch, axes: Sequence[_Axis]) -> list[_Axis]:
    """Fuse neighbouring axes that are one walk through memory."""
    merged: list[_Axis] = []
    for axis in axes:
        if merged and axis.spatial == merged[-1].spatial and axis.continues(merged[-1]):
            merged.append(_fuse(schedule, merged.pop(), axis))
        else:
            merged.append(axis)
    return merged


def _fuse(schedule: Sch, outer: _Axis, inner: _Axis) -> _Axis:
    moving = outer if inner.extent == 1 else inner
    loop = schedule.fuse(outer.loop, inner.loop)
    return replace(moving, loop=loop, extent=outer.extent * inner.extent)


def _parallelize(schedule: Sch, loops: Sequence[Loop]) -> None:
    """Share the outermost loops out, as few of them as make enough steps."""
    chosen: list[Loop] = []
    for loop in loops:
        chosen.append(loop)
        if math.prod(extent(schedule, each) for each in chosen) >= _PARALLEL_STEPS:
            break
    if chosen:
        with suppress(ScheduleError):
            schedule.parallel(schedule.fuse(*chosen))


# Reductions ---------------------------------------------------------------------------------------


def _schedule_reduction(
    schedule: Sch, block: Block, axes: Sequence[_Axis], machine: Machine
) -> None:
    """Independent sums side by side in a vector: those of neighbours, or parts of the same one."""
    spatial = [axis for axis in axes if axis.spatial and axis.extent > 1]
    reduced = [axis for axis in axes if not axis.spatial]
    parallel = math.prod(axis.extent for axis in axes) >= SERIAL_ELEMENTS
    with suppress(ScheduleError):
        if spatial and _walks(spatial[-1]):
            _reduce_side_by_side(schedule, block, spatial, reduced, parallel, machine)
        elif _walks(reduced[-1]) and reduced[-1].extent % machine.lanes == 0:
            _reduce_in_parts(schedule, block, spatial, reduced, parallel, machine)
        elif parallel:
            _parallelize(schedule, [axis.loop for axis in spatial])


def _walks(axis: _Axis) -> bool:
    """Whether each read moves by one element or not at all along an axis, and some read moves."""
    return set(axis.strides[1:]) <= {0, 1} and 1 in axis.strides and not axis.conditional


def _reduce_side_by_side(
    schedule: Sch,
    block: Block,
    spatial: Sequence[_Axis],
    reduced: Sequence[_Axis],
    parallel: bool,
    machine: Machine,
) -> None:
    *outer, inner = spatial
    loops, tile = [axis.loop for axis in outer], [inner.loop]
    if inner.extent % machine.lanes == 0:
        loops, tile = _split_tile(schedule, outer, inner, machine)
    schedule.reorder(*loops, *(axis.loop for axis in reduced), *tile)
    if len(tile) > 1:
        written = schedule.cache_write(block, 0, STACK)
        schedule.reverse_compute_at(written, loops[-1])
        schedule.split(schedule.get_loops(written)[-1], [None, machine.lanes])
        unroll_inner(schedule, written, len(tile) - 1)
        unroll_inner(schedule, block, len(tile) - 1)
    if parallel:
        _parallelize(schedule, loops)
    initial = schedule.decompose_reduction(block, reduced[0].loop)
    if len(tile) > 1:
        unroll_inner(schedule, initial, len(tile) - 1)


def _split_tile(
    schedule: Sch, outer: Sequence[_Axis], inner: _Axis, machine: Machine
) -> tuple[list[Loop], list[Loop]]:
    """Loops over tiles and in one: vectors side by side, times rows that read the same vectors."""
    room = machine.registers // 2 // _MOST_ROWS
    vectors = _largest_divisor(inner.extent // machine.lanes, room)
    steps, *columns = schedule.split(inner.loop, [None, vectors, machine.lanes])
    shared = next((axis for axis in reversed(outer) if _shares(axis, inner)), None)
    loops = [axis.loop for axis in outer if axis is not shared]
    if shared is None:
        return [*loops, steps], columns
    rows = _largest_divisor(shared.extent, _MOST_ROWS)
    far, near = schedule.split(shared.loop, [None, rows])
    return [*loops, far, steps], [near, *columns]


def _shares(axis: _Axis, inner: _Axis) -> bool:
    """Whether steps along an axis read the same vectors."""
    return any(
        here == 0 and there == 1
        for here, there in zip(axis.strides[1:], inner.strides[1:], strict=True)
    )


def _largest_divisor(number: int, most: int) -> int:
    return next(divisor for divisor in range(most, 0, -1) if number % divisor == 0)


def _reduce_in_parts(
    schedule: Sch,
    block: Block,
    spatial: Sequence[_Axis],
    reduced: Sequence[_Axis],
    parallel: bool,
    machine: Machine,
) -> None:
    steps = reduced[-1].extent // machine.lanes
    vectors = _largest_divisor(steps, min(_MOST_PARTS, math.ceil(steps / _STEPS_A_PART)))
    _, part = schedule.split(reduced[-1].loop, [None, vectors * machine.lanes])
    parts = schedule.rfactor(part, 0)
    schedule.set_scope(parts, 0, STACK)
    outer = schedule.get_loops(block)[:-1]
    if spatial:
        schedule.compute_at(parts, outer[-1])
        if parallel:
            _parallelize(schedule, outer)
    outer = schedule.get_loops(block)[:-1]
    inner = schedule.get_loops(parts)[len(outer) :]
    if spatial:
        inner = [*inner[1:], inner[0]]
        schedule.reorder(*inner)
    schedule.vectorize(inner[-1])
    initial = schedule.decompose_reduction(parts, inner[0])
    schedule.vectorize(schedule.get_loops(initial)[-1])
