"""The runtimes that the benchmarks compare, each with one model loaded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from partc.codegen.halves import build_half
from partc.graph import LayerCost, LayerGraph
from partc.passes.segment import build_plan_table
from partc.plan import Cut, Side
from partc.runtime.executor import Executor
from partc.runtime.spec import SegmentSpec
from partc.targets.target import Target

Array = NDArray[Any]
Arrays = Mapping[str, Array]

_WARM_UP_S = 0.02


class Engine(Protocol):
    """A model in a runtime, with inputs at hand."""

    def time(self, repeats: int) -> list[float]:
        """Seconds of each of several runs, after some that are not counted."""
        ...


class CompiledModel:
    """What partc makes of a model for one target: a library, its weights and its segments.

    Args:
        graph: The model.
        target: What to compile for; its number of threads is the most that can be used.
        cuts: Where to cut; every cut adds a segment.
    """

    def __init__(self, graph: LayerGraph, target: Target, cuts: Sequence[Cut] = ()) -> None:
        self.graph = graph
        table = build_plan_table(without_costs(graph), cuts)
        self._directory = tempfile.TemporaryDirectory(prefix="partc-benchmark-")
        self.path = Path(self._directory.name)
        self.artifact = build_half(graph, table, Side.DEVICE, target, self.path)


class Partc:
    """Segments in partc's runtime, timed without what the runtime puts around them.

    A run calls the compiled functions, in the runtime's own thread, on tensors that are in place,
    as a run of ONNX Runtime works on arrays that are in place. Where segments hold an input or an
    output of the model in a layout of their own, a run includes the way there or back.

    Args:
        compiled: The model.
        threads: How many threads to use.
        inputs: Arrays by name.
    """

    def __init__(self, compiled: CompiledModel, threads: int, inputs: Arrays) -> None:
        self.requests = PartcRequests(compiled, threads, inputs)
        self._executor = self.requests.executor
        self.calls = _calls_between_plain_tensors(compiled, self._executor)
        self.weights = self._executor._params
        upload = self._executor._copies.upload
        self.inputs = {name: upload(array) for name, array in inputs.items()}

    def time(self, repeats: int) -> list[float]:
        """Seconds of each run of all segments."""
        return self._executor._thread.submit(time_runs, self._call, repeats).result()

    def _call(self) -> None:
        self._executor._call_all(self.calls, dict(self.inputs))


def _calls_between_plain_tensors(compiled: CompiledModel, executor: Executor) -> list[SegmentSpec]:
    blocked = {spec.tensor: spec for spec in compiled.artifact.blocked}
    inputs = [tensor.name for tensor in compiled.graph.inputs]
    outputs = [tensor.name for tensor in compiled.graph.outputs]
    return [
        *(blocked[name].to_blocked for name in inputs if name in blocked),
        *executor.find_calls([segment.name for segment in compiled.artifact.segments]),
        *(blocked[name].to_plain for name in outputs if name in blocked),
    ]


class PartcRequests:
    """Whole requests to partc's runtime: with copies and the way to the runtime's thread."""

    def __init__(self, compiled: CompiledModel, threads: int, inputs: Arrays) -> None:
        self.executor = Executor(compiled.path, replace(compiled.artifact, threads=threads))
        self._segments = [segment.name for segment in compiled.artifact.segments]
        self._outputs = [tensor.name for tensor in compiled.graph.outputs]
        self._inputs = inputs

    def run(self) -> dict[str, Array]:
        """Outputs by name."""
        request = self.executor.request(self._inputs)
        request.run(self._segments)
        return {name: request.array(name) for name in self._outputs}

    def time(self, repeats: int) -> list[float]:
        """Seconds of each request, from arrays to arrays."""
        return time_runs(self.run, repeats)


class OnnxRuntime:
    """A session of ONNX Runtime, at its best: every optimisation, all threads spinning."""

    def __init__(self, model: ModelProto, threads: int, inputs: Arrays) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers
        )
        self._inputs = dict(inputs)

    def run(self) -> dict[str, Array]:
        """One run, from arrays to arrays."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, self._inputs), strict=True))

    def time(self, repeats: int) -> list[float]:
        """Seconds of each run."""
        return time_runs(lambda: self._session.run(None, self._inputs), repeats)


def time_runs(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of several runs, after what warms caches and wakes threads."""
    warm = time.perf_counter() + _WARM_UP_S
    run()
    while time.perf_counter() < warm:
        run()
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def random_inputs(graph: LayerGraph) -> dict[str, Array]:
    """Normal numbers for every input, or small integers; the same every time."""
    random = np.random.default_rng(0)
    return {
        tensor.name: random.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        if np.issubdtype(tensor.type.dtype, np.floating)
        else random.integers(0, 100, tensor.type.shape, tensor.type.dtype)
        for tensor in graph.inputs
    }


def without_costs(graph: LayerGraph) -> LayerGraph:
    """The graph with costs of nothing: a plan table wants some."""
    free = LayerCost(0.0, 0.0, 0.0)
    return graph.with_layers(replace(layer, cost=free) for layer in graph.layers)
