"""Every plan that is the best one somewhere in a range of conditions.

What a plan costs is affine in the reciprocals of the rates, the round trip and the load. So the
best cost, as a function of these, is concave and made of planes, one for each plan worth keeping.
Known planes meet in vertices; where at every one of these the best cost is what they say, it is so
in between, too, as it is concave. Where it is less at a vertex, the cut that says so is a new plan.
This is what is known for parametric programmes as the Eisner-Severance method ("Mathematical
Techniques for Efficient Record Segmentation in Large Shared Databases", JACM 1976), in as many
dimensions as conditions vary.
"""
# SciPy declares its types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, HalfspaceIntersection

from partc.cost import Cost
from partc.graph import LayerGraph
from partc.passes.price import Array
from partc.plan import (
    FREE_ENTRY,
    ConditionRange,
    Conditions,
    Cut,
    EntryCharges,
    Interval,
    Plan,
    make_plan,
)

_BETTER = 1e-7
"""How much less a cost is than that of known plans, relative to it, if another cut is better."""

_DECIMALS = 15
"""Of vertices: in a wide range, much happens within a millionth of it, where rates are high."""

_BLUR = 1e-12
"""How far off a vertex may be on each axis, of which SciPy finds it to some of 16 digits."""

_SMALLEST = 1e-9
"""The share of the range that a plan has to win to be one of the table, unless it wins clearly."""

FindCut = Callable[[Conditions], Cut]
CostAt = Callable[[Conditions], Cost]


@dataclass(frozen=True)
class Winner:
    """A plan that is the best one in a part of a range.

    Args:
        plan: The plan.
        share: The part of the range that it wins, of rates by their reciprocals.
        corners: Conditions at the corners of that part.
    """

    plan: Plan
    share: float
    corners: tuple[Conditions, ...]

    def interval(self, name: str) -> Interval:
        """From what to what one of the conditions goes where it wins."""
        values = [getattr(corner, name) for corner in self.corners]
        return min(values), max(values)


@dataclass(frozen=True)
class Envelope:
    """The plans that win somewhere in a range; the one that wins most comes first.

    Args:
        range: Of conditions.
        winners: Plans.
        cost_at: What plans are compared by.
        solves: How many cuts had to be found.
    """

    range: ConditionRange
    winners: tuple[Winner, ...]
    cost_at: CostAt
    solves: int


def find_envelope(
    graph: LayerGraph,
    find: FindCut,
    cost_at: CostAt,
    conditions: ConditionRange,
    entry: EntryCharges = FREE_ENTRY,
) -> Envelope:
    """Find every plan that is the best one somewhere.

    Args:
        graph: An annotated graph.
        find: The best cut under given conditions.
        cost_at: What ``find`` minimises under them; of every plan affine in the reciprocals of the
            rates, the round trip and the load.
        conditions: Where to look.
        entry: What each side pays that has layers.
    """
    search = _Search(graph, find, cost_at, conditions, entry)
    for corner in product((0.0, 1.0), repeat=len(conditions.varying)):
        search.look_at(np.array(corner))
    while any(search.look_at(vertex) for vertex in search.vertices()):
        pass
    winners = sorted(search.winners(), key=lambda winner: -winner.share)
    return Envelope(conditions, tuple(winners), cost_at, search.solves)


