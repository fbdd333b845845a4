"""When everything of a request happens if device, link and server work at the same time.

Device, uplink, server and downlink each do one thing after the other, and begin as soon as they
can. The server is a list schedule (Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM
Journal on Applied Mathematics 1969) of one machine with release times.

A schedule never takes longer than the plan's latency, in which each waits for the one before.
Nothing returns to the device, so it never waits. Until the last tensor is sent, then, the device
computes or all that it makes is made and the uplink sends. Half a round trip later everything has
arrived, and the server computes until it is done. Whatever it made is then on its way or waits for
the downlink, which sends until it is done, half a round trip before the end. So the time is at most
that of all computing and sending, each counted once, and one round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heappush

from partc.graph import Layer, LayerGraph, Tensor
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, check_cut, transfer_ms

ENTRY = "(entry)"
"""What a machine does before its first layer; no layer's name."""


class Resource(str, Enum):
    """What does one thing at a time."""

    DEVICE = "device"
    UPLINK = "uplink"
    SERVER = "server"
    DOWNLINK = "downlink"


@dataclass(frozen=True)
class Activity:
    """Something that takes a resource for a while.

    Args:
        what: A layer that is computed, a tensor that is sent, or :data:`ENTRY`.
        where: What is taken.
        start_ms: Since the request began.
        end_ms: Likewise. What is sent arrives half a round trip later.
    """

    what: str
    where: Resource
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Schedule:
    """One request.

    Args:
        activities: Of each resource in turn, in the order in which they happen.
        latency_ms: When every layer is computed and every output is on the device.
    """

    activities: tuple[Activity, ...]
    latency_ms: float

    def on(self, where: Resource) -> tuple[Activity, ...]:
        """What one resource does."""
        return tuple(activity for activity in self.activities if activity.where is where)

    def busy_ms(self, where: Resource) -> float:
        """How long a resource is taken."""
        return sum(activity.end_ms - activity.start_ms for activity in self.on(where))


@dataclass(frozen=True)
class Durations:
    """How long everything takes that a cut may ask for, in ms.

    Args:
        device: Of every layer, by name.
        server: The same on the server, as loaded as it is.
        upload: Of every tensor, by name.
        download: Likewise.
        device_entry: Of what comes before the device's first layer.
        server_entry: The same of the server.
        half_trip: From when a message was sent until it is there.
    """

    device: Mapping[str, float]
    server: Mapping[str, float]
    upload: Mapping[str, float]
    download: Mapping[str, float]
    device_entry: float
    server_entry: float
    half_trip: float


def durations(
    graph: LayerGraph, conditions: Conditions, entry: EntryCharges = FREE_ENTRY
) -> Durations:
    """How long the layers and tensors of an annotated graph take.

    Raises:
        GraphError: A layer is not annotated.
    """
    load, up, down = conditions.load, conditions.uplink_mbps, conditions.downlink_mbps
    return Durations(
        device={layer.name: layer.annotated_cost.device_ms for layer in graph.layers},
        server={layer.name: layer.annotated_cost.server_ms * load for layer in graph.layers},
        upload={tensor.name: transfer_ms(tensor.nbytes, up) for tensor in graph.tensors},
        download={tensor.name: transfer_ms(tensor.nbytes, down) for tensor in graph.tensors},
        device_entry=entry.device_ms,
        server_entry=entry.server_ms * load,
        half_trip=conditions.round_trip_ms / 2,
    )


def schedule(
    graph: LayerGraph, cut: Cut, conditions: Conditions, entry: EntryCharges = FREE_ENTRY
) -> Schedule:
    """When everything happens if nothing waits longer than it has to.

    The device computes its layers in the graph's order. What crosses is sent in the order in which
    it is ready. The server computes its layers as they become ready; of several that are, the first
    in the graph's order, to its end.

    Args:
        graph: An annotated graph.
        cut: Which of its layers run on the server.
        conditions: What the link and the server are like.
        entry: What each side takes once before its first layer.

    Raises:
        GraphError: The cut is none of this graph, or the graph is not annotated.
    """
    check_cut(graph, cut)
    return run(graph, cut, durations(graph, conditions, entry))


