"""The cut whose schedule is the shortest, where device, link and server work at the same time.

To put layers on two machines so that the last is done soonest is NP-hard, even without a link
(Garey and Johnson, "Computers and Intractability", 1979, SS8). So branch and bound looks at every
cut of a graph that has few of them, as chains and blocks with some branches do; on others, local
search improves on the best of several minimum cuts, and a lower bound tells how far it may be from
the best. DADS (Hu, Bao, Wang and Liu, INFOCOM 2019) weighs device, link and server for heavy load;
minimum cuts of such weights are where the search starts from. They bound it as well: a schedule is
as long as its busiest resource at least, and so as any weighted mean of the resources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, compress, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from partc.cost import LATENCY, Cost
from partc.graph import Layer, LayerGraph, Tensor
from partc.passes.cut import find_cut
from partc.passes.limited import Limits, Optimum, find_limited_cut, keeps, resolution
from partc.passes.price import price
from partc.passes.schedule import Durations, durations, run
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, Side

_Flags: TypeAlias = NDArray[np.bool_]

_EFFORT = 200_000  # layers placed or scheduled, by branch and bound and again by local search
_CLOSE = 1e-9  # relative; sums of the same times in another order differ by less

_RESOURCES = (
    Cost(device_ms=1),
    Cost(upload_ms=1, round_trip_ms=0.5),
    Cost(server_ms=1, round_trip_ms=0.5),
    Cost(download_ms=1, round_trip_ms=0.5),
)
"""What takes a schedule's time; all but the device wait half a round trip before or after."""

_MEANS = (
    *_RESOURCES,
    *((a + b) * 0.5 for a, b in combinations(_RESOURCES, 2)),
    sum(_RESOURCES, Cost()) * 0.25,
)


def find_overlapped_cut(
    graph: LayerGraph,
    conditions: Conditions,
    limits: Limits,
    entry: EntryCharges = FREE_ENTRY,
) -> Optimum:
    """The cut with the shortest schedule, of those that keep all limits.

    Takes memory that grows with the square of the layers.

    Args:
        graph: An annotated graph.
        conditions: What the link and the server are like.
        limits: What the cut has to keep, each cost as of a plan without overlap.
        entry: What each side takes once before its first layer.

    Returns:
        The optimum where the graph has few enough cuts; elsewhere the best that was found, with a
        bound. Never longer than the schedule of the cut that is best without overlap.

    Raises:
        GraphError: A pin names no layer.
        InfeasibleError: No cut keeps all limits.
    """
    bounds = _Bounds(graph, durations(graph, conditions, entry), limits.pins)
    search = _Search(bounds, limits)
    in_turn = price(graph, LATENCY, conditions, entry)
    search.try_cut(find_limited_cut(graph, [in_turn], limits).cut)
    bound_ms = bounds.longest_way_ms()
    for cost in _MEANS:
        mean = price(graph, cost, conditions, entry)
        cut = find_cut(graph, mean, limits.pins)
        bound_ms = max(bound_ms, mean.of(graph, cut) - resolution(graph, mean))
        search.try_cut(cut)
    if search.try_all():
        bound_ms = search.best_ms
    else:
        search.improve()
    return Optimum(search.best, search.best_ms, min(bound_ms, search.best_ms))


@dataclass(frozen=True)
class _Read:
    """A tensor that a layer reads.

    Args:
        maker: The position of the layer that makes it; None for an input of the model.
        earlier: Positions of the layers before this one that read it, too.
        upload_ms: How long the uplink is busy with it.
        arrive_ms: From when it is made until it is on the server at the earliest.
    """

    maker: int | None
    earlier: tuple[int, ...]
    upload_ms: float
    arrive_ms: float


def _reads(graph: LayerGraph, took: Durations) -> Iterator[list[_Read]]:
    """What each layer reads."""
    positions = {layer.name: position for position, layer in enumerate(graph.layers)}

    def read(tensor: Tensor, position: int) -> _Read:
        maker = graph.producers.get(tensor.name)
        readers = (positions[reader.name] for reader in graph.consumers[tensor.name])
        upload_ms = took.upload[tensor.name]
        return _Read(
            maker=None if maker is None else positions[maker.name],
            earlier=tuple(reader for reader in readers if reader < position),
            upload_ms=upload_ms,
            arrive_ms=upload_ms + took.half_trip,
        )

    for position, layer in enumerate(graph.layers):
        yield [read(tensor, position) for tensor in layer.inputs]


