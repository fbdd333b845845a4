"""Small networks to profile, and a stand-in for the machine to profile them on."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from relax_models import layer_graph
from tvm.relax import op

from partc.graph import Layer, LayerGraph
from partc.passes.canonicalize import canonicalize
from partc.profiler.drawn import Compile, DrawnNetwork, random_inputs
from partc.profiler.layers import Layers, make_module
from partc.targets.features import describe
from partc.targets.target import Target

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
    return convolutions(16 * (1 + number % 5), 16 * (1 + number % 3), size=12 + 4 * (number % 7))


@dataclass
class FakeBoard:
    """Computes ten gigaflops a second, and takes a microsecond to start a layer.

    After a pause, it takes ``entry_ms`` more, and each layer ``cold_share`` longer. All layers, or
    each of a network's, may take some times longer.
    """

    processor: str = "an abacus"
    slower: float | Array = 1.0
    entry_ms: float = 0.5
    cold_share: float = 0.25
    measured: list[LayerGraph] = field(default_factory=list[LayerGraph])
    runs: int = 0

    def load(self, network: LayerGraph, inputs: Mapping[str, Array]) -> FakeNetwork:
        assert inputs.keys() == {tensor.name for tensor in network.inputs}
        self.measured.append(network)
        times_ms = self.slower * np.array([formula_ms(layer) for layer in network.layers])
        return FakeNetwork(self, times_ms, len(self.measured))


@dataclass
class FakeNetwork:
    """What a board has loaded: times to give, with a hundredth of noise."""

    board: FakeBoard
    times_ms: Array
    seed: int

    def time_layers(self, runs: int) -> Array:
        self.board.runs += runs
        return np.random.default_rng(self.seed).uniform(1, 1.01, (runs, 1)) * self.times_ms

    def time_whole(self, runs: int, pause_s: float) -> Array:
        assert pause_s > 0
        layers_ms = self.time_layers(runs).sum(axis=1)
        return self.board.entry_ms + (1 + self.board.cold_share) * layers_ms


def draw_small(number: int, target: Target) -> DrawnNetwork:
    """A small network that a fake board takes as it is."""
    graph = small_network(number)
    network: Any = graph
    return DrawnNetwork(number, network, random_inputs(graph), describe(graph.layers))


@contextmanager
def compile_here(target: Target, compile_drawn: Any = draw_small) -> Generator[Compile]:
    """Compilers that need no processes."""
    yield lambda numbers: (compile_drawn(number, target) for number in numbers)


def formula_ms(layer: Layer) -> float:
    """What a layer takes on the board."""
    return 1e-3 + layer.flops / 1e7
