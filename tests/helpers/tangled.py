"""A layer graph that integer programmes find hard."""

from __future__ import annotations

import numpy as np

from partc.graph import Layer, LayerCost, LayerGraph, Tensor, TensorType


def tangled_graph(count: int) -> LayerGraph:
    """Layers that read up to three of all tensors before them: hard to balance, always the same."""
    random = np.random.default_rng(0)
    tensors = [Tensor("x", TensorType("uint8", (1000,)))]
    layers: list[Layer] = []
    for n in range(count):
        back = {
            min(len(tensors), int(b)) for b in random.integers(1, count + 1, random.integers(1, 4))
        }
        made = Tensor(f"t{n}", TensorType("uint8", (int(random.uniform(0, 2000)),)))
        cost = LayerCost(random.uniform(0, 2), random.uniform(0, 2), 1.0)
        read = tuple(tensors[-b] for b in sorted(back))
        layers.append(Layer(f"n{n}", "toy", read, (made,), cost=cost))
        tensors.append(made)
    return LayerGraph("tangled", (tensors[0],), tuple(layers), (tensors[-1],))
