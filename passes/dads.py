"""DADS as published: the minimum cuts that it chooses for light load and for heavy load.

Hu, Bao, Wang and Liu, "Dynamic Adaptive DNN Surgery for Inference Acceleration on the Edge",
INFOCOM 2019. In its network each layer is a vertex and sends all of its output or nothing, through
an auxiliary vertex, so that several readers pay for it once. Nothing keeps a device layer from
reading what the server made, and that way costs nothing. What it chooses may therefore be no cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from partc.errors import CompilerError
from partc.graph import LayerGraph
from partc.passes.closure import Integers, Network, add_arcs
from partc.passes.envelope import find_vertices
from partc.passes.price import Array, Price
from partc.plan import Cut

_SOURCE, _SINK, _FIRST_LAYER = 0, 1, 2
_TOTAL_BITS = 50  # of all capacities together, which leaves room for infinite ones in 64
_INFINITE = 2 ** (_TOTAL_BITS + 2)

_FINER = 10
"""What the step of the weights is divided by after each search; the paper does not say."""

_TIE = 1e-9
"""How much less than another cut one may cost, relative to it, and be taken for equal."""

_MOST_STEPS = 2**20
"""Of the server's weight: one of a million leaves nothing of a transfer to weigh against it."""

Sides: TypeAlias = NDArray[np.bool_]
"""For every layer whether it is on the server."""


def light_load_cut(graph: LayerGraph, price: Price) -> Cut:
    """What DADS chooses if each request is done before the next one comes, runnable or not.

    Its DSL (algorithm 1): the minimum cut, so the least sum of the device's time, the upload's and
    the server's. Among equals, the fewest layers are on the server.

    Args:
        graph: Layers.
        price: What they cost; charges for entering a side are not known to DADS.

    Raises:
        CompilerError: The solver found no minimum cut.
    """
    return _as_cut(graph, _read_surgery(graph, price).cut(np.ones(3)))


def heavy_load_cut(graph: LayerGraph, price: Price) -> Cut:
    """What DADS chooses if requests queue, runnable or not.

    Its DSH (algorithm 2). The largest of the device's time, the upload's and the server's is to be
    least, which is NP-hard. So minimum cuts are made with many weights of the device and of the
    server, an upload weighing one, and the best of these cuts is taken. The weights are those of a
    grid: at first with steps of one, up to all that a side takes over the shortest upload, then
    finer around the best point until nothing is gained. What is found is at most three times the
    least (theorem 1). A cut that is the minimum for no weights at all is never found.

    The grid may have millions of points, but few different minimum cuts. So these are found first,
    and then which of them are the minimum at a point. Where several are, the best one counts.

    Args:
        graph: Layers.
        price: What they cost, in ms.

    Raises:
        CompilerError: The solver found no minimum cut.
    """
    surgery = _read_surgery(graph, price)
    cuts = _cuts_for_any_weights(surgery)
    chosen = _search_weights(np.array(list(cuts)), surgery.largest_weights)
    return _as_cut(graph, list(cuts.values())[chosen])


def _as_cut(graph: LayerGraph, on_server: Sides) -> Cut:
    return Cut(frozenset(layer.name for layer in compress(graph.layers, on_server)))


# The network -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Surgery:
    """What DADS knows of a model.

    Args:
        device: What each layer costs there, of shape (layers,).
        server: Likewise.
        sending: What it costs to send what each maker made, of shape (makers,): first the model's
            inputs, then the layers.
        read: The makers of everything that is read, of shape (reads,).
        readers: The layers that read it, likewise.
    """

    device: Array
    server: Array
    sending: Array
    read: Integers
    readers: Integers

    @property
    def largest_weights(self) -> tuple[float, float]:
        """Of the device and of the server; what takes no time to send says nothing of them."""
        least = float(self.sending[self.sending > 0].min(initial=math.inf))
        return float(self.device.sum()) / least, float(self.server.sum()) / least

    def stages(self, on_server: Sides) -> tuple[float, float, float]:
        """What the device's layers cost, the upload and the server's layers."""
        here = np.concatenate([np.ones(len(self.sending) - len(on_server), bool), ~on_server])
        sent = np.zeros(len(self.sending), bool)
        sent[self.read[on_server[self.readers]]] = True
        return (
            float(self.device[~on_server].sum()),
            float(self.sending[sent & here].sum()),
            float(self.server[on_server].sum()),
        )

    def cut(self, weights: Array) -> Sides:
        """The minimum cut for weights of the stages, at most one each.

        The source is the device, and a model's input is a layer that is there. Every maker has an
        auxiliary vertex. The published network gives those with one reader an arc to it instead,
        which is the same: behind the vertex, arcs are infinite.
        """
        layers = _FIRST_LAYER + np.arange(len(self.device))
        inputs = len(self.sending) - len(layers)
        makers = np.concatenate([np.full(inputs, _SOURCE), layers])
        auxiliary = _FIRST_LAYER + len(layers) + np.arange(len(makers))
        network: Network = SimpleMaxFlow()
        device, sending, server = self._capacities(weights)
        add_arcs(network, _SOURCE, layers, server)
        add_arcs(network, layers, _SINK, device)
        add_arcs(network, makers, auxiliary, sending)
        add_arcs(network, auxiliary[self.read], layers[self.readers], _INFINITE)
        if (status := network.solve(_SOURCE, _SINK)) != SimpleMaxFlow.OPTIMAL:
            raise CompilerError(f"DADS has no minimum cut of {len(layers)} layers: {status}")
        there = np.zeros(_FIRST_LAYER + len(layers) + len(makers), bool)
        there[network.get_sink_side_min_cut()] = True
        return there[layers]

    def _capacities(self, weights: Array) -> Iterable[Integers]:
        """In whole units, so many to a ms or mJ that whole ones stay exact: a power of two."""
        stages = (self.device, self.sending, self.server)
        total = sum(float(costs.sum()) for costs in stages)
        units = math.ldexp(1.0, _TOTAL_BITS - math.frexp(max(1.0, total))[1])
        for weight, costs in zip(weights.tolist(), stages, strict=True):
            yield np.rint(units * weight * costs).astype(np.int64)


