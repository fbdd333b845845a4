"""Other planners, asked and answering like ours, so that comparing them is a loop.

What a published planner chooses and what its choice costs are two things. It chooses by the cost
that its paper gives, :func:`published`, which knows of computing and of sending to the server.
What it chose is then worth what any plan is, with downloads, round trips and entries: for that
there are :class:`partc.passes.price.Price` and :func:`partc.plan.make_plan`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeAlias

import numpy as np

from partc.cost import Cost
from partc.errors import GraphError
from partc.graph import LayerCost, LayerGraph
from partc.passes.closure import Integers
from partc.passes.cut import find_cut
from partc.passes.dads import heavy_load_cut, light_load_cut
from partc.passes.price import Array, Price, price
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, check_cut


@dataclass(frozen=True)
class Problem:
    """What a planner is asked: which cut costs least.

    Args:
        graph: Annotated layers.
        cost: What is to be least; any sum of latency and energy.
        conditions: What the link and the server are like.
        entry: What each side pays that has layers.
        heavy_load: Whether requests come faster than that cut can take them, so that what counts is
            throughput. Planners that have no mode for it choose by the cost all the same.
    """

    graph: LayerGraph
    cost: Cost
    conditions: Conditions
    entry: EntryCharges = FREE_ENTRY
    heavy_load: bool = False

    @property
    def price(self) -> Price:
        """What every choice adds to the cost."""
        return price(self.graph, self.cost, self.conditions, self.entry)

    @property
    def published_price(self) -> Price:
        """What every choice adds to the part of the cost that published planners know."""
        return price(self.graph.as_given(), published(self.cost), self.conditions)


Planner: TypeAlias = Callable[[Problem], Cut | None]
"""Gives the cut of its choice, or None if what it chose cannot be run."""


def published(cost: Cost) -> Cost:
    """The part of a cost that published planners weigh: computing, and sending to the server.

    Latency is the sum of the device's time, the upload's and the server's; energy is what the
    device draws while it computes and while it sends (Kang et al., "Neurosurgeon: Collaborative
    Intelligence Between the Cloud and Mobile Edge", ASPLOS 2017, algorithm 1). The answer comes
    back in no time, and the device draws nothing while it waits for it: so the server's time costs
    what a millisecond of the device's does, which to energy alone is nothing.
    """
    return Cost(
        device_ms=cost.device_ms,
        device_mj=cost.device_mj,
        upload_ms=cost.upload_ms,
        upload_nbytes=cost.upload_nbytes,
        server_ms=cost.device_ms,
    )


def partc_cut(problem: Problem) -> Cut:
    """The cut that costs least of all, without constraints."""
    return find_cut(problem.graph, problem.price)


def neurosurgeon_cut(problem: Problem) -> Cut:
    """The best place to split the layers in their order, by the published cost.

    Neurosurgeon's scan (Kang et al., ASPLOS 2017): the device computes the layers before the split,
    the server those behind it. A DAG is split as if its order were a chain, and every tensor that
    is made before the split and read behind it is sent, once. Takes linear time. Among equals, the
    fewest layers are on the server.
    """
    costs = _split_costs(problem.graph, problem.published_price)
    split = len(costs) - 1 - int(np.argmin(costs[::-1]))
    return Cut(frozenset(layer.name for layer in problem.graph.layers[split:]))


def maui_cut(problem: Problem) -> Cut:
    """What Neurosurgeon's scan finds if it takes all layers of one kind to cost the same.

    As MAUI (Cuervo et al., MobiSys 2010) predicts a call from earlier ones of the same method, and
    as Neurosurgeon's paper therefore compares with it: what a layer costs is taken to be the mean
    of the network's layers of its kind, on either side.
    """
    return neurosurgeon_cut(replace(problem, graph=_alike_by_kind(problem.graph)))


def dads_cut(problem: Problem) -> Cut | None:
    """What DADS chooses, or None if a device layer would read what the server made.

    It is not repaired: what to run instead is not published.
    """
    chosen = dads_choice(problem)
    try:
        check_cut(problem.graph, chosen)
    except GraphError:
        return None
    return chosen


def dads_choice(problem: Problem) -> Cut:
    """What DADS chooses for the load, by the published cost, whether it can be run or not.

    Two minimum cuts (Hu, Bao, Wang and Liu, "Dynamic Adaptive DNN Surgery for Inference
    Acceleration on the Edge", INFOCOM 2019); see :mod:`partc.passes.dads`.
    """
    choose = heavy_load_cut if problem.heavy_load else light_load_cut
    return choose(problem.graph, problem.published_price)


def device_only_cut(_problem: Problem) -> Cut:
    """All layers on the device."""
    return Cut.device_only()


def server_only_cut(problem: Problem) -> Cut:
    """All layers on the server."""
    return Cut.server_only(problem.graph)


BASELINES: Mapping[str, Planner] = {
    "neurosurgeon": neurosurgeon_cut,
    "maui": maui_cut,
    "dads": dads_cut,
    "device-only": device_only_cut,
    "server-only": server_only_cut,
}
"""The planners that ours is compared with."""

PLANNERS: Mapping[str, Planner] = {"partc": partc_cut, **BASELINES}
"""All of them, ours first."""


def _split_costs(graph: LayerGraph, price: Price) -> Array:
    """What it costs to leave the first 0, 1, … all layers on the device, the rest to the server."""
    computed = np.concatenate([[0.0], np.cumsum(price.device)])
    served = np.concatenate([np.cumsum(price.server[::-1])[::-1], [0.0]])
    return computed + served + _sent_across(graph, price.upload)


def _sent_across(graph: LayerGraph, upload: Array) -> Array:
    """What is sent at each split: a tensor at all those between its maker and its last reader."""
    count = len(graph.layers)
    made_before = np.repeat(
        np.arange(count + 1), [len(graph.inputs), *(len(layer.outputs) for layer in graph.layers)]
    )
    last_readers = {
        tensor.name: position
        for position, layer in enumerate(graph.layers, 1)
        for tensor in layer.inputs
    }
    read_until = np.array([last_readers.get(tensor.name, 0) for tensor in graph.tensors], np.int64)
    read = read_until > 0
    begins = _add_up(upload[read], made_before[read], count + 1)
    ends = _add_up(upload[read], read_until[read], count + 1)
    return np.cumsum(begins - ends)


def _add_up(amounts: Array, places: Integers, count: int) -> Array:
    """The sum of the amounts that belong to each of so many places."""
    sums = np.zeros(count)
    np.add.at(sums, places, amounts)
    return sums


def _alike_by_kind(graph: LayerGraph) -> LayerGraph:
    """The graph with every layer at the mean cost of its kind."""
    by_kind: defaultdict[str, list[LayerCost]] = defaultdict(list)
    for layer in graph.layers:
        by_kind[layer.kind].append(layer.annotated_cost)
    means = {kind: _mean(costs) for kind, costs in by_kind.items()}
    return graph.with_layers(replace(layer, cost=means[layer.kind]) for layer in graph.layers)


def _mean(costs: Sequence[LayerCost]) -> LayerCost:
    return LayerCost(
        device_ms=fmean(cost.device_ms for cost in costs),
        server_ms=fmean(cost.server_ms for cost in costs),
        device_mj=fmean(cost.device_mj for cost in costs),
    )
