# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# TVM ships no types
"""Reductions, one row of elements that are reduced together at a time.

A row is reduced in vectors of partial results, which are then folded. Where vectors do not divide
it, the last one starts early, so that everything is read in whole vectors: what it reads again
changes no maximum, and is kept out of a sum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tvm import te, tirx

from partc.codegen.kernels import mathematics
from partc.codegen.kernels.common import Block, Loop, Sch, anchor_attrs, extent, fuse_tail, tile_of
from partc.codegen.kernels.mathematics import Function, Scalar
from partc.codegen.kernels.vectors import vectorize_along
from partc.codegen.machine import Machine

RULE = "reduce"

# The annotation of a block before the anchor: whether it keeps the elements of all rows that are
# done together, rather than something of one row.
_STAGE = "partc.stage"
STAGE_ATTRS = {_STAGE: False}
ELEMENTS_ATTRS = {_STAGE: True}

# Cycles until an addition's result can be added to; as many vectors are summed side by side.
_LATENCY = 4
_FOLD = 4
_WIDEST = 8

# What is reduced: an element of a row, by the row's number and its position in the row.
Value: TypeAlias = Callable[[Sequence[Scalar], Scalar], Scalar]


@dataclass(frozen=True)
class Rows:
    """A tensor as rows of the elements that are reduced together.

    A row has an (outer, inner) number: along the axes before the last that is reduced, and along
    those behind it. Where the latter hold more than one, neighbours in memory belong to different
    rows, and a vector holds one position of several rows.

    Args:
        shape: Of the tensor.
        reduced: The axes that are reduced, in order.
    """

    shape: tuple[int, ...]
    reduced: tuple[int, ...]

    @property
    def outer(self) -> tuple[int, ...]:
        before = range(self.reduced[-1])
        return tuple(axis for axis in before if axis not in self.reduced)

    @property
    def inner(self) -> tuple[int, ...]:
        return tuple(range(self.reduced[-1] + 1, len(self.shape)))

    @property
    def count(self) -> tuple[int, int]:
        return self._size(self.outer), self._size(self.inner)

    @property
    def length(self) -> int:
        return self._size(self.reduced)

    def index(self, row: Sequence[Scalar], position: Scalar) -> list[Scalar]:
        """Where an element of a row is in the tensor."""
        index = self._along(self.outer, row[0]) | self._along(self.inner, row[1])
        index |= self._along(self.reduced, position)
        return [index[axis] for axis in range(len(self.shape))]

    def row_of(self, index: Sequence[Scalar]) -> tuple[Scalar, Scalar]:
        """In which row an element of the tensor is."""
        outer, inner = (flat_index(self.shape, axes, index) for axes in (self.outer, self.inner))
        return outer, inner

    def position_of(self, index: Sequence[Scalar]) -> Scalar:
        """Where in its row an element of the tensor is."""
        return flat_index(self.shape, self.reduced, index)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def _along(self, axes: Sequence[int], flat: Scalar) -> dict[int, Scalar]:
        index: dict[int, Scalar] = {}
        for axis in reversed(axes[1:]):
            index[axis] = flat % self.shape[axis]
            flat = flat // self.shape[axis]
        return index | dict.fromkeys(axes[:1], flat)


def flat_index(shape: Sequence[int], axes: Sequence[int], index: Sequence[Scalar]) -> Scalar:
    """The number of an element along some axes, taken together."""
    return functools.reduce(lambda flat, axis: flat * shape[axis] + index[axis], axes, 0)


@dataclass(frozen=True)
class Reducer:
    """A commutative operation, what it leaves as it is, and whether repetition changes nothing."""

    combine: Callable[[Scalar, Scalar], Scalar]
    identity: Callable[[str], Scalar]
    idempotent: bool = False

    def along(self, axis: Scalar, value: Scalar) -> Scalar:
        return te.comm_reducer(self.combine, self.identity)(value, axis=axis)


def _greatest(dtype: str, sign: int) -> Scalar:
    if dtype.startswith("float"):
        return tirx.const(sign * math.inf, dtype)
    return tirx.max_value(dtype) if sign > 0 else tirx.min_value(dtype)


SUM = Reducer(lambda a, b: a + b, lambda dtype: tirx.const(0, dtype))
_PRODUCT = Reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype))
MAXIMUM = Reducer(lambda a, b: tirx.max(a, b), lambda dtype: _greatest(dtype, -1), idempotent=True)
_MINIMUM = Reducer(lambda a, b: tirx.min(a, b), lambda dtype: _greatest(dtype, 1), idempotent=True)


@dataclass(frozen=True)
class Reduction:
    """Builds the stages that reduce rows to one number each."""

    rows: Rows
    machine: Machine
    keepdims: bool = True
    together: int = 1

    def of(
        self,
        reducer: Reducer,
        value: Value,
        name: str,
        *,
        finish: Function = lambda x: x,
        anchor: bool = False,
    ) -> te.Tensor:
        """Reduce ``value(row, position)`` over all positions of each row.

        Args:
            reducer: How.
            value: What.
            name: Of the result.
            finish: What to do with the result.
            anchor: Whether this is the last reduction.
        """
        attrs = anchor_attrs(RULE, self._plan) if anchor else STAGE_ATTRS
        partial = self._columns if self.rows.count[1] > 1 else self._vectors
        folded = partial(reducer, value, name)
        return te.compute(
            self.rows.count,
            lambda *row: finish(
                _tree(reducer, [folded(*row, lane) for lane in range(_last(folded))])
            ),
            name=name,
            attrs=attrs,
        )

    def mean(
        self,
        value: Value,
        name: str,
        *,
        finish: Function = lambda x: x,
        anchor: bool = False,
    ) -> te.Tensor:
        """The mean of ``value(row, position)`` over all positions of each row."""
        length = self.rows.length
        return self.of(SUM, value, name, finish=lambda sum_: finish(sum_ / length), anchor=anchor)

    @property
    def _plan(self) -> tuple[int, ...]:
        """How many rows to do together, how many outer axes there are, all that are kept."""
        kept = (*self.rows.outer, *self.rows.inner)
        if self.rows.count[1] == 1:
            kept = self.rows.outer
        axes = kept if self.keepdims else range(len(kept))
        return (self.together, len(self.rows.outer), *axes)

    def _columns(self, reducer: Reducer, value: Value, name: str) -> te.Tensor:
        position = te.reduce_axis((0, self.rows.length), "position")
        return te.compute(
            (*self.rows.count, 1),
            lambda *at: reducer.along(position, value(at[:-1], position)),
            name=f"{name}_columns",
            attrs=STAGE_ATTRS,
        )

    def _vectors(self, reducer: Reducer, value: Value, name: str) -> te.Tensor:
        length, width = self.rows.length, _width(self.rows.length, self.machine.lanes)
        group = te.reduce_axis((0, length // width), "group")

        def partial(*at: Scalar) -> Scalar:
            *row, lane = at
            return reducer.along(group, value(row, group * width + lane))

        partials = te.compute(
            (*self.rows.count, width), partial, name=f"{name}_vectors", attrs=STAGE_ATTRS
        )
        if length % width:
            partials = self._with_rest(reducer, value, partials, name)
        return self._fold(reducer, partials, name)

    def _with_rest(
        self, reducer: Reducer, value: Value, partials: te.Tensor, name: str
    ) -> te.Tensor:
        """What was left over too, in a vector that starts early enough to end with the row."""
        length, width = self.rows.length, _last(partials)

        def with_rest(*at: Scalar) -> Scalar:
            *row, lane = at
            element = value(row, length - width + lane)
            if not reducer.idempotent:
                identity = reducer.identity(str(element.ty.dtype))
                element = tirx.Select(lane >= width - length % width, element, identity)
            return reducer.combine(partials(*at), element)

        return te.compute(partials.shape, with_rest, name=f"{name}_rest", attrs=STAGE_ATTRS)

    def _fold(self, reducer: Reducer, partials: te.Tensor, name: str) -> te.Tensor:
        while _last(partials) > _FOLD:
            partials = self._fold_once(reducer, partials, name)
        return partials

    def _fold_once(self, reducer: Reducer, partials: te.Tensor, name: str) -> te.Tensor:
        width = _last(partials) // _FOLD

        def folded(*at: Scalar) -> Scalar:
            *row, lane = at
            return _tree(reducer, [partials(*row, lane + width * part) for part in range(_FOLD)])

        return te.compute(
            (*self.rows.count, width), folded, name=f"{name}_folded{width}", attrs=STAGE_ATTRS
        )


def _width(length: int, lanes: int) -> int:
    """How many partial results to keep: a power of 2, at most a row."""
    if length <= lanes:
        return 1 << (length.bit_length() - 1)
    vectors = [count for count in (1, 2, 4) if count * lanes <= length]
    return lanes * min(
        vectors, key=lambda count: math.ceil(length / (count * lanes)) * max(count, _LATENCY)
    )


def _last(tensor: te.Tensor) -> int:
    return int(tensor.shape[-1])


def _tree(reducer: Reducer, values: Sequence[Scalar]) -> Scalar:
    """Reduce pairwise, which keeps chains short and rounding errors small."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return reducer.combine(_tree(reducer, values[:half]), _tree(reducer, values[half:]))


