"""What a cut needs of the device's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from partc.graph import LayerGraph, Tensor
from partc.plan import Cut, Side


@dataclass(frozen=True)
class Lifetime:
    """When a tensor is in memory, if a layer of the device makes it.

    Args:
        tensor: Neither an input nor an output of the model.
        made: Position of the layer that makes it.
        read: Position of the last layer that reads it; ``made`` if none does.
    """

    tensor: Tensor
    made: int
    read: int


def lifetimes(graph: LayerGraph) -> Iterator[Lifetime]:
    """Of all tensors that layers make, but for the model's outputs."""
    returned = {tensor.name for tensor in graph.outputs}
    last_read: Mapping[str, int] = {
        tensor.name: position
        for position, layer in enumerate(graph.layers)
        for tensor in layer.inputs
    }
    for position, layer in enumerate(graph.layers):
        for tensor in layer.outputs:
            if tensor.name not in returned:
                yield Lifetime(tensor, position, last_read.get(tensor.name, position))


def always_held_nbytes(graph: LayerGraph) -> int:
    """The model's inputs and outputs, which are on the device in any case."""
    held = {tensor.name: tensor.nbytes for tensor in (*graph.inputs, *graph.outputs)}
    return sum(held.values())


def device_nbytes(graph: LayerGraph, cut: Cut) -> int:
    """Bytes of weights on the device, and of its activations when they are most.

    Layers run in the graph's order. A tensor is held until the last layer of the device has read
    it; if it crosses, to the end, so that the device can go on alone if the server fails.
    """
    on_device = [cut.side(layer) is Side.DEVICE for layer in graph.layers]
    weights = sum(
        layer.weight_nbytes for layer, here in zip(graph.layers, on_device, strict=True) if here
    )
    crossing = {
        tensor.name
        for layer, here in zip(graph.layers, on_device, strict=True)
        if not here
        for tensor in layer.inputs
    }
    made_here = (each for each in lifetimes(graph) if on_device[each.made])
    changes = np.zeros(len(graph.layers) + 1, np.int64)
    for each in made_here:
        changes[each.made] += each.tensor.nbytes
        end = len(graph.layers) if each.tensor.name in crossing else each.read + 1
        changes[end] -= each.tensor.nbytes
    activations = np.cumsum(changes)[:-1][on_device]
    return always_held_nbytes(graph) + weights + int(activations.max(initial=0))