def _behind(reads: list[list[_Read]]) -> _Flags:
    """Which layers depend on each, a row for each."""
    found = np.zeros((len(reads), len(reads)), bool)
    for position in reversed(range(len(reads))):
        for read in reads[position]:
            if read.maker is not None:
                found[read.maker] |= found[position]
                found[read.maker, position] = True
    return found


class _Bounds:
    """What schedules take at least.

    As nothing returns, all that a layer on the device depends on is computed there before it, and
    all that depends on a layer on the server is computed there after it, one at a time.

    Args:
        graph: An annotated graph.
        took: How long its layers and tensors take.
        pins: The side on which a layer must run, by name.
    """

    def __init__(self, graph: LayerGraph, took: Durations, pins: Mapping[str, Side]) -> None:
        self.graph, self.took = graph, took
        self.pins = [pins.get(layer.name) for layer in graph.layers]
        self.device = [took.device[layer.name] for layer in graph.layers]
        self.server = [took.server[layer.name] for layer in graph.layers]
        self.reads = list(_reads(graph, took))
        self.behind = _behind(self.reads)
        self.first_ms = took.half_trip + took.server_entry
        self.device_tail, self.server_tail = self._tails()

    def _tails(self) -> tuple[list[float], list[float]]:
        """From the end of each layer on either side to that of the schedule."""
        device = [0.0] * len(self.device)
        server = [self._return_ms(layer) for layer in self.graph.layers]
        # What the server computes last is read by nothing, and may have to return.
        behind_ms = (self.behind @ np.array(self.server)).tolist()
        last = [math.inf if any(row) else way for row, way in zip(self.behind, server, strict=True)]
        for n in reversed(range(len(device))):
            server[n] = max(server[n], behind_ms[n] + last[n])
            there = self.server[n] + server[n]
            for read in self.reads[n]:
                if read.maker is not None:
                    either = min(self.device[n] + device[n], read.arrive_ms + there)
                    device[read.maker] = max(device[read.maker], either)
                    server[read.maker] = max(server[read.maker], there)
                    last[read.maker] = min(last[read.maker], last[n])
        return device, server

    def _return_ms(self, layer: Layer) -> float:
        """From when the server has made a layer's outputs until they are on the device."""
        wanted = {tensor.name for tensor in self.graph.outputs}
        sent = [self.took.download[each.name] for each in layer.outputs if each.name in wanted]
        return max(sent) + self.took.half_trip if sent else 0.0

    def longest_way_ms(self) -> float:
        """Through the layers, each on the side where that takes less."""
        before_ms = self.took.device_entry + np.array(self.device) @ self.behind
        device, server = (before_ms + self.device).tolist(), list[float]()
        longest_ms = 0.0
        for n, reads in enumerate(self.reads):
            arrivals = (
                read.arrive_ms
                if read.maker is None
                else min(device[read.maker] + read.arrive_ms, server[read.maker])
                for read in reads
            )
            server.append(max([self.first_ms, *arrivals]) + self.server[n])
            ways = {
                Side.DEVICE: device[n] + self.device_tail[n],
                Side.SERVER: server[n] + self.server_tail[n],
            }
            pin = self.pins[n]
            longest_ms = max(longest_ms, min(ways.values()) if pin is None else ways[pin])
        return longest_ms


