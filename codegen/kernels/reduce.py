# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# TVM ships no types
"""Reductions, one row of elements that are reduced together at a time.

A row is reduced in vectors of partial results, which are then folded. Where vectors do not divide
it, the last one starts early, so that everything is read in whole vectors: what it reads again
changes no maximum, and is masked from a sum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tvm import te, tirx

from partc.codegen.kernels import mathematics
from partc.codegen.kernels.common import Block, Loop, Sch, anchor_attrs, extent, fuse_tail, tile_of
from partc.codegen.kernels.mathematics import Function, Scalar
from partc.codegen.kernels.vectors import vectorize_along
from partc.codegen.machine import Machine

RULE = "reduce"

# The annotation of a block that is computed for one row at a time.
_STAGE = "partc.stage"
STAGE_ATTRS = {_STAGE: True}

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
        return self._flat(self.outer, index), self._flat(self.inner, index)

    def position_of(self, index: Sequence[Scalar]) -> Scalar:
        """Where in its row an element of the tensor is."""
        return self._flat(self.reduced, index)

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    def _flat(self, axes: Sequence[int], index: Sequence[Scalar]) -> Scalar:
        return functools.reduce(lambda flat, axis: flat * self.shape[axis] + index[axis], axes, 0)

    def _along(self, axes: Sequence[int], flat: Scalar) -> dict[int, Scalar]:
        index: dict[int, Scalar] = {}
        for axis in reversed(axes[1:]):
            index[axis] = flat % self.shape[axis]
            flat = flat // self.shape[axis]
        return index | dict.fromkeys(axes[:1], flat)


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
        attrs = anchor_attrs(RULE, self._places) if anchor else STAGE_ATTRS
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
    def _places(self) -> tuple[int, ...]:
        """How many outer axes there are, and which of the result they and the inner ones are."""
        kept = (*self.rows.outer, *self.rows.inner)
        return (len(self.rows.outer), *(kept if self.keepdims else range(len(kept))))

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
        group = te.reduce_axis((0, math.ceil(length / width)), "group")

        def partial(*at: Scalar) -> Scalar:
            *row, lane = at
            position = tirx.min(group * width, length - width) + lane
            element = value(row, position)
            if length % width and not reducer.idempotent:
                fresh = position >= group * width
                element = tirx.Select(fresh, element, reducer.identity(str(element.ty.dtype)))
            return reducer.along(group, element)

        partials = te.compute(
            (*self.rows.count, width), partial, name=f"{name}_vectors", attrs=STAGE_ATTRS
        )
        return self._fold(reducer, partials, name)

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
    """A row, or as many as fill some vectors, at a time and from the cache; in parallel."""
    outer_axes, inner_axes = _axes_of(schedule, anchor)
    stages = _stages(schedule, anchor)
    tail = fuse_tail(schedule, anchor)
    schedule.set_scope(anchor, 0, "global")  # TVM keeps what is small on the stack only there
    loops = schedule.get_loops(tail)
    outer, inner = ([loops[axis] for axis in axes] for axes in (outer_axes, inner_axes))
    rest = [loop for axis, loop in enumerate(loops) if axis not in {*outer_axes, *inner_axes}]
    if inner:
        tile = _tile([extent(schedule, loop) for loop in inner], machine.lanes)
        tiles, columns = schedule.split(schedule.fuse(*inner), [None, tile])
        outer, rest = [*outer, tiles], [*rest, columns]
    schedule.reorder(*outer, *rest)
    row = schedule.fuse(*outer) if outer else schedule.add_unit_loop(rest[0] if rest else tail)
    if extent(schedule, row) > 1:
        schedule.parallel(row)
    for stage in (anchor, *reversed(stages)):
        schedule.compute_at(stage, row, preserve_unit_loops=True)
    for stage in (*stages, anchor, tail):
        _vectorize(schedule, stage, row, bool(inner), machine)


def _axes_of(schedule: Sch, anchor: Block) -> tuple[tuple[int, ...], tuple[int, ...]]:
    count, *axes = tile_of(schedule, anchor)
    return tuple(axes[:count]), tuple(axes[count:])


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


def _tile(shape: Sequence[int], lanes: int) -> int:
    """How many columns to reduce side by side, whole vectors if possible.

    It runs along the last axes only, or TVM could not tell that a tile's columns are neighbours.
    """
    aligned = [size for size in _aligned(shape) if size <= _WIDEST * lanes]
    whole = [size for size in aligned if size % lanes == 0 and size <= _LATENCY * lanes]
    best = max(whole or aligned)
    return best if best >= lanes else math.prod(shape)


def _aligned(shape: Sequence[int]) -> Iterator[int]:
    behind = 1
    for size in reversed(shape):
        yield from (behind * part for part in range(1, size + 1) if size % part == 0)
        behind *= size


def _below(schedule: Sch, block: Block, row: Loop) -> list[Loop]:
    loops = schedule.get_loops(block)
    names = [str(schedule.get(loop).loop_var) for loop in loops]
    return loops[names.index(str(schedule.get(row).loop_var)) + 1 :]


def _vectorize(schedule: Sch, block: Block, row: Loop, columns: bool, machine: Machine) -> None:
    below = _below(schedule, block, row)
    if schedule.get(block).init is None:
        if loops := [loop for loop in below if extent(schedule, loop) > 1]:
            along = loops[-1] if columns else schedule.fuse(*loops)
            vectorize_along(schedule, along, machine.lanes)
        return
    *spatial, reduced = below
    schedule.reorder(reduced, *spatial)
    if extent(schedule, spatial[-1]) > _WIDEST * machine.lanes:  # ragged columns, left to LLVM
        schedule.decompose_reduction(block, reduced)
        return
    schedule.vectorize(spatial[-1])
    initial = schedule.decompose_reduction(block, reduced)
    schedule.vectorize(schedule.get_loops(initial)[-1])
