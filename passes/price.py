"""What every single choice of a cut adds to a cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from partc.cost import Cost
from partc.errors import TargetError
from partc.graph import LayerGraph
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, crossing, transfer_ms

Array: TypeAlias = NDArray[np.float64]

UNITS_PER_MILLI = 1e6
"""Solvers take whole numbers: a ms or mJ is so many of them, which are ns or nJ."""


@dataclass(frozen=True)
class Price:
    """A cost, choice by choice: it adds up to what :class:`Cost` makes of the plan.

    Args:
        device: Of every layer on the device.
        server: Of every layer on the server, with the download of the outputs it makes.
        encodings: Of sending every tensor in every encoding, in the order of ``graph.tensors`` and
            of their encodings.
        starts: Where in ``encodings`` each tensor's begin; None if each has one.
        device_entry: Of computing on the device at all.
        server_entry: Of asking the server at all.
    """

    device: Array
    server: Array
    encodings: Array
    device_entry: float
    server_entry: float
    starts: NDArray[np.int64] | None = None

    @cached_property
    def upload(self) -> Array:
        """Of every tensor, sent in the encoding that costs least."""
        if self.starts is None:
            return self.encodings
        return np.minimum.reduceat(self.encodings, self.starts)

    @property
    def total(self) -> float:
        """Of all choices together, which no cut exceeds."""
        choices = float(self.device.sum() + self.server.sum() + self.encodings.sum())
        return choices + self.device_entry + self.server_entry

    def best_encodings(self, graph: LayerGraph, cut: Cut) -> Cut:
        """The cut with every tensor that crosses sent in the encoding that costs least."""
        if self.starts is None:
            return cut
        crosses = _crossing(graph, cut)
        chosen = (
            (tensor.name, graph.encodings_of(tensor)[int(costs.argmin())])
            for tensor, costs, sent in zip(
                graph.tensors, np.split(self.encodings, self.starts[1:]), crosses, strict=True
            )
            if sent
        )
        return replace(
            cut,
            encodings=tuple((name, how.name) for name, how in chosen if not how.as_given),
        )

    def of(self, graph: LayerGraph, cut: Cut) -> float:
        """What a cut costs."""
        on_server = np.array([layer.name in cut.server_layers for layer in graph.layers], bool)
        entries = (not on_server.all()) * self.device_entry + on_server.any() * self.server_entry
        choices = self.device[~on_server].sum() + self.server[on_server].sum()
        sent = self.encodings[self._chosen(graph, cut)][_crossing(graph, cut)]
        return float(choices + sent.sum() + entries)

    def _chosen(self, graph: LayerGraph, cut: Cut) -> NDArray[np.int64]:
        """Where in ``encodings`` that of each tensor is which the cut chooses."""
        first = np.arange(len(graph.tensors)) if self.starts is None else self.starts
        if not cut.encodings:
            return first
        wanted = dict(cut.encodings)
        later = [
            [how.name for how in graph.encodings_of(tensor)].index(wanted[tensor.name])
            if tensor.name in wanted
            else 0
            for tensor in graph.tensors
        ]
        return first + np.array(later)


def check_total(total: float, largest_units: float) -> None:
    """Refuse costs that are too large to add up.

    Args:
        total: Of all costs together, in ms or mJ.
        largest_units: What they may come to, in whole units.

    Raises:
        TargetError: They come to more.
    """
    most = largest_units / UNITS_PER_MILLI
    if not total <= most:
        raise TargetError(
            f"layers and transfers cost {total:.3g} ms or mJ together, expected at most "
            f"{most:.3g}; check the rates of the network and the layers' costs"
        )


def _crossing(graph: LayerGraph, cut: Cut) -> NDArray[np.bool_]:
    """Of every tensor, whether it is sent."""
    sent = {tensor.name for tensor in crossing(graph, cut)}
    return np.array([tensor.name in sent for tensor in graph.tensors], bool)


def price(
    graph: LayerGraph, cost: Cost, conditions: Conditions, entry: EntryCharges = FREE_ENTRY
) -> Price:
    """Work out what every choice adds to a cost.

    Raises:
        GraphError: A layer is not annotated.
    """
    known = [layer.annotated_cost for layer in graph.layers]
    device_ms = np.array([each.device_ms for each in known])
    device_mj = np.array([each.device_mj for each in known])
    server_ms = np.array([each.server_ms for each in known])

    serving = cost.server_ms * conditions.load
    download = cost.download_ms * transfer_ms(1, conditions.downlink_mbps)
    sending = cost.upload_ms * transfer_ms(1, conditions.uplink_mbps) + cost.upload_nbytes
    return Price(
        device=cost.device_ms * device_ms + cost.device_mj * device_mj,
        server=serving * server_ms + download * returned_nbytes(graph),
        encodings=sending * _nbytes(graph) + _encoding(graph, cost, serving),
        device_entry=cost.device_ms * entry.device_ms + cost.device_mj * entry.device_mj,
        server_entry=serving * entry.server_ms
        + cost.round_trip_ms * conditions.round_trip_ms
        + cost.asking,
        starts=_starts(graph),
    )


def _starts(graph: LayerGraph) -> NDArray[np.int64] | None:
    if not graph.encodings:
        return None
    counts = [len(graph.encodings_of(tensor)) for tensor in graph.tensors]
    return np.cumsum([0, *counts[:-1]])


def _nbytes(graph: LayerGraph) -> Array:
    """Of every tensor in every encoding."""
    if not graph.encodings:
        return np.array([tensor.nbytes for tensor in graph.tensors], float)
    return np.array([how.nbytes for each in graph.tensors for how in graph.encodings_of(each)])


def _encoding(graph: LayerGraph, cost: Cost, serving: float) -> Array | float:
    """What encoding and decoding costs, and what it does to the outputs."""
    if not graph.encodings:
        return 0.0
    return np.array(
        [
            cost.device_ms * how.encode_ms
            + cost.device_mj * how.encode_mj
            + serving * how.decode_ms
            + cost.deviation * how.deviation
            for tensor in graph.tensors
            for how in graph.encodings_of(tensor)
        ]
    )


def returned_nbytes(graph: LayerGraph) -> Array:
    """Bytes of the model's outputs that each layer makes."""
    returned = {tensor.name for tensor in graph.outputs}
    made = (
        sum(tensor.nbytes for tensor in layer.outputs if tensor.name in returned)
        for layer in graph.layers
    )
    return np.fromiter(made, float, len(graph.layers))
