"""The cuts of which none is better in one cost without being worse in another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from partc.graph import LayerGraph
from partc.passes.limited import Limit, Limits, find_limited_cut, resolution
from partc.passes.price import Price
from partc.plan import Cut

MOST = 100
"""Cuts that a front may have; there can be as many as cuts at all."""


def find_front(
    graph: LayerGraph,
    first: Price,
    second: Price,
    limits: Limits,
    report: Callable[[int], None] = lambda _: None,
) -> tuple[tuple[Cut, ...], float]:
    """The Pareto front of two costs, from the least of the first to the least of the second.

    Each cut costs least in the first of those that cost less in the second than the one before:
    the epsilon-constraint method of Haimes, Lasdon and Wismer, "On a Bicriterion Formulation of
    the Problems of Integrated System Identification and System Optimization" (IEEE Transactions on
    Systems, Man, and Cybernetics, 1971). So cuts are found that no weighted sum would find.

    Args:
        graph: Layers.
        first: What every choice costs in the one sense.
        second: What it costs in the other.
        limits: What cuts have to keep.
        report: Called with how many have been found, after each.

    Returns:
        The cuts, at most :data:`MOST`, and how much less than one of them another may cost,
        relative to it, where the solver could not prove that none does. Costs count as equal that
        differ by less than rounding.

    Raises:
        InfeasibleError: No cut keeps all limits.
    """
    found: list[Cut] = []
    largest_gap = 0.0
    for cut, gap in islice(_walk(graph, first, second, limits), MOST):
        found.append(cut)
        largest_gap = max(largest_gap, gap)
        report(len(found))
    return tuple(found), largest_gap


def _walk(
    graph: LayerGraph, first: Price, second: Price, limits: Limits
) -> Iterator[tuple[Cut, float]]:
    step = 2 * resolution(graph, second)
    least = second.of(graph, find_limited_cut(graph, [second], limits).cut)
    costs, reached = limits.costs, math.inf
    while reached > least + step:
        best = find_limited_cut(graph, [first], replace(limits, costs=costs))
        # Of cuts that are as good in the first cost, the one that is best in the second.
        as_good = Limit("first", first, first.of(graph, best.cut), "")
        found = find_limited_cut(graph, [second], replace(limits, costs=(*costs, as_good)))
        yield found.cut, max(best.gap, found.gap)
        reached = second.of(graph, found.cut)
        costs = (*limits.costs, Limit("second", second, reached - step, ""))
