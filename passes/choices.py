"""What there is to decide of a layer graph, as yes-or-no choices of which some imply others.

A layer is on the server or not, and so is a tensor, sent or made there. What reads on the server
needs its tensors there, and as nothing returns to the device, what is made there is read there.
Whether a tensor is sent is whether it is there less whether it is made there. So what sending costs
is, like all other costs, a sum over choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partc.graph import LayerGraph
from partc.passes.closure import Integers


@dataclass(frozen=True)
class Choices:
    """The layers of a graph, in order, and then the tensors that several of them read.

    Args:
        count: How many choices there are.
        makers: Of every tensor, in the order of ``graph.tensors``, the layer that makes it; -1 if
            it is an input of the model.
        needed: Of every tensor the choice whether it is there: its own if several layers read it,
            that of the one that does, or of its maker if none does.
        causes: Choices of which a yes implies one to another,
        effects: and these others, one for each.
    """

    count: int
    makers: Integers
    needed: Integers
    causes: Integers
    effects: Integers

    def weigh(self, layers: Integers, tensors: Integers) -> Integers:
        """What each yes adds to a cost.

        Args:
            layers: What each layer costs more on the server.
            tensors: What sending each tensor costs.
        """
        weights = np.zeros(self.count + 1, np.int64)  # the last belongs to the makers of inputs
        weights[: len(layers)] = layers
        np.add.at(weights, self.needed, tensors)
        np.subtract.at(weights, self.makers, tensors)
        return weights[:-1]


def find_choices(graph: LayerGraph) -> Choices:
    """The choices of a graph."""
    layers = np.arange(len(graph.layers))
    positions = {tensor.name: position for position, tensor in enumerate(graph.tensors)}
    read = np.array(
        [positions[tensor.name] for layer in graph.layers for tensor in layer.inputs], np.int64
    )
    readers = np.repeat(layers, [len(layer.inputs) for layer in graph.layers])
    made_by = np.repeat(layers, [len(layer.outputs) for layer in graph.layers])
    makers = np.concatenate([np.full(len(graph.inputs), -1), made_by])

    shared = np.bincount(read, minlength=len(makers)) > 1
    count = len(layers) + int(np.count_nonzero(shared))
    needed = makers.copy()
    needed[read] = readers
    needed[shared] = np.arange(len(layers), count)
    made, several = makers[read] >= 0, shared[read]
    return Choices(
        count,
        makers,
        needed,
        causes=np.concatenate([makers[read][made], readers[several]]),
        effects=np.concatenate([readers[made], needed[read][several]]),
    )
