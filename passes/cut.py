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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from partc.errors import CompilerError, GraphError, InfeasibleError, TargetError
from partc.graph import LayerGraph, Tensor
from partc.plan import (
    FREE_ENTRY,
    Conditions,
    Cut,
    DevicePower,
    EntryCharges,
    Objective,
    Side,
    transfer_ms,
)

_SOURCE, _SINK, _FIRST_LAYER = 0, 1, 2
_UNITS_PER_MILLI = 1e6  # capacities are whole nanoseconds or nanojoules
_LARGEST_TOTAL = 2**61 / _UNITS_PER_MILLI  # residual capacities reach its double in 64 bits
_LONGEST_PATH_SHOWN = 8

_Vertices = NDArray[np.int64]
_Capacities = NDArray[np.int64]
# The stubs of SimpleMaxFlow take no NumPy array and leave the type of solve open.
_Network = Any


def find_cut(
    graph: LayerGraph,
    conditions: Conditions,
    power: DevicePower,
    objective: Objective = Objective.LATENCY,
    pins: Mapping[str, Side] = {},
    entry: EntryCharges = FREE_ENTRY,
) -> Cut:
    """The cut whose plan costs least; among equals the one with the fewest server layers.

    Args:
        graph: An annotated graph.
        conditions: What the link and the server are like.
        power: What the device draws; only the energy objective depends on it.
        objective: Whether ``Plan.latency_ms`` or ``Plan.energy_mj`` is minimised.
        pins: The side on which a layer must run, by layer name.
        entry: What a side pays besides its layers if it has any.

    Returns:
        An exact optimum, up to rounding of each cost to a nanosecond or a nanojoule.

    Raises:
        GraphError: A layer is not annotated, or a pin names no layer.
        InfeasibleError: A layer pinned to the device depends on one pinned to the server.
        TargetError: The costs are too large to add up.
    """
    _check_pins(graph, pins)
    costs = _price(graph, conditions, power, objective, entry)
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


def resolve_pins(graph: LayerGraph, patterns: Sequence[tuple[str, Side]]) -> dict[str, Side]:
    """Expand ``--pin PATTERN=SIDE`` into a side for every layer that a pattern matches.

    Args:
        graph: The graph whose layer names are matched.
        patterns: Shell patterns (``*``, ``?``, ``[…]``) or plain layer names, with their sides.

    Raises:
        InfeasibleError: A pattern matches no layer, or two patterns disagree on one.
    """
    chosen: dict[str, tuple[str, Side]] = {}
    for pattern, side in patterns:
        for name in _matching_layers(graph, pattern):
            first_pattern, first_side = chosen.setdefault(name, (pattern, side))
            if first_side is not side:
                raise InfeasibleError(
                    f"layer {name!r} cannot run on both sides: pin {first_pattern!r} puts it on "
                    f"the {first_side.value} and pin {pattern!r} on the {side.value}; "
                    "narrow one of the two patterns"
                )
    return {name: side for name, (_, side) in chosen.items()}


def _matching_layers(graph: LayerGraph, pattern: str) -> list[str]:
    # A name may itself hold brackets, so a pattern also matches the layer it spells exactly.
    found = [name for name in graph.by_name if name == pattern or fnmatchcase(name, pattern)]
    if not found:
        near = get_close_matches(pattern.replace("*", ""), list(graph.by_name))
        hint = f"did you mean {' or '.join(near)}?" if near else "partc inspect lists the layers"
        raise InfeasibleError(f"pin {pattern!r} matches no layer of {graph.name!r}; {hint}")
    return found


def _check_pins(graph: LayerGraph, pins: Mapping[str, Side]) -> None:
    """Refuse pins that send a tensor back from the server to the device."""
    unknown = pins.keys() - graph.by_name.keys()
    if unknown:
        raise GraphError(f"the pins name layers that {graph.name!r} lacks: {sorted(unknown)}")
    parents: dict[str, str | None] = {}  # of the layers that the pins force onto the server
    for layer in graph.layers:
        makers = (graph.producers.get(tensor.name) for tensor in layer.inputs)
        parent = next((maker.name for maker in makers if maker and maker.name in parents), None)
        if parent and pins.get(layer.name) is Side.DEVICE:
            path = _path_to(parent, parents)
            raise InfeasibleError(
                f"layer {layer.name!r} is pinned to the device but depends on {path[0]!r}, which "
                f"is pinned to the server ({_shorten([*path, layer.name])}), and nothing returns "
                "from the server to device layers; drop one of the two pins"
            )
        if parent or pins.get(layer.name) is Side.SERVER:
            parents[layer.name] = parent


def _path_to(name: str | None, parents: Mapping[str, str | None]) -> list[str]:
    path: list[str] = []
    while name:
        path.append(name)
        name = parents[name]
    return path[::-1]


def _shorten(path: Sequence[str]) -> str:
    if len(path) > _LONGEST_PATH_SHOWN:
        half = _LONGEST_PATH_SHOWN // 2
        path = [*path[:half], "…", *path[-half:]]
    return " -> ".join(path)


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


def _price(
    graph: LayerGraph,
    conditions: Conditions,
    power: DevicePower,
    objective: Objective,
    entry: EntryCharges,
) -> _Costs:
    """What every choice adds to the objective, exactly as ``Plan`` counts it."""
    # What a millisecond of each activity costs: itself, or what the device draws meanwhile.
    waiting = uploading = downloading = 1.0
    tail = 0.0
    if objective is Objective.ENERGY:
        waiting = power.idle_watts
        uploading = power.upload_watts + waiting
        downloading = power.download_watts + waiting
        tail = power.tail_mj

    def download(tensors: Sequence[Tensor]) -> float:
        nbytes = sum(tensor.nbytes for tensor in tensors if tensor.name in returned)
        return downloading * transfer_ms(nbytes, conditions.downlink_mbps)

    returned = {tensor.name for tensor in graph.outputs}
    layers = [(layer.annotated_cost, layer.outputs) for layer in graph.layers]
    return _round_costs(
        device=[
            cost.device_ms if objective is Objective.LATENCY else cost.device_mj
            for cost, _ in layers
        ],
        server=[
            waiting * conditions.load * cost.server_ms + download(outputs)
            for cost, outputs in layers
        ],
        upload=[
            uploading * transfer_ms(tensor.nbytes, conditions.uplink_mbps)
            for tensor in graph.tensors
        ],
        device_entry=entry.device_ms if objective is Objective.LATENCY else entry.device_mj,
        server_entry=waiting * (conditions.round_trip_ms + conditions.load * entry.server_ms)
        + tail,
    )


def _round_costs(
    device: Sequence[float],
    server: Sequence[float],
    upload: Sequence[float],
    device_entry: float,
    server_entry: float,
) -> _Costs:
    """Round milliseconds or millijoules to whole units, of which a cut can be computed exactly."""
    total = sum(device) + sum(server) + sum(upload) + device_entry + server_entry
    if not total <= _LARGEST_TOTAL:
        raise TargetError(
            f"layers and transfers cost {total:.3g} ms or mJ together, expected at most "
            f"{_LARGEST_TOTAL:.3g}; check the link's rates and the layers' costs"
        )
    entries = (int(charge) for charge in _round([device_entry, server_entry]))
    return _Costs(_round(device), _round(server), _round(upload), *entries)


def _round(costs: Sequence[float]) -> _Capacities:
    return np.rint(np.array(costs, np.float64) * _UNITS_PER_MILLI).astype(np.int64)


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
