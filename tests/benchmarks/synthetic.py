"""Annotated layer graphs of any length, wired like networks that are in use, or at random.

All take a second on the device, however many layers that is divided into, and send less the later
they are cut, but for noise. So the best cut is somewhere in the middle, and moves the more layers
from their neighbours the more of these are slower on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from partc.graph import Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.plan import Conditions

LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=1)
"""At 8 Mbit/s a kilobyte takes a millisecond."""

Reads = Sequence[Sequence[int]]
"""The layers that each layer reads, by position, each of them before it; -1 is the input."""

_DEVICE_MS = 1000.0
_SERVER_SHARE = 0.2  # of the device's time; one layer in twenty is slower on the server
_INPUT_NBYTES = 2e6
_HALVINGS = 8  # of the input, to the end
_REACH = 20  # of a layer of the random graph


def chain(count: int, random: np.random.Generator) -> Reads:
    return [[position - 1] for position in range(count)]


def resnet(count: int, random: np.random.Generator) -> Reads:
    """Bottlenecks of three layers, the last of which adds what the first reads."""
    reads: list[list[int]] = []
    while len(reads) < count:
        block = len(reads) - 1
        reads += [[block], [block + 1], [block + 2, block]]
    return reads[:count]


def densenet(count: int, random: np.random.Generator) -> Reads:
    """The blocks of DenseNet-121, over and over: 1x1 layers read all of their block before."""
    reads: list[list[int]] = []
    for pairs in cycle((6, 12, 24, 16)):
        members = [len(reads) - 1]
        for _ in range(pairs):
            reads += [[*members], [len(reads)]]
            members.append(len(reads) - 1)
        reads.append(members)
        if len(reads) >= count:
            return reads[:count]
    raise AssertionError


def nasnet(count: int, random: np.random.Generator) -> Reads:
    """Cells of five combinations, each of two from before in the cell or of the two cells before.

    A combination is two layers, the second of which adds what the first made.
    """
    reads: list[list[int]] = []
    cells = [-1, -1]
    while len(reads) < count:
        states, unread = [*cells], set[int]()
        for _ in range(5):
            one, other = (states[choice] for choice in random.integers(len(states), size=2))
            reads += [[one], sorted({other, len(reads)})]
            unread = unread - {one, other} | {len(reads) - 1}
            states.append(len(reads) - 1)
        reads.append(sorted(unread))
        cells = [cells[1], len(reads) - 1]
    return reads[:count]


def scattered(count: int, random: np.random.Generator) -> Reads:
    """Each layer reads one to three of the twenty tensors before it, and leaves none unread."""
    reads: list[list[int]] = []
    unread = {-1}
    for position, choices in enumerate(random.integers(1, 4, size=count).tolist()):
        oldest = position - _REACH
        chosen = {max(-1, position - back) for back in random.integers(1, _REACH, size=choices)}
        if oldest in unread:
            chosen = {oldest, *sorted(chosen)[1:]}
        reads.append(sorted(chosen))
        unread = unread - chosen | {position}
    return reads


WIRINGS: Mapping[str, Callable[[int, np.random.Generator], Reads]] = {
    "chain": chain,
    "ResNet-like": resnet,
    "DenseNet-like": densenet,
    "NASNet-like": nasnet,
    "random": scattered,
}


def make_graph(kind: str, count: int, seed: int = 0) -> LayerGraph:
    """A graph of ``count`` layers of one of :data:`WIRINGS`, the same for the same seed."""
    random = np.random.default_rng(seed)
    reads = WIRINGS[kind](count, random)
    device_ms = _noise(random, count, 1.0) * (_DEVICE_MS / count)
    server_ms = device_ms * _SERVER_SHARE * _noise(random, count, 1.0)
    halved = 2.0 ** (-_HALVINGS * np.arange(count + 1) / count)
    sizes = _INPUT_NBYTES * halved * _noise(random, count + 1, 0.25)
    sizes[1:] /= _crossings(reads)
    tensors = [
        Tensor(f"t{position}", TensorType("uint8", (int(nbytes),)))
        for position, nbytes in enumerate(sizes)
    ]
    layers = tuple(
        Layer(
            f"layer{position}",
            "synthetic",
            tuple(tensors[1 + each] for each in read),
            (tensors[1 + position],),
            cost=LayerCost(float(device), float(server), device_mj=2 * float(device)),
        )
        for position, (read, device, server) in enumerate(
            zip(reads, device_ms, server_ms, strict=True)
        )
    )
    read_at_all = {each for read in reads for each in read}
    outputs = tuple(tensors[1 + each] for each in range(count) if each not in read_at_all)
    return LayerGraph(f"{kind} of {count}", (tensors[0],), layers, outputs)


def _noise(random: np.random.Generator, count: int, deviation: float) -> NDArray[np.float64]:
    """Factors of which half are below one."""
    return np.exp(deviation * random.standard_normal(count))


def _crossings(reads: Reads) -> float:
    """How many tensors cross where the layers are cut in two, on average."""
    last_read = {each: position for position, read in enumerate(reads) for each in read}
    return sum(position - each for each, position in last_read.items()) / len(reads)
