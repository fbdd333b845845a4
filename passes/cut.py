"""The optimal cut of an annotated layer graph, as a closure of least weight.

Whether a tensor is on the server, sent or made there, less whether it is made there, is whether it
is sent. So a cut costs a sum of yes-or-no choices, one for each layer and each tensor, of which
some imply others: what reads on the server needs its tensors there, and as nothing returns to the
device, what is made there is read there. Picard ("Maximal Closure of a Graph and Applications to
Combinatorial Problems", Management Science 1976) finds the best such choices by a minimum cut.
DADS (Hu, Bao, Wang and Liu, "Dynamic Adaptive DNN Surgery for Inference Acceleration on the Edge",
INFOCOM 2019) made sending an arc of the network. Such a network lets the server feed the device;
with that corrected it gives the same cuts, but takes many times longer to solve.

Outputs that the server makes pay their download. What a side costs that has any layers is weighed
at the end: entering it and, for the server, the round trip and the energy of the radio's tail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from partc.errors import CompilerError, TargetError
from partc.graph import LayerGraph
from partc.passes.pins import check_pins
from partc.passes.price import Array, Price
from partc.plan import Cut, Side

_DEVICE, _SERVER, _FIRST_LAYER = 0, 1, 2  # source and sink of the network, and what comes next
_UNITS_PER_MILLI = 1e6  # capacities are whole nanoseconds or nanojoules
_LARGEST_TOTAL = 2**60 / _UNITS_PER_MILLI  # residual capacities reach four times it in 64 bits

_Integers = NDArray[np.int64]
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
    if pins:
        check_pins(graph, pins)
    _check_total(price)
    return min(_candidates(graph, price, pins), key=lambda candidate: candidate[0])[1]


def _check_total(price: Price) -> None:
    if not price.total <= _LARGEST_TOTAL:
        raise TargetError(
            f"layers and transfers cost {price.total:.3g} ms or mJ together, expected at most "
            f"{_LARGEST_TOTAL:.3g}; check the link's rates and the layers' costs"
        )


def _candidates(
    graph: LayerGraph, price: Price, pins: Mapping[str, Side]
) -> Iterator[tuple[int, Cut]]:
    """Cuts with their costs, less what all layers cost on the device.

    The best is among them; those with fewer server layers come first. Every cut that uses both
    sides pays the same charges. So if the best choices do, no other that does is better; if they
    leave a side out, no cut that uses both is better than it.
    """
    choices = _weigh_choices(graph, price)
    entries = _round(np.array([price.device_entry, price.server_entry]))
    if Side.SERVER not in pins.values():
        yield int(entries[0]), Cut.device_only()
    chosen = _solve(graph, choices, pins)
    server_layers = frozenset(layer.name for layer in compress(graph.layers, chosen[_FIRST_LAYER:]))
    if 0 < len(server_layers) < len(graph.layers):
        yield int(choices.weights[chosen].sum() + entries.sum()), Cut(server_layers)
    if Side.DEVICE not in pins.values():
        yield int(choices.weights.sum() + entries[1]), Cut.server_only(graph)


@dataclass(frozen=True)
class _Choices:
    """Choices between no, the device, and yes, the server.

    Vertices are the device and the server themselves, then the layers, then the tensors that
    several layers read.

    Args:
        weights: What each yes adds to the cost, by vertex.
        causes: Vertices of which a yes implies one to another,
        effects: and these others.
    """

    weights: _Integers
    causes: _Integers
    effects: _Integers


def _weigh_choices(graph: LayerGraph, price: Price) -> _Choices:
    """Work out what every choice adds to the cost, and what it implies."""
    layers = _FIRST_LAYER + np.arange(len(graph.layers))
    positions = {tensor.name: position for position, tensor in enumerate(graph.tensors)}
    read = np.array(
        [positions[tensor.name] for layer in graph.layers for tensor in layer.inputs], np.int64
    )
    readers = np.repeat(layers, [len(layer.inputs) for layer in graph.layers])
    made_by = np.repeat(layers, [len(layer.outputs) for layer in graph.layers])
    makers = np.concatenate([np.full(len(graph.inputs), _DEVICE), made_by])

    shared = np.bincount(read, minlength=len(makers)) > 1
    own = layers.size + _FIRST_LAYER + np.arange(np.count_nonzero(shared))
    # What is read by one layer is on the server if that is; what by none, if its maker is.
    arrived = makers.copy()
    arrived[read] = readers
    arrived[shared] = own

    weights = np.zeros(_FIRST_LAYER + layers.size + own.size, np.int64)
    weights[layers] = _round(price.server) - _round(price.device)
    np.add.at(weights, arrived, _round(price.upload))
    np.subtract.at(weights, makers, _round(price.upload))
    weights[_DEVICE] = 0
    several = shared[read]
    return _Choices(
        weights,
        causes=np.concatenate([makers[read], readers[several]]),
        effects=np.concatenate([readers, arrived[read[several]]]),
    )


def _round(costs: Array) -> _Integers:
    """Round milliseconds or millijoules to whole units, of which a cut can be computed exactly."""
    return np.rint(costs * _UNITS_PER_MILLI).astype(np.int64)


def _solve(graph: LayerGraph, choices: _Choices, pins: Mapping[str, Side]) -> NDArray[np.bool_]:
    """The vertices to say yes to: what costs least, and of that the fewest."""
    infinite = int(np.abs(choices.weights).sum()) + 1
    weights = choices.weights.copy()
    pinned = weights[_FIRST_LAYER:][: len(graph.layers)]
    sides = [pins.get(layer.name) for layer in graph.layers]
    pinned[[side is Side.DEVICE for side in sides]] = infinite
    pinned[[side is Side.SERVER for side in sides]] = -infinite

    network: _Network = SimpleMaxFlow()
    dear, cheap = np.flatnonzero(weights > 0), np.flatnonzero(weights < 0)
    _add_arcs(network, _DEVICE, dear, weights[dear])
    _add_arcs(network, cheap, _SERVER, -weights[cheap])
    _add_arcs(network, choices.effects, choices.causes, infinite)
    status = network.solve(_DEVICE, _SERVER)
    if status != SimpleMaxFlow.OPTIMAL:
        raise CompilerError(f"the cut pass has no minimum cut for {graph.name!r}: {status}")
    chosen = np.zeros(len(weights), bool)
    chosen[network.get_sink_side_min_cut()] = True
    return chosen


def _add_arcs(
    network: _Network,
    tails: _Integers | int,
    heads: _Integers | int,
    capacities: _Integers | int,
) -> None:
    tail, head, capacity = np.broadcast_arrays(tails, heads, capacities)
    network.add_arcs_with_capacity(
        tail.astype(np.int32), head.astype(np.int32), capacity.astype(np.int64)
    )