def run(graph: LayerGraph, cut: Cut, took: Durations) -> Schedule:
    """The same for a valid cut, where the durations are known."""
    local = [layer for layer in graph.layers if layer.name not in cut.server_layers]
    remote = [layer for layer in graph.layers if layer.name in cut.server_layers]
    device = list(_compute(local, took))
    made = {**dict.fromkeys((tensor.name for tensor in graph.inputs), 0.0), **_made(local, device)}

    read_there = {tensor.name for layer in remote for tensor in layer.inputs}
    crossing = {name: ready for name, ready in made.items() if name in read_there}
    uplink = list(_send(Resource.UPLINK, crossing, took.upload))
    arrivals = {sent.what: sent.end_ms + took.half_trip for sent in uplink}
    server = list(_serve(graph, remote, arrivals, took))

    made_there = _made(remote, server)
    returned = {t.name: made_there[t.name] for t in graph.outputs if t.name in made_there}
    downlink = list(_send(Resource.DOWNLINK, returned, took.download))
    ends = [
        *(activity.end_ms for activity in (*device[-1:], *server[-1:])),
        *(sent.end_ms + took.half_trip for sent in downlink[-1:]),
    ]
    return Schedule((*device, *uplink, *server, *downlink), max(ends, default=0.0))


def _compute(layers: list[Layer], took: Durations) -> Iterator[Activity]:
    """The device: one layer after the other."""
    free_ms = 0.0
    if layers and took.device_entry:
        free_ms = took.device_entry
        yield Activity(ENTRY, Resource.DEVICE, 0.0, free_ms)
    for layer in layers:
        start_ms, free_ms = free_ms, free_ms + took.device[layer.name]
        yield Activity(layer.name, Resource.DEVICE, start_ms, free_ms)


def _made(layers: Iterable[Layer], computed: Iterable[Activity]) -> dict[str, float]:
    """When each tensor is made, in the graph's order."""
    ends = {activity.what: activity.end_ms for activity in computed}
    return {tensor.name: ends[layer.name] for layer in layers for tensor in layer.outputs}


def _send(
    where: Resource, ready: Mapping[str, float], took: Mapping[str, float]
) -> Iterator[Activity]:
    """One tensor after the other, as they become ready."""
    free_ms = 0.0
    for name in sorted(ready, key=ready.__getitem__):
        start_ms = max(free_ms, ready[name])
        free_ms = start_ms + took[name]
        yield Activity(name, where, start_ms, free_ms)


def _serve(
    graph: LayerGraph, layers: list[Layer], arrivals: Mapping[str, float], took: Durations
) -> Iterator[Activity]:
    """The server: of the layers that are ready, the first in order, and then again.

    A layer that reads nothing is ready when word of the request has arrived.
    """
    positions = {layer.name: position for position, layer in enumerate(layers)}
    missing = [sum(t.name not in arrivals for t in layer.inputs) for layer in layers]
    ready_ms = [_latest(layer.inputs, arrivals, took.half_trip) for layer in layers]
    coming = [(ready_ms[n], n) for n in range(len(layers)) if not missing[n]]
    heapify(coming)
    here: list[int] = []
    free_ms = 0.0
    if layers and took.server_entry:
        start_ms, free_ms = coming[0][0], coming[0][0] + took.server_entry
        yield Activity(ENTRY, Resource.SERVER, start_ms, free_ms)
    while coming or here:
        if not here:
            free_ms = max(free_ms, coming[0][0])
        while coming and coming[0][0] <= free_ms:
            heappush(here, heappop(coming)[1])
        layer = layers[heappop(here)]
        start_ms, free_ms = free_ms, free_ms + took.server[layer.name]
        yield Activity(layer.name, Resource.SERVER, start_ms, free_ms)
        for tensor in layer.outputs:
            for reader in graph.consumers[tensor.name]:
                position = positions[reader.name]
                missing[position] -= 1
                if not missing[position]:
                    heappush(coming, (max(ready_ms[position], free_ms), position))


def _latest(read: Iterable[Tensor], arrivals: Mapping[str, float], least_ms: float) -> float:
    """When the last of the tensors that are sent has arrived."""
    return max((arrivals.get(tensor.name, least_ms) for tensor in read), default=least_ms)