def reduce(
    kind: str, x: te.Tensor, axes: Sequence[int], keepdims: bool, machine: Machine
) -> te.Tensor:
    """Reduce over axes.

    Args:
        kind: sum, mean, max, min, prod, variance, std, argmax or argmin; the last two give int64.
        x: Data of any shape.
        axes: What to reduce over; all if empty.
        keepdims: Whether reduced axes stay, with one element.
        machine: The CPU.
    """
    rows, reduction = rows_of(x, axes or range(len(x.shape)), machine)
    reduced = _KINDS[kind](replace(reduction, keepdims=keepdims), x)
    kept = (*rows.outer, *rows.inner)

    def result(*at: Scalar) -> Scalar:
        index = at if keepdims else _with_zeros(kept, at, len(rows.shape))
        return reduced(*rows.row_of(index))

    ones = tuple(size if axis in kept else 1 for axis, size in enumerate(rows.shape))
    shape = ones if keepdims else tuple(rows.shape[axis] for axis in kept)
    return te.compute(shape, result, name=kind)


def _with_zeros(axes: Sequence[int], index: Sequence[Scalar], ndim: int) -> list[Scalar]:
    given = dict(zip(axes, index, strict=True))
    return [given.get(axis, 0) for axis in range(ndim)]


_Kind: TypeAlias = Callable[[Reduction, te.Tensor], te.Tensor]