def _read_surgery(graph: LayerGraph, price: Price) -> _Surgery:
    makes = [*([tensor] for tensor in graph.inputs), *(layer.outputs for layer in graph.layers)]
    made_by = {tensor.name: maker for maker, made in enumerate(makes) for tensor in made}
    read = [made_by[tensor.name] for layer in graph.layers for tensor in layer.inputs]
    is_read = np.array([bool(graph.consumers[tensor.name]) for tensor in graph.tensors], bool)
    makers = np.repeat(np.arange(len(makes)), [len(made) for made in makes])
    return _Surgery(
        device=price.device,
        server=price.server,
        sending=np.bincount(makers, price.upload * is_read, len(makes)).astype(np.float64),
        read=np.array(read, np.int64),
        readers=np.repeat(
            np.arange(len(graph.layers)), [len(layer.inputs) for layer in graph.layers]
        ),
    )


# Weights -----------------------------------------------------------------------------------------


def _cuts_for_any_weights(surgery: _Surgery) -> dict[tuple[float, ...], Sides]:
    """Minimum cuts for all weights of the stages, by what their stages cost.

    Only the ratio of the weights counts, so the largest of them may be one: what the others may be
    is a square then, over which the planes of known cuts meet where an unknown one may be less (see
    :mod:`partc.passes.envelope`).
    """
    cuts: dict[tuple[float, ...], Sides] = {}
    for largest in range(3):
        points = set(product((0.0, 1.0), repeat=2))
        seen: set[tuple[float, ...]] = set()
        while points:
            found = [surgery.cut(np.insert(point, largest, 1.0)) for point in sorted(points)]
            cuts.update((surgery.stages(each), each) for each in found)
            seen |= points
            stages = np.array(list(cuts))
            planes = np.column_stack([stages[:, largest], np.delete(stages, largest, axis=1)])
            points = {(float(x), float(y)) for x, y in find_vertices(planes)} - seen
    return cuts


def _search_weights(stages: Array, largest: tuple[float, float]) -> int:
    """The cut that DADS's search ends with.

    Args:
        stages: What the device, the upload and the server cost, of shape (cuts, 3).
        largest: Up to where the weights of device and server are searched at first.
    """
    low, high, step = (0.0, 0.0), largest, 1.0
    least = math.inf
    while True:
        chosen, point = search_grid(stages, low, high, step)
        if (found := float(stages[chosen].max())) >= least:
            return chosen
        least = found
        low = (max(0.0, point[0] - step), max(0.0, point[1] - step))
        high = (point[0] + step, point[1] + step)
        step /= _FINER


def search_grid(
    stages: Array, low: tuple[float, float], high: tuple[float, float], step: float
) -> tuple[int, tuple[float, float]]:
    """Of cuts that are the minimum at a point of the grid, the one of least largest stage.

    Returns:
        Which it is, and the last point of the grid where it is the minimum.
    """
    for which in np.argsort(stages.max(axis=1), kind="stable").tolist():
        if point := _last_point(stages - stages[which], low, high, step):
            return which, point
    raise CompilerError(f"none of {len(stages)} cuts is the minimum at a point of DADS's grid")


def _last_point(
    others: Array, low: tuple[float, float], high: tuple[float, float], step: float
) -> tuple[float, float] | None:
    """The last of the points where other cuts cost no less, which is a range on every line.

    Args:
        others: How much more others cost of each stage, of shape (cuts, 3).
        low: The first weights of device and server,
        high: the last ones,
        step: and by what they grow.
    """
    count = min(math.floor((high[1] - low[1]) / step + _TIE), _MOST_STEPS)
    servers = low[1] + step * np.arange(count + 1)
    first = np.zeros(len(servers))
    last = np.full(len(servers), math.floor((high[0] - low[0]) / step + _TIE), float)
    for device, upload, server in others.tolist():
        rest = upload + server * servers
        rest += _TIE * (abs(upload) + abs(server) * servers + abs(device) * low[0])
        if device == 0:
            last[rest < 0] = -1
            continue
        tie = (-rest / device - low[0]) / step
        if device > 0:
            np.maximum(first, np.ceil(tie), out=first)
        else:
            np.minimum(last, np.floor(tie), out=last)
    lines = np.flatnonzero(first <= last)
    if not lines.size:
        return None
    line = lines[last[lines] == last[lines].max()][-1]
    return low[0] + step * float(last[line]), float(servers[line])
