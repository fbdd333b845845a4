"""Other planners, asked and answering like ours, so that comparing them is a loop.

What a published planner chooses and what its choice costs are two things. It chooses by the cost
that its paper gives, :func:`published`, which knows of computing and of sending to the server.
What it chose is then worth what any plan is, with downloads, round trips and entries: for that
there are :class:`partc.passes.price.Price` and :func:`partc.plan.make_plan`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeAlias

import numpy as np
from ortools.graph.python.max_flow import SimpleMaxFlow

from partc.cost import Cost
from partc.errors import CompilerError, GraphError
from partc.graph import LayerCost, LayerGraph
from partc.passes.closure import Integers, Network, add_arcs
from partc.passes.cut import find_cut
from partc.passes.price import Array, Price, price
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, check_cut

_SOURCE, _SINK, _FIRST_LAYER = 0, 1, 2
_TOTAL_BITS = 50  # of all capacities together, which leaves room for infinite ones in 64
_INFINITE = 2 ** (_TOTAL_BITS + 2)


@dataclass(frozen=True)
class Problem:
    """What a planner is asked: which cut costs least.

    Args:
        graph: Annotated layers.
        cost: What is to be least; any sum of latency and energy.
        conditions: What the link and the server are like.
        entry: What each side pays that has layers.
    """

    graph: LayerGraph
    cost: Cost
    conditions: Conditions
    entry: EntryCharges = FREE_ENTRY

    @property
    def price(self) -> Price:
        """What every choice adds to the cost."""
        return price(self.graph, self.cost, self.conditions, self.entry)

    @property
    def published_price(self) -> Price:
        """What every choice adds to the part of the cost that published planners know."""
        return price(self.graph, published(self.cost), self.conditions)


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
    """The minimum cut of DADS's network, by the published cost, whether it can be run or not.

    DADS for light load (Hu, Bao, Wang and Liu, "Dynamic Adaptive DNN Surgery for Inference
    Acceleration on the Edge", INFOCOM 2019): each layer is a vertex and sends all of its output or
    nothing, through an auxiliary vertex, so that several readers pay for it once. Nothing keeps a
    device layer from reading what the server made, and that way costs nothing. Among equals, the
    fewest layers are on the server.
    """
    network = _dads_network(problem.graph, problem.published_price)
    status = network.solve(_SOURCE, _SINK)
    if status != SimpleMaxFlow.OPTIMAL:
        raise CompilerError(f"DADS has no minimum cut for {problem.graph.name!r}: {status}")
    server_side = set(network.get_sink_side_min_cut())
    layers = enumerate(problem.graph.layers, _FIRST_LAYER)
    return Cut(frozenset(layer.name for vertex, layer in layers if vertex in server_side))


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


def _dads_network(graph: LayerGraph, price: Price) -> Network:
    """DADS's network; the source is the device, and a model's input is a layer that is there.

    Every maker of tensors has an auxiliary vertex. The published network gives those with one
    reader an arc to it instead, which is the same: behind the vertex, arcs are infinite.
    """
    layers = _FIRST_LAYER + np.arange(len(graph.layers))
    makers = np.concatenate([np.full(len(graph.inputs), _SOURCE), layers])
    auxiliary = _FIRST_LAYER + len(layers) + np.arange(len(makers))
    makes = [*([tensor] for tensor in graph.inputs), *(layer.outputs for layer in graph.layers)]
    made_by = {tensor.name: maker for maker, made in enumerate(makes) for tensor in made}
    read = np.array(
        [made_by[tensor.name] for layer in graph.layers for tensor in layer.inputs], np.int64
    )
    readers = np.repeat(layers, [len(layer.inputs) for layer in graph.layers])
    is_read = np.array([bool(graph.consumers[tensor.name]) for tensor in graph.tensors], bool)
    outputs = np.repeat(np.arange(len(makers)), [len(made) for made in makes])
    sending = _add_up(price.upload * is_read, outputs, len(makers))

    network: Network = SimpleMaxFlow()
    units = _units(price)
    server, device, sent = (
        np.rint(units * each).astype(np.int64) for each in (price.server, price.device, sending)
    )
    add_arcs(network, _SOURCE, layers, server)
    add_arcs(network, layers, _SINK, device)
    add_arcs(network, makers, auxiliary, sent)
    add_arcs(network, auxiliary[read], readers, _INFINITE)
    return network


def _units(price: Price) -> float:
    """How many whole units to count a ms or mJ as: a power of two, which keeps whole ones exact."""
    return math.ldexp(1.0, _TOTAL_BITS - math.frexp(max(1.0, price.total))[1])
