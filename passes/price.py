"""What every single choice of a cut adds to a cost."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from partc.cost import Cost
from partc.graph import LayerGraph
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, transfer_ms

Array: TypeAlias = NDArray[np.float64]

UNITS_PER_MILLI = 1e6
"""Solvers take whole numbers: a ms or mJ is so many of them, which are ns or nJ."""


@dataclass(frozen=True)
class Price:
    """A cost, choice by choice: it adds up to what :class:`Cost` makes of the plan.

    Args:
        device: Of every layer on the device.
        server: Of every layer on the server, with the download of the outputs it makes.
        upload: Of every tensor, in the order of ``graph.tensors``.
        device_entry: Of computing on the device at all.
        server_entry: Of asking the server at all.
    """

    device: Array
    server: Array
    upload: Array
    device_entry: float
    server_entry: float

    @property
    def total(self) -> float:
        """Of all choices together, which no cut exceeds."""
        choices = float(self.device.sum() + self.server.sum() + self.upload.sum())
        return choices + self.device_entry + self.server_entry

    def of(self, graph: LayerGraph, cut: Cut) -> float:
        """What a cut costs."""
        on_server = np.array([layer.name in cut.server_layers for layer in graph.layers], bool)
        there = list(compress(graph.layers, on_server))
        sent = {tensor.name for layer in there for tensor in layer.inputs}
        sent.difference_update(tensor.name for layer in there for tensor in layer.outputs)
        crosses = np.array([tensor.name in sent for tensor in graph.tensors], bool)
        entries = (not on_server.all()) * self.device_entry + on_server.any() * self.server_entry
        choices = self.device[~on_server].sum() + self.server[on_server].sum()
        return float(choices + self.upload[crosses].sum() + entries)


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
    nbytes = np.array([tensor.nbytes for tensor in graph.tensors])

    serving = cost.server_ms * conditions.load
    download = cost.download_ms * transfer_ms(1, conditions.downlink_mbps)
    upload = cost.upload_ms * transfer_ms(1, conditions.uplink_mbps) + cost.upload_nbytes
    return Price(
        device=cost.device_ms * device_ms + cost.device_mj * device_mj,
        server=serving * server_ms + download * returned_nbytes(graph),
        upload=upload * nbytes,
        device_entry=cost.device_ms * entry.device_ms + cost.device_mj * entry.device_mj,
        server_entry=serving * entry.server_ms
        + cost.round_trip_ms * conditions.round_trip_ms
        + cost.asking,
    )


def returned_nbytes(graph: LayerGraph) -> Array:
    """Bytes of the model's outputs that each layer makes."""
    returned = {tensor.name for tensor in graph.outputs}
    made = (
        sum(tensor.nbytes for tensor in layer.outputs if tensor.name in returned)
        for layer in graph.layers
    )
    return np.fromiter(made, float, len(graph.layers))
