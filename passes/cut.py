"""The optimal cut of an annotated layer graph, as a minimum cut of a flow network.

The construction is DADS's (Hu, Bao, Wang and Liu, "Dynamic Adaptive DNN Surgery for Inference
Acceleration on the Edge", INFOCOM 2019) with two corrections, without which it is not exact:
infinite arcs from every consumer to its producers keep the server from feeding the device, and
every tensor, not every layer, has a vertex of its own, so that of several outputs only those that
are read across the cut are paid for.
Outputs that the server makes pay their download. What a side costs that has any layers is weighed
at the end: entering it and, for the server, the round trip and the energy of the radio's tail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from partc.errors import CompilerError, TargetError
from partc.graph import LayerGraph
from partc.passes.pins import check_pins
from partc.passes.price import Array, Price
from partc.plan import Cut, Side

_SOURCE, _SINK, _FIRST_LAYER = 0, 1, 2
_UNITS_PER_MILLI = 1e6  # capacities are whole nanoseconds or nanojoules
_LARGEST_TOTAL = 2**61 / _UNITS_PER_MILLI  # residual capacities reach its double in 64 bits

_Vertices = NDArray[np.int64]
_Capacities = NDArray[np.int64]
# The stubs of SimpleMaxFlow take no NumPy array and leave the type of solve open.
_Network = Any


def find_cut(graph: LayerGraph, price: Price, pins: Mapping[str, Side] = {}) -> Cut:
    """The cut that costs least; among equals the one with the fewest server layers.

    Args:
        graph: Layers.
        price: What every choice costs, in ms or mJ.
        pins: The side on which a layer must run, by layer name.

    Returns:
        An exact optimum, up to rounding of each cost to a nanosecond or a nanojoule.

    Raises:
        GraphError: A pin names no layer.
        InfeasibleError: A layer pinned to the device depends on one pinned to the server.
        TargetError: The costs are too large to add up.
    """
    check_pins(graph, pins)
    costs = _round_costs(price)
    return min(_candidates(graph, costs, pins), key=lambda candidate: candidate[0])[1]


def _candidates(
    graph: LayerGraph, costs: _Costs, pins: Mapping[str, Side]
) -> Iterator[tuple[int, Cut]]:
    """Cuts with their costs: the best is among them, those with fewer server layers come first.

    Every cut that uses both sides pays the same charges. So if a minimum cut does, no other that
    does is better; if it leaves a side out, no cut that uses both is better than it.
    """
    if Side.SERVER not in pins.values():
        yield int(costs.device.sum()) + costs.device_entry, Cut.device_only()
    least_cost, server_layers = _solve(graph, costs, pins)
    if 0 < len(server_layers) < len(graph.layers):
        yield least_cost + costs.device_entry + costs.server_entry, Cut(server_layers)
    if Side.DEVICE not in pins.values():
        yield _server_only_cost(graph, costs) + costs.server_entry, Cut.server_only(graph)


def _server_only_cost(graph: LayerGraph, costs: _Costs) -> int:
    """Of all layers on the server, and of uploading what they read of the model's inputs."""
    read = {tensor.name for layer in graph.layers for tensor in layer.inputs}
    uploaded = [tensor.name in read for tensor in graph.inputs]
    return int(costs.server.sum() + costs.upload[: len(uploaded)][uploaded].sum())


@dataclass(frozen=True)
class _Costs:
    """What every choice costs, in whole nanoseconds or nanojoules.

    Args:
        device: Of every layer on the device.
        server: Of every layer on the server, with the download of the outputs it makes.
        upload: Of every tensor, in the order of ``graph.tensors``.
        device_entry: Of computing on the device at all.
        server_entry: Of asking the server at all.
    """

    device: _Capacities
    server: _Capacities
    upload: _Capacities
    device_entry: int
    server_entry: int

    @property
    def infinite(self) -> int:
        """More than any cut costs."""
        return int(self.device.sum() + self.server.sum() + self.upload.sum()) + 1


def _round_costs(price: Price) -> _Costs:
    """Round milliseconds or millijoules to whole units, of which a cut can be computed exactly."""
    if not price.total <= _LARGEST_TOTAL:
        raise TargetError(
            f"layers and transfers cost {price.total:.3g} ms or mJ together, expected at most "
            f"{_LARGEST_TOTAL:.3g}; check the link's rates and the layers' costs"
        )
    device_entry, server_entry = map(
        int, _round(np.array([price.device_entry, price.server_entry]))
    )
    sides = _round(price.device), _round(price.server), _round(price.upload)
    return _Costs(*sides, device_entry, server_entry)


def _round(costs: Array) -> _Capacities:
    return np.rint(costs * _UNITS_PER_MILLI).astype(np.int64)


def _solve(
    graph: LayerGraph, costs: _Costs, pins: Mapping[str, Side]
) -> tuple[int, frozenset[str]]:
    """The minimum cut with the smallest server side: its cost, and the layers of that side."""
    network = _build_network(graph, costs, pins)
    status = network.solve(_SOURCE, _SINK)
    if status != SimpleMaxFlow.OPTIMAL:
        raise CompilerError(f"the cut pass has no minimum cut for {graph.name!r}: {status}")
    server_side = set(network.get_sink_side_min_cut())
    names = (layer.name for layer in graph.layers)
    server_layers = frozenset(
        name for vertex, name in enumerate(names, _FIRST_LAYER) if vertex in server_side
    )
    return network.optimal_flow(), server_layers


def _build_network(graph: LayerGraph, costs: _Costs, pins: Mapping[str, Side]) -> _Network:
    """The flow network whose minimum cut separates device layers from server layers.

    Vertices: the source is the device, the sink the server, then come the layers, then the
    tensors, which lie on the sink's side if they are on the server.
    """
    layers = _FIRST_LAYER + np.arange(len(graph.layers))
    tensors = _FIRST_LAYER + len(layers) + np.arange(len(graph.tensors))
    made_by = np.repeat(layers, [len(layer.outputs) for layer in graph.layers])
    makers = np.concatenate([np.full(len(graph.inputs), _SOURCE), made_by])
    positions = {tensor.name: position for position, tensor in enumerate(graph.tensors)}
    read = np.array(
        [positions[tensor.name] for layer in graph.layers for tensor in layer.inputs], np.int64
    )
    readers = np.repeat(layers, [len(layer.inputs) for layer in graph.layers])

    network: _Network = SimpleMaxFlow()
    _add_arcs(network, _SOURCE, layers, costs.server)
    _add_arcs(network, layers, _SINK, costs.device)
    _add_arcs(network, makers, tensors, costs.upload)
    _add_arcs(network, tensors[read], readers, costs.infinite)
    _add_arcs(network, readers, makers[read], costs.infinite)
    sides = [pins.get(layer.name) for layer in graph.layers]
    _add_arcs(network, _SOURCE, layers[[side is Side.DEVICE for side in sides]], costs.infinite)
    _add_arcs(network, layers[[side is Side.SERVER for side in sides]], _SINK, costs.infinite)
    return network


def _add_arcs(
    network: _Network,
    tails: _Vertices | int,
    heads: _Vertices | int,
    capacities: _Capacities | int,
) -> None:
    tail, head, capacity = np.broadcast_arrays(tails, heads, capacities)
    network.add_arcs_with_capacity(
        tail.astype(np.int32), head.astype(np.int32), capacity.astype(np.int64)
    )