class _Placed:
    """The first layers of a graph, each on a side, and what a schedule with them takes at least.

    Lists hold a number for each count of layers placed, so that placing a layer takes back all
    that were placed from its position on.

    Args:
        bounds: Of the graph.
    """

    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds
        count = len(bounds.device)
        self.on_server = np.zeros(count, bool)
        self._ends = [0.0] * count
        self._device_end = [bounds.took.device_entry] * (count + 1)
        self._sent = [0.0] * (count + 1)
        self._served = [0.0] * (count + 1)
        self._serves_from = [math.inf] * (count + 1)
        self._returns = [math.inf] * (count + 1)

    def place(self, n: int, on_server: bool) -> float:
        """Put layer ``n`` on a side, those before it being placed; infinite if it cannot be."""
        pin = self._bounds.pins[n]
        if pin is not None and on_server != (pin is Side.SERVER):
            return math.inf
        self.on_server[n] = on_server
        for each in (
            self._device_end,
            self._sent,
            self._served,
            self._serves_from,
            self._returns,
        ):
            each[n + 1] = each[n]
        return self._on_server(n) if on_server else self._on_device(n)

    def _on_device(self, n: int) -> float:
        bounds = self._bounds
        if any(read.maker is not None and self.on_server[read.maker] for read in bounds.reads[n]):
            return math.inf
        self._ends[n] = self._device_end[n + 1] = self._device_end[n] + bounds.device[n]
        return self._ends[n] + bounds.device_tail[n]

    def _on_server(self, n: int) -> float:
        bounds = self._bounds
        start_ms = bounds.first_ms
        for read in bounds.reads[n]:
            if read.maker is not None and self.on_server[read.maker]:
                start_ms = max(start_ms, self._ends[read.maker])
                continue
            made_ms = 0.0 if read.maker is None else self._ends[read.maker]
            start_ms = max(start_ms, made_ms + read.arrive_ms)
            if not any(self.on_server[reader] for reader in read.earlier):
                self._sent[n + 1] += read.upload_ms
        self._ends[n] = start_ms + bounds.server[n]
        self._served[n + 1] += bounds.server[n]
        self._serves_from[n + 1] = min(self._serves_from[n], start_ms)
        self._returns[n + 1] = min(self._returns[n], bounds.server_tail[n])
        return max(
            self._ends[n] + bounds.server_tail[n],
            self._serves_from[n + 1] + self._served[n + 1] + self._returns[n + 1],
            self._sent[n + 1] + bounds.took.half_trip,
        )


class _Search:
    """The best of the cuts tried so far, and ways to find better ones.

    Args:
        bounds: Of the graph.
        limits: What cuts have to keep.
    """

    def __init__(self, bounds: _Bounds, limits: Limits) -> None:
        self._bounds, self._limits = bounds, limits
        self.best, self.best_ms = Cut.device_only(), math.inf

    def try_cut(self, cut: Cut) -> bool:
        """Take a cut if it is allowed and better; whether it was."""
        graph = self._bounds.graph
        if not keeps(graph, cut, self._limits):
            return False
        latency_ms = run(graph, cut, self._bounds.took).latency_ms
        better = latency_ms < self.best_ms
        if better:
            self.best, self.best_ms = cut, latency_ms
        return better

    def _try_flags(self, on_server: _Flags) -> bool:
        layers = compress(self._bounds.graph.layers, on_server)
        return self.try_cut(Cut(frozenset(layer.name for layer in layers)))

    def try_all(self) -> bool:
        """Branch and bound: place layer after layer; whether there was time for all cuts."""
        count, effort = len(self._bounds.device), _EFFORT
        placed = _Placed(self._bounds)
        left = [(0, True), (0, False)] if count else []
        while left and effort > 0:
            n, on_server = left.pop()
            effort -= 1
            if placed.place(n, on_server) >= self.best_ms * (1 - _CLOSE):
                continue
            if n + 1 < count:
                left += [(n + 1, True), (n + 1, False)]
            else:
                effort -= count
                self._try_flags(placed.on_server)
        return not left

    def improve(self) -> None:
        """Local search: move a layer, and what has to go with it, while that helps."""
        tries = _EFFORT // len(self._bounds.device)
        moved = True
        while moved:
            moved = False
            for cut in islice(self._moves(), tries):
                tries -= 1
                moved = self._try_flags(cut)
                if moved:
                    break

    def _moves(self) -> Iterator[_Flags]:
        """The cuts next to the best, those first in which few layers are elsewhere.

        Behind a layer on the server, all are; before one on the device, so are they.
        """
        behind, layers = self._bounds.behind, self._bounds.graph.layers
        now = np.array([layer.name in self.best.server_layers for layer in layers], bool)
        own = np.eye(len(layers), dtype=bool)
        moved = np.where(now[:, None], now & ~(behind.T | own), now | behind | own)
        for n in np.argsort((moved != now).sum(axis=1), kind="stable"):
            yield moved[n]
