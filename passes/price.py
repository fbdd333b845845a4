"""What every single choice of a cut adds to a cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from partc.cost import Cost
from partc.graph import LayerGraph, Tensor
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, transfer_ms

Array: TypeAlias = NDArray[np.float64]


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
        made_there = {
            tensor.name
            for layer in graph.layers
            if layer.name in cut.server_layers
            for tensor in layer.outputs
        }
        read_there = {
            tensor.name
            for layer in graph.layers
            if layer.name in cut.server_layers
            for tensor in layer.inputs
        }
        crosses = [tensor.name in read_there - made_there for tensor in graph.tensors]
        entries = (not on_server.all()) * self.device_entry + on_server.any() * self.server_entry
        choices = self.device[~on_server].sum() + self.server[on_server].sum()
        return float(choices + self.upload[np.array(crosses, bool)].sum() + entries)


def price(
    graph: LayerGraph, cost: Cost, conditions: Conditions, entry: EntryCharges = FREE_ENTRY
) -> Price:
    """Work out what every choice adds to a cost.

    Raises:
        GraphError: A layer is not annotated.
    """
    returned = {tensor.name for tensor in graph.outputs}

    def download(tensors: Sequence[Tensor]) -> float:
        nbytes = sum(tensor.nbytes for tensor in tensors if tensor.name in returned)
        return cost.download_ms * transfer_ms(nbytes, conditions.downlink_mbps)

    def upload(tensor: Tensor) -> float:
        sending = cost.upload_ms * transfer_ms(tensor.nbytes, conditions.uplink_mbps)
        return sending + cost.upload_nbytes * tensor.nbytes

    def computing(device_ms: float, device_mj: float) -> float:
        return cost.device_ms * device_ms + cost.device_mj * device_mj

    serving = cost.server_ms * conditions.load
    layers = [(layer.annotated_cost, layer.outputs) for layer in graph.layers]
    return Price(
        device=np.array([computing(each.device_ms, each.device_mj) for each, _ in layers]),
        server=np.array([serving * each.server_ms + download(made) for each, made in layers]),
        upload=np.array([upload(tensor) for tensor in graph.tensors]),
        device_entry=computing(entry.device_ms, entry.device_mj),
        server_entry=serving * entry.server_ms
        + cost.round_trip_ms * conditions.round_trip_ms
        + cost.asking,
    )
