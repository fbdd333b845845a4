"""What the time of a layer depends on and only the layers around it tell."""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate

from partc.graph import Layer, Tensor
from partc.targets.families import family

AGES = {"256 kB": 1 << 18, "1 MB": 1 << 20, "4 MB": 1 << 22, "16 MB": 1 << 24, "64 MB": 1 << 26}
"""Bytes touched since something was last read or written, which tell where it is to be found."""

_NAMES = tuple(AGES)
_LOGARITHMS = tuple(map(math.log2, AGES.values()))

_CALL = 1 << 10
"""What stands for one call, so that a part of it has a logarithm above zero, too."""

_PICKING = frozenset("gather_elements gather_nd index_tensor split strided_slice take".split())
_ORDERING = frozenset(("permute_dims", "reshape"))
_KEEPING_BLOCKS = frozenset(
    "pooling concat element-wise function gating resize2d shuffle squares strided_slice".split()
) | {"global pooling", "response norm"}


class Surroundings:
    """Where layers find what they read, and put what they make.

    How long that takes depends on what was touched since the same memory was: for a tensor since
    it was made or read, for the memory of a result since something else was in it, for weights
    and the kernel's own code since they were last used. Besides, kernels are faster on what
    convolutions make, which keep channels in blocks, than on tensors in order.

    Args:
        layers: All of a model, in the order in which they run.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._footprint = sum(layer.weight_nbytes + layer.output_nbytes for layer in layers)
        self._touched = [0, *accumulate(map(_traffic_nbytes, layers))]
        self._ages = list(_find_ages(layers, self._touched))
        self._reused = _find_reuse(layers, self._touched, self._footprint)
        self._equal_before = list(_find_equal(layers))
        self._blocked: set[str] = set()
        for layer in layers:
            if self._makes_blocks(layer):
                self._blocked.update(tensor.name for tensor in layer.outputs)

    def features(self, position: int) -> dict[str, float]:
        """What surrounds the layer there, as :class:`Workload` has it."""
        layer = self._layers[position]
        counts = Counter[str]()
        for tensor, age in zip(layer.inputs, self._ages[position], strict=True):
            _add(counts, "read", age, _picked_nbytes(layer, tensor.nbytes))
        for tensor in layer.outputs:
            if tensor.name in self._reused:
                _add(counts, "written", self._reused[tensor.name], tensor.nbytes)
            else:
                counts["returned"] += tensor.nbytes
                counts["returns"] = _CALL
        _add(counts, "weights", self._footprint, _picked_nbytes(layer, layer.weight_nbytes))
        _add(counts, "call", self._code_age(position), _CALL)
        numbers: Mapping[str, float] = {
            "footprint": self._footprint,
            **self._blocks(layer),
            **counts,
        }
        return logarithms(numbers)

    def _blocks(self, layer: Layer) -> Mapping[str, int]:
        """Whether channels lie in blocks before and after, and what has to be moved between."""
        reads, makes = self._in_blocks(layer.inputs), self._in_blocks(layer.outputs)
        orders, blocks = reads and not makes, makes and not reads
        return {
            "reads blocks": 1 + reads,
            "makes blocks": 1 + makes,
            "orders": _CALL * orders,
            "ordered": layer.output_nbytes * orders,
            "blocks": _CALL * blocks,
            "blocked": layer.input_nbytes * blocks,
        }

    def _code_age(self, position: int) -> int:
        """Bytes that were touched since the kernel ran: for an equal layer, or in the last run."""
        before = self._equal_before[position]
        if before is None:
            return self._footprint
        return self._touched[position] - self._touched[before]

    def _makes_blocks(self, layer: Layer) -> bool:
        if not _ORDERING.isdisjoint(layer.ops):
            return False
        made = layer.kind.startswith(("conv", "depthwise"))
        return made or (family(layer) in _KEEPING_BLOCKS and self._in_blocks(layer.inputs))

    def _in_blocks(self, tensors: Sequence[Tensor]) -> bool:
        return any(tensor.name in self._blocked for tensor in tensors)


def _find_ages(layers: Sequence[Layer], touched: Sequence[int]) -> Iterator[list[int]]:
    """For each input of each layer, the bytes touched since its first was, itself included.

    Args:
        layers: All of a model, in the order in which they run.
        touched: Bytes touched before each layer, and after the last.
    """
    last_touched: dict[str, int] = {}
    for position, layer in enumerate(layers):
        yield [
            tensor.nbytes + touched[position] - last_touched.get(tensor.name, 0)
            for tensor in layer.inputs
        ]
        names = (tensor.name for tensor in (*layer.inputs, *layer.outputs))
        last_touched.update(dict.fromkeys(names, touched[position + 1]))


def _find_equal(layers: Sequence[Layer]) -> Iterator[int | None]:
    """For each layer the last one before it that becomes the same kernel."""
    seen: dict[object, int] = {}
    for position, layer in enumerate(layers):
        kernel = describe_kernel(layer)
        yield seen.get(kernel)
        seen[kernel] = position


def describe_kernel(layer: Layer) -> Hashable:
    """What decides which kernel a layer becomes, and on how much; it can be written as JSON."""
    types = tuple(tensor.type for tensor in (*layer.inputs, *layer.outputs))
    parameters = tuple(sorted(layer.parameters.items()))
    return layer.kind, layer.ops, types, layer.weight_nbytes, parameters


def logarithms(counts: Mapping[str, float]) -> dict[str, float]:
    """Of counts; of less than one, 0."""
    return {name: math.log(count) if count > 1 else 0.0 for name, count in counts.items()}


def _add(counts: Counter[str], what: str, age: int, nbytes: int) -> None:
    """Count bytes as of the two ages that theirs lies between, by how near each is."""
    place = math.log2(age) if age > 1 else 0.0
    above = bisect(_LOGARITHMS, place, 1, len(_LOGARITHMS) - 1)
    low, high = _LOGARITHMS[above - 1], _LOGARITHMS[above]
    farther = round(min(max((place - low) / (high - low), 0.0), 1.0) * nbytes)
    counts[f"{what}, {_NAMES[above - 1]}"] += nbytes - farther
    counts[f"{what}, {_NAMES[above]}"] += farther


def _traffic_nbytes(layer: Layer) -> int:
    return _picked_nbytes(layer, layer.input_nbytes + layer.weight_nbytes) + layer.output_nbytes


def _picked_nbytes(layer: Layer, nbytes: int) -> int:
    """How much of what is there a layer looks at: to pick, no more than it makes."""
    return min(nbytes, layer.output_nbytes) if layer.kind in _PICKING else nbytes


# Memory ------------------------------------------------------------------------------------------


def _find_reuse(layers: Sequence[Layer], touched: Sequence[int], footprint: int) -> dict[str, int]:
    """For each tensor that a layer reads, the bytes touched since its memory last was.

    Args:
        layers: All of a model, in the order in which they run.
        touched: Bytes touched before each layer, and after the last.
        footprint: Bytes that a run touches.
    """
    last_read = {tensor.name: n for n, layer in enumerate(layers) for tensor in layer.inputs}
    memory = _Memory(footprint)
    ages: dict[str, int] = {}
    for position, layer in enumerate(layers):
        for tensor in layer.outputs:
            if tensor.name in last_read:
                ages[tensor.name] = memory.take(tensor, touched[position])
        for name in {tensor.name for tensor in layer.inputs}:
            if last_read[name] == position:
                memory.free(name, touched[position + 1])
    return ages


class _Memory:
    """Memory as TVM's planner shares it.

    A tensor gets the smallest block that is free and large enough, or else the largest of the
    others, which grows, unless sizes are more than 16-fold apart.

    Args:
        footprint: What was touched since the last run, when a block is used for the first time.
    """

    _APART = 16

    def __init__(self, footprint: int) -> None:
        self._footprint = footprint
        self._free: list[tuple[int, int]] = []
        self._held: dict[str, int] = {}

    def take(self, tensor: Tensor, touched: int) -> int:
        """Give a tensor a block; return the bytes touched since that was, with its own."""
        nbytes, apart = tensor.nbytes, self._APART
        fitting = [block for block in self._free if nbytes <= block[0] <= apart * nbytes]
        smaller = [block for block in self._free if nbytes <= apart * block[0] < apart * nbytes]
        if not (fitting or smaller):
            self._held[tensor.name] = nbytes
            return self._footprint
        block = min(fitting) if fitting else max(smaller)
        self._free.remove(block)
        self._held[tensor.name] = max(nbytes, block[0])
        return nbytes + touched - block[1]

    def free(self, name: str, touched: int) -> None:
        """Take back a tensor's block, if it has one: inputs of a model do not."""
        if name in self._held:
            self._free.append((self._held.pop(name), touched))