def _plain(reducer: Reducer) -> _Kind:
    return lambda reduction, x: reduction.of(
        reducer, element_of(reduction.rows, x), "reduced", anchor=True
    )


def _mean(reduction: Reduction, x: te.Tensor) -> te.Tensor:
    return reduction.mean(element_of(reduction.rows, x), "reduced", anchor=True)


def _variance(finish: Function) -> _Kind:
    def build(reduction: Reduction, x: te.Tensor) -> te.Tensor:
        element = element_of(reduction.rows, x)
        mean = reduction.mean(element, "mean_of_row")
        return reduction.mean(
            lambda row, position: mathematics.power(element(row, position) - mean(*row), 2),
            "reduced",
            finish=finish,
            anchor=True,
        )

    return build


def _position(reducer: Reducer) -> _Kind:
    """The first position that holds the best; the first of all if the row holds no number."""

    def build(reduction: Reduction, x: te.Tensor) -> te.Tensor:
        rows = reduction.rows
        best = reduction.of(reducer, element_of(rows, x), "best")
        end = tirx.const(rows.length, "int32")

        def candidate(row: Sequence[Scalar], position: Scalar) -> Scalar:
            at = tirx.Cast("int32", position)
            return tirx.Select(x(*rows.index(row, position)) == best(*row), at, end)

        return reduction.of(
            _MINIMUM,
            candidate,
            "reduced",
            finish=lambda at: tirx.Select(at < end, at, 0).astype("int64"),
            anchor=True,
        )

    return build


_KINDS: dict[str, _Kind] = {
    "sum": _plain(SUM),
    "mean": _mean,
    "prod": _plain(_PRODUCT),
    "max": _plain(MAXIMUM),
    "min": _plain(_MINIMUM),
    "variance": _variance(lambda variance: variance),
    "std": _variance(tirx.sqrt),
    "argmax": _position(MAXIMUM),
    "argmin": _position(_MINIMUM),
}


def rows_of(x: te.Tensor, axes: Sequence[int], machine: Machine) -> tuple[Rows, Reduction]:
    """The rows that a tensor has along axes, and what reduces them."""
    shape = tuple(int(size) for size in x.shape)
    rows = Rows(shape, sorted_axes(axes, len(shape)))
    return rows, Reduction(rows, machine)


