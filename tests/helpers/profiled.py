"""Small networks to profile, and a stand-in for the machine to profile them on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from relax_models import layer_graph
from tvm.relax import op

from partc.graph import Layer, LayerGraph
from partc.passes.canonicalize import canonicalize
from partc.profiler.layers import Layers, make_module

Array = NDArray[Any]


def convolutions(*channels: int, size: int = 24) -> LayerGraph:
    """Convolutions of 3x3 in a row, each of so many channels, and a pooling."""

    def build(emit: Any, x: Any) -> Any:
        net = Layers(emit)
        for count in channels:
            x = net.relu(net.conv2d(x, count, padding=(1, 1, 1, 1)))
        return emit(op.nn.max_pool2d(x, (2, 2), (2, 2)))

    return layer_graph(canonicalize(make_module({"x": (1, 8, size, size)}, build)))


def small_network(number: int) -> LayerGraph:
    """Like a network that is drawn, but compiled and run in no time."""
    return convolutions(8 + number % 5, 8 * (1 + number % 3), size=12 + 2 * (number % 7))


@dataclass
class FakeBoard:
    """Computes ten gigaflops a second, and takes a microsecond to start a layer."""

    processor: str = "an abacus"
    slower: float = 1.0
    measured: list[LayerGraph] = field(default_factory=list[LayerGraph])

    def time_layers(
        self, network: LayerGraph, inputs: Mapping[str, Array], runs: int
    ) -> NDArray[np.float64]:
        assert inputs.keys() == {tensor.name for tensor in network.inputs}
        self.measured.append(network)
        times_ms = [self.slower * formula_ms(layer) for layer in network.layers]
        noise = np.random.default_rng(len(self.measured)).uniform(1, 1.01, (runs, 1))
        return noise * np.array(times_ms)


def formula_ms(layer: Layer) -> float:
    """What a layer takes on the board."""
    return 1e-3 + layer.flops / 1e7
