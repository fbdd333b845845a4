"""Where to draw the nodes of a DAG: rows by depth, after Sugiyama, Tagawa and Toda (1981)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

# A node's key and no row; or, where an edge out of the node passes others by, the row.
_Stop: TypeAlias = tuple[str, int | None]

_LANE_WIDTH = 0.25


@dataclass(frozen=True)
class Point:
    """A place: ``x`` in widths of a node, ``row`` counted from the top."""

    x: float
    row: int


@dataclass(frozen=True)
class Layout:
    """Where each node lies, and the points that each edge runs through, both ends included."""

    nodes: Mapping[str, Point]
    edges: Mapping[tuple[str, str], tuple[Point, ...]]


def layered_layout(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> Layout:
    """Lay out a DAG so that every edge points down and passes no node that it does not touch.

    Args:
        nodes: Keys, in topological order.
        edges: Pairs of keys, source first.
    """
    depths = _depths(nodes, edges)
    routes = {edge: _route(edge, depths) for edge in edges}
    above = _above(routes.values())
    places: dict[_Stop, Point] = {}
    for row, stops in enumerate(_rows(depths, routes.values())):
        wanted = {
            stop: fmean(places[other].x for other in above[stop]) if stop in above else 0.0
            for stop in stops
        }
        places.update((stop, Point(x, row)) for stop, x in _spread(wanted).items())
    return Layout(
        {node: places[node, None] for node in nodes},
        {edge: tuple(places[stop] for stop in route) for edge, route in routes.items()},
    )


def _depths(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The length of the longest path to each node."""
    sources: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target in edges:
        sources[target].append(source)
    depths: dict[str, int] = {}
    for node in nodes:
        depths[node] = max((depths[source] + 1 for source in sources[node]), default=0)
    return depths


def _route(edge: tuple[str, str], depths: Mapping[str, int]) -> tuple[_Stop, ...]:
    """An edge's stops, one a row; edges out of one node share their lane past other rows."""
    source, target = edge
    lane = ((source, row) for row in range(depths[source] + 1, depths[target]))
    return ((source, None), *lane, (target, None))


def _above(routes: Iterable[tuple[_Stop, ...]]) -> dict[_Stop, list[_Stop]]:
    """The stops in the row above that each stop is connected to."""
    found: dict[_Stop, dict[_Stop, None]] = {}
    for route in routes:
        for upper, lower in pairwise(route):
            found.setdefault(lower, {})[upper] = None
    return {stop: list(others) for stop, others in found.items()}


def _rows(depths: Mapping[str, int], routes: Iterable[tuple[_Stop, ...]]) -> list[list[_Stop]]:
    """The stops of each row: nodes, then lanes."""
    rows: list[dict[_Stop, None]] = [{} for _ in range(max(depths.values(), default=-1) + 1)]
    for node, depth in depths.items():
        rows[depth][node, None] = None
    for key, row in (stop for route in routes for stop in route):
        if row is not None:
            rows[row][key, row] = None
    return [list(row) for row in rows]


def _spread(wanted: Mapping[_Stop, float]) -> dict[_Stop, float]:
    """Places near the wanted ones, in their order, far enough apart."""
    stops = sorted(wanted, key=wanted.__getitem__)
    found: dict[_Stop, float] = {}
    nearest = -math.inf
    for stop in stops:
        half = (1.0 if stop[1] is None else _LANE_WIDTH) / 2
        found[stop] = max(wanted[stop], nearest + half)
        nearest = found[stop] + half
    shift = fmean(found[stop] - wanted[stop] for stop in stops)
    return {stop: x - shift for stop, x in found.items()}