class _Search:
    """The planes that are known, and where they were compared with the best cut."""

    def __init__(
        self,
        graph: LayerGraph,
        find: FindCut,
        cost_at: CostAt,
        conditions: ConditionRange,
        entry: EntryCharges,
    ) -> None:
        self._graph, self._find, self._cost_at = graph, find, cost_at
        self._range, self._entry = conditions, entry
        self._planes: dict[Cut, Array] = {}
        self._plans: dict[Cut, Plan] = {}
        self._seen: set[tuple[float, ...]] = set()
        self.solves = 0

    def look_at(self, point: Array) -> bool:
        """Find the best cut at a point; return whether it is better than what was known."""
        key = tuple(point.tolist())
        if key in self._seen:
            return False
        self._seen.add(key)
        self.solves += 1
        cut = self._find(self._range.at(point.tolist()))
        if cut in self._planes:
            return False
        plan = make_plan(self._graph, cut, self._entry)
        plane = self._plane(plan)
        known = min((_value(each, point) for each in self._planes.values()), default=math.inf)
        if _value(plane, point) >= known - _BETTER * abs(known):
            return False
        self._planes[cut], self._plans[cut] = plane, plan
        return True

    def _plane(self, plan: Plan) -> Array:
        """A plan's cost at the origin, and what it gains along each axis."""
        count = len(self._range.varying)
        points = [[0.0] * count, *np.eye(count).tolist()]
        costs = [self._cost_at(at).of(plan, at) for at in map(self._range.at, points)]
        return np.array([costs[0], *(cost - costs[0] for cost in costs[1:])])

    def vertices(self) -> Array:
        """Where known planes meet on the envelope, of shape (points, axes)."""
        return find_vertices(np.array(list(self._planes.values())))

    def winners(self) -> list[Winner]:
        """The plans that win more than the border to others."""
        vertices = self.vertices()
        if not vertices.size:
            (plan,) = self._plans.values()
            return [Winner(plan, 1.0, (self._range.at(()),))]
        found: list[Winner] = []
        wins = _wins(list(self._planes.values()), vertices)
        for cut, own in zip(self._planes, wins, strict=True):
            mine = vertices[own]
            share = _volume(mine)
            if share > _SMALLEST or self._is_clear(cut, mine):
                corners = tuple(map(self._range.at, mine.tolist()))
                found.append(Winner(self._plans[cut], float(share), corners))
        return found

    def _is_clear(self, cut: Cut, mine: Array) -> bool:
        """Whether others are worse in the middle of where a plan wins, however small that is."""
        if not len(mine):
            return False
        middle = mine.mean(axis=0)
        others = (_value(plane, middle) for each, plane in self._planes.items() if each != cut)
        own = _value(self._planes[cut], middle)
        return min(others, default=math.inf) > own + _BETTER * abs(own)


def _value(plane: Array, point: Array) -> float:
    return float(plane[0] + plane[1:] @ point)


def _wins(planes: Sequence[Array], vertices: Array) -> NDArray[np.bool_]:
    """Whether each plane is the least at each vertex, of shape (planes, vertices).

    As far as can be told: where a vertex is off, two planes that meet there differ by what their
    slopes make of it.
    """
    known = np.array(planes)
    values = known[:, :1] + known[:, 1:] @ vertices.T
    least = values.min(axis=0)
    slopes = np.abs(known[:, 1:]).sum(axis=1)
    unknown = _BLUR * (slopes[:, None] + slopes[values.argmin(axis=0)])
    return values <= least + _BETTER * np.abs(least) + unknown


def find_vertices(planes: Array) -> Array:
    """Where planes meet on their lower envelope over the unit cube, its corners included.

    Args:
        planes: What each is at the origin and what it gains along each axis, of shape
            (planes, 1 + axes).

    Returns:
        Points of the cube, of shape (points, axes); none if it has no axes.
    """
    count = planes.shape[1] - 1
    if not count:
        return np.zeros((0, 0))
    planes = planes / max(float(np.abs(planes).max()), 1e-30)
    # z <= plane(x), 0 <= x <= 1, z >= less than any plane in there
    bottom = float((planes[:, 0] + np.minimum(planes[:, 1:], 0).sum(axis=1)).min()) - 1
    inside = np.append(np.full(count, 0.5), bottom + 0.5)
    identity = np.eye(count)
    halfspaces = np.vstack(
        [
            np.column_stack([-planes[:, 1:], np.ones(len(planes)), -planes[:, 0]]),
            np.column_stack([-identity, np.zeros(count), np.zeros(count)]),
            np.column_stack([identity, np.zeros(count), -np.ones(count)]),
            np.array([[*np.zeros(count), -1.0, bottom]]),
        ]
    )
    corners = HalfspaceIntersection(halfspaces, inside).intersections
    on_top = corners[:, -1] > bottom + 0.25
    return np.unique(np.clip(np.round(corners[on_top, :-1], _DECIMALS), 0, 1), axis=0)


def _volume(points: Array) -> float:
    """Of the convex hull of points in the unit cube; none if they lie in a plane."""
    axes = points.shape[1]
    if axes == 1:
        return float(np.ptp(points)) if len(points) else 0.0
    if np.linalg.matrix_rank(points[1:] - points[:1], tol=1e-9) < axes:
        return 0.0
    return float(ConvexHull(points).volume)
