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
) -> tuple[Cut, ...]:
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
        The cuts, at most :data:`MOST`. Costs count as equal that differ by less than rounding.

    Raises:
        InfeasibleError: No cut keeps all limits.
    """
    found: list[Cut] = []
    for cut in islice(_walk(graph, first, second, limits), MOST):
        found.append(cut)
        report(len(found))
    return tuple(found)


def _walk(graph: LayerGraph, first: Price, second: Price, limits: Limits) -> Iterator[Cut]:
    step = 2 * resolution(graph, second)
    least = second.of(graph, find_limited_cut(graph, [second], limits).cut)
    costs, reached = limits.costs, math.inf
    while reached > least + step:
        best = find_limited_cut(graph, [first], replace(limits, costs=costs)).cut
        # Of cuts that are as good in the first cost, the one that is best in the second.
        as_good = Limit("first", first, first.of(graph, best), "")
        cut = find_limited_cut(graph, [second], replace(limits, costs=(*costs, as_good))).cut
        yield cut
        reached = second.of(graph, cut)
        costs = (*limits.costs, Limit("second", second, reached - step, ""))
