"""Measure what encodings do to a model: how small its tensors become, and how wrong its outputs."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partc.codegen.build import find_machine, host_target
from partc.codegen.deviation import largest_difference
from partc.codegen.halves import write_artifact
from partc.codegen.lower import lower_segments
from partc.graph import Layer, LayerGraph, Tensor
from partc.interruption import interruptible
from partc.passes.encode import Measured
from partc.plan import Segment
from partc.runtime.encodings import (
    decode,
    encode,
    encoded_nbytes,
    encodings_of,
    is_lossless,
    wire_specs,
)
from partc.runtime.executor import Executor
from partc.runtime.spec import SentSpec, TensorSpec

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]

_PACE_S = 1.0
"""Between two lines of progress."""


def measure_encodings(
    graph: LayerGraph,
    samples: Sequence[Arrays],
    names: Collection[str],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, tuple[Measured, ...]]:
    """Encode every tensor that can be sent, on samples, and run the model on what is decoded.

    The model is compiled for this machine, each layer by itself, and runs once on each sample.
    Then, for each tensor and each lossy number format, only the layers behind the tensor run again.
    Tensors of one sample are held at a time.

    Args:
        graph: The layers, with their payloads.
        samples: Arrays by input name; at least one sample.
        names: The encodings to measure; a tensor gets those that its dtype can have.
        progress: Called with a line of text, about once a second.

    Returns:
        By tensor, for each that some layer reads, its encodings in the order of
        :func:`partc.runtime.encodings.encodings_of`.

    Raises:
        CompilerError: TVM or the linker failed.
    """
    tensors = [tensor for tensor in graph.tensors if graph.consumers[tensor.name]]
    wanted = {
        tensor.name: [name for name in _encodings_of(graph, tensor) if name in names]
        for tensor in tensors
    }
    count = _Count(len(samples) * len(tensors), progress)
    with interruptible() as check_interruption:
        progress(f"Compiling {len(graph.layers)} layers one by one for this machine")
        model = _LayerByLayer(graph)
        measured: list[dict[str, tuple[Measured, ...]]] = []
        for sample in samples:
            check_interruption()
            known = model.run(sample)
            of_sample: dict[str, tuple[Measured, ...]] = {}
            for tensor in tensors:
                count.step()
                of_sample[tensor.name] = model.try_encodings(tensor, known, wanted[tensor.name])
            measured.append(of_sample)
        check_interruption()
    return {
        tensor.name: _summarize([of_sample[tensor.name] for of_sample in measured])
        for tensor in tensors
    }


def _encodings_of(graph: LayerGraph, tensor: Tensor) -> Iterator[str]:
    """Those whose tensors on the wire are not called like another tensor of the graph."""
    others = {each.name for each in graph.tensors} - {tensor.name}
    kind = tensor.type
    for name in encodings_of(kind.dtype):
        sent = wire_specs(SentSpec(tensor.name, kind.dtype, kind.shape, name))
        if not any(each.name in others for each in sent):
            yield name


class _Count:
    """Says how many tensors are done, now and then."""

    def __init__(self, total: int, progress: Callable[[str], None]) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._told_s = -math.inf

    def step(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= _PACE_S:
            self._progress(f"Calibrating tensors: {self._done} of {self._total}")
            self._told_s = now_s
        self._done += 1


def _summarize(of_samples: Sequence[tuple[Measured, ...]]) -> tuple[Measured, ...]:
    """Of each encoding the average size and the largest deviation."""
    return tuple(
        Measured(
            encoding=of_encoding[0].encoding,
            nbytes=-(-sum(each.nbytes for each in of_encoding) // len(of_encoding)),
            deviation=max(each.deviation for each in of_encoding),
        )
        for of_encoding in zip(*of_samples, strict=True)
    )


@dataclass(frozen=True)
class _Behind:
    """What is computed from a tensor: layers in order, what they read, the outputs they make."""

    layers: tuple[str, ...]
    inputs: frozenset[str]
    outputs: tuple[str, ...]


class _LayerByLayer:
    """A model on this machine, of which any layers can run, and all tensors can be had."""

    def __init__(self, graph: LayerGraph) -> None:
        self._graph = graph
        self._segments = _segment_names(graph)
        with tempfile.TemporaryDirectory(prefix="partc-calibrate-") as directory:
            self._executor = _compile_layers(graph, self._segments, Path(directory))

    def run(self, sample: Arrays) -> dict[str, Array]:
        """Every tensor of the graph for a sample."""
        request = self._executor.request(sample)
        request.run(self._segments.values())
        return {tensor.name: request.array(tensor.name) for tensor in self._graph.tensors}

    def try_encodings(
        self, tensor: Tensor, known: Arrays, encodings: Sequence[str]
    ) -> tuple[Measured, ...]:
        """Encode a tensor in each way, and decode it once for each format of numbers."""
        spec = TensorSpec(tensor.name, tensor.type.dtype, tensor.type.shape)
        deviations: dict[str, float] = {}
        measured: list[Measured] = []
        for encoding in encodings:
            parts = encode(encoding, known[tensor.name])
            number_format, _, _ = encoding.partition("+")
            if number_format not in deviations:
                deviations[number_format] = (
                    0.0
                    if is_lossless(encoding)
                    else self._deviation(tensor, decode(encoding, spec, parts), known)
                )
            nbytes = encoded_nbytes(parts)
            measured.append(Measured(encoding, nbytes, deviations[number_format]))
        return tuple(measured)

    def _deviation(self, tensor: Tensor, decoded: Array, known: Arrays) -> float:
        """How much the outputs differ if what is behind a tensor reads another array."""
        if np.array_equal(decoded, known[tensor.name]):
            return 0.0
        behind = _find_behind(self._graph, tensor)
        request = self._executor.request(
            {name: decoded if name == tensor.name else known[name] for name in behind.inputs}
        )
        request.run(self._segments[name] for name in behind.layers)
        return max(
            (output_deviation(request.array(name), known[name]) for name in behind.outputs),
            default=0.0,
        )


def _find_behind(graph: LayerGraph, tensor: Tensor) -> _Behind:
    reached, layers = {tensor.name}, list[Layer]()
    for layer in graph.layers:
        if any(each.name in reached for each in layer.inputs):
            layers.append(layer)
            reached.update(each.name for each in layer.outputs)
    made = reached - {tensor.name}
    return _Behind(
        layers=tuple(layer.name for layer in layers),
        inputs=frozenset(each.name for layer in layers for each in layer.inputs) - made,
        outputs=tuple(each.name for each in graph.outputs if each.name in made),
    )


def output_deviation(found: Array, expected: Array) -> float:
    """The largest difference of an output, relative to the largest value expected in it.

    What is infinite or no number on both sides does not count. If it is so on one side only, or if
    an integer or a boolean differs at all, the deviation is infinite.
    """
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(found, expected) else np.inf
    difference, scale = largest_difference(found, expected)
    return difference and (difference / scale if scale else np.inf)


def _compile_layers(graph: LayerGraph, names: Mapping[str, str], directory: Path) -> Executor:
    """Compile every layer as a segment of its own for this machine, all tensors to be had."""
    target = host_target()
    segments = [
        Segment(names[layer.name], (layer.name,), layer.inputs, layer.outputs)
        for layer in graph.layers
    ]
    visible = frozenset(tensor.name for tensor in graph.tensors)
    lowered = lower_segments(graph, segments, find_machine(target), visible)
    return Executor(directory, write_artifact(lowered, segments, (), target, directory))


def _segment_names(graph: LayerGraph) -> dict[str, str]:
    """A name for the segment of each layer; layers may be called what is no function's name."""
    return {layer.name: f"layer_{position}" for position, layer in enumerate(graph.layers)}