def sorted_axes(axes: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Axes in order, counted from the first."""
    return tuple(sorted(axis % ndim for axis in axes))


def element_of(rows: Rows, x: te.Tensor) -> Value:
    """The elements themselves, as what is to be reduced."""
    return lambda row, position: x(*rows.index(row, position))


def schedule_reduce(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """A few rows, or as many as fill some vectors, at a time and from the cache; in parallel."""
    together, count, *axes = tile_of(schedule, anchor)
    stages = _stages(schedule, anchor)
    tail = fuse_tail(schedule, anchor)
    outer, rest, inner = _flatten(schedule, tail, axes[:count], axes[count:])
    row, several = schedule.split(outer, [None, together])
    if inner:
        tile = _tile(extent(schedule, inner[0]), machine.lanes)
        tiles, columns = schedule.split(inner[0], [None, tile])
        schedule.reorder(row, tiles, several, *rest, columns)
        row = schedule.fuse(row, tiles)
    if extent(schedule, row) > 1:
        schedule.parallel(row)
    place = several
    for stage in (anchor, *reversed(stages)):
        whole = schedule.get(stage).annotations.get(_STAGE)
        schedule.compute_at(stage, row if whole else place, preserve_unit_loops=True)
        place = _below(schedule, stage, row)[0]
    for stage in (*stages, anchor, tail):
        _vectorize(schedule, stage, row, bool(inner), machine)


def _flatten(
    schedule: Sch, tail: Block, outer: Sequence[int], inner: Sequence[int]
) -> tuple[Loop, list[Loop], list[Loop]]:
    """Give a tail one loop over outer axes, at most one over inner ones and one over all others.

    Its index becomes a row's number, which TVM would not see in a fused loop.
    """
    loops = schedule.get_loops(tail)
    shape = [extent(schedule, loop) for loop in loops]
    index_dtype = str(schedule.get(loops[0]).loop_var.ty) if loops else "int32"
    others = [axis for axis in range(len(shape)) if axis not in {*outer, *inner}]
    groups = [axes for axes in (outer, others, inner) if axes]
    if groups:
        flat = tirx.IndexMap.from_func(
            lambda *index: [flat_index(shape, axes, index) for axes in groups],
            ndim=len(shape),
            index_dtype=index_dtype,
        )
        schedule.transform_block_layout(tail, flat)
    loops = schedule.get_loops(tail)
    if not outer:
        loops = [schedule.add_unit_loop(loops[0] if loops else tail), *loops]
    return loops[0], loops[1 : 1 + bool(others)], loops[1 + bool(others) :]


def _stages(schedule: Sch, anchor: Block) -> list[Block]:
    """The stages before an anchor, in order, after inlining what was fused in front of them."""
    stages: list[Block] = []
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        if schedule.get(block).same_as(schedule.get(anchor)):
            break
        if _STAGE in schedule.get(block).annotations:
            stages.append(block)
        else:
            schedule.compute_inline(block)
    return stages


def _tile(columns: int, lanes: int) -> int:
    """How many columns to reduce side by side: a divisor, whole vectors if possible."""
    divisors = [size for size in range(1, _WIDEST * lanes + 1) if columns % size == 0]
    whole = [size for size in divisors if size % lanes == 0 and size <= _LATENCY * lanes]
    best = max(whole or divisors)
    return best if best >= lanes else columns


def _below(schedule: Sch, block: Block, row: Loop) -> list[Loop]:
    loops = schedule.get_loops(block)
    names = [str(schedule.get(loop).loop_var) for loop in loops]
    return loops[names.index(str(schedule.get(row).loop_var)) + 1 :]


def _vectorize(schedule: Sch, block: Block, row: Loop, columns: bool, machine: Machine) -> None:
    below = _below(schedule, block, row)[1:]
    if schedule.get(block).init is not None:
        _vectorize_partial(schedule, block, below, _WIDEST * machine.lanes)
    elif loops := [loop for loop in below if extent(schedule, loop) > 1]:
        along = loops[-1] if columns else schedule.fuse(*loops)
        vectorize_along(schedule, along, machine.lanes)


def _vectorize_partial(schedule: Sch, block: Block, loops: Sequence[Loop], widest: int) -> None:
    """All partial results in registers; so many ragged columns that they are not, are for LLVM."""
    *spatial, reduced = loops
    schedule.reorder(reduced, *spatial)
    width = math.prod(extent(schedule, loop) for loop in spatial)
    if 1 < width <= widest:
        schedule.vectorize(schedule.fuse(*spatial))
    initial = schedule.decompose_reduction(block, reduced)
    if 1 < width <= widest:
        schedule.vectorize(schedule.get_loops(initial)[-1])
