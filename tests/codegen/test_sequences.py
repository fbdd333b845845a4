from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from relax_models import layer_graph, make_module, weights
from tvm import relax
from tvm.relax import op

from partc.codegen.halves import build_half
from partc.codegen.lower import LoweredSegments, lower_segments
from partc.codegen.sequences import (
    Run,
    add_sequences,
    add_timed_sequence,
    inline_sequences,
)
from partc.graph import LayerGraph
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table
from partc.plan import Cut, NamedPlan, PlanTable, Segment, Side
from partc.runtime.errors import InputError
from partc.runtime.executor import Executor
from partc.runtime.spec import SegmentSpec, SequenceSpec
from partc.targets.target import load_target

Array = NDArray[Any]

SHARED = weights(16, 16, 1, 1)


def diamond(emit: Any, x: Any) -> list[Any]:
    """Two branches that share weights, what joins them, and an output on the way."""
    first = emit(op.nn.relu(emit(op.nn.conv2d(x, SHARED))))
    left = emit(op.nn.conv2d(first, weights(16, 16, 3, 3), padding=1))
    right = emit(op.nn.conv2d(first, SHARED))
    joined = emit(op.nn.relu(emit(op.add(left, right))))
    return [emit(op.nn.softmax(joined)), right]


@pytest.fixture(scope="module")
def graph() -> LayerGraph:
    return layer_graph(canonicalize(make_module({"x": (1, 16, 9, 9)}, diamond)))


@pytest.fixture(scope="module")
def table(graph: LayerGraph) -> PlanTable:
    """A cut before every layer but the first."""
    names = [layer.name for layer in graph.layers]
    cuts = [Cut(frozenset(names[start:])) for start in range(1, len(names))]
    return build_plan_table(graph, cuts)


@pytest.fixture(scope="module")
def lowered(graph: LayerGraph, table: PlanTable) -> LoweredSegments:
    return lower_segments(graph, table.segments)


@pytest.fixture(scope="module")
def segments(table: PlanTable, lowered: LoweredSegments) -> list[SegmentSpec]:
    return [lowered.describe(segment) for segment in table.segments]


def test_a_sequence_takes_what_its_segments_do_not_make_and_returns_what_is_wanted(
    graph: LayerGraph, lowered: LoweredSegments, segments: list[SegmentSpec]
) -> None:
    names = tuple(segment.name for segment in segments)
    made = [tensor for segment in segments for tensor in segment.outputs]
    runs = [Run(names, graph_outputs(graph)), Run(names[:1], made), Run(names[1:3], made)]
    module, (whole, part) = add_sequences(lowered.module, segments, runs)
    assert whole == SequenceSpec(
        "sequence_0",
        inputs=("x",),
        params=tuple(lowered.weights),
        outputs=tuple(name for name in made if name in graph_outputs(graph)),
        segments=names,
    )
    assert len(lowered.weights) == 2
    assert (part.segments, part.inputs) == (names[1:3], segments[0].outputs)
    assert part.outputs == (*segments[1].outputs, *segments[2].outputs)
    assert len(module.functions) == len(lowered.module.functions) + 2


def test_a_sequence_calls_the_kernels_of_its_segments(
    lowered: LoweredSegments, segments: list[SegmentSpec]
) -> None:
    run = Run(tuple(segment.name for segment in segments), segments[-1].outputs)
    module, _ = add_sequences(lowered.module, segments, [run])
    module = relax.transform.LegalizeOps()(module)
    inlined = inline_sequences(module)
    expected = [name for segment in segments for name in called(module[segment.name])]
    assert called(module["sequence_0"]) == [segment.name for segment in segments]
    assert called(inlined["sequence_0"]) == expected
    assert len(inlined.functions) == len(module.functions)


def test_a_half_runs_a_plan_in_one_call_and_computes_what_its_segments_compute(
    graph: LayerGraph, table: PlanTable, tmp_path: Path
) -> None:
    half = build_half(graph, table, Side.DEVICE, load_target("native"), tmp_path)
    executor = Executor(tmp_path, half)
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 16, 9, 9), np.float32)}
    by_segment = executor.request(inputs)
    for segment in table.segments:
        by_segment.run([segment.name])
    for named in table.plans:
        at_once = executor.request(inputs)
        at_once.run(named.device_segments)
        assert len(executor.find_calls(named.device_segments)) == bool(named.device_segments)
        for name in wanted(graph, table, named):
            np.testing.assert_array_equal(at_once.array(name), by_segment.array(name))


def test_what_only_one_sequence_reads_is_not_held(
    graph: LayerGraph, table: PlanTable, tmp_path: Path
) -> None:
    half = build_half(graph, table, Side.DEVICE, load_target("native"), tmp_path)
    device_only = table.plans[1]
    request = Executor(tmp_path, half).request({"x": np.zeros((1, 16, 9, 9), np.float32)})
    request.run(device_only.device_segments)
    (hidden,) = table.segments[0].outputs
    with pytest.raises(InputError, match="does not hold tensor"):
        request.array(hidden.name)


def test_what_a_device_sends_and_returns_outlives_its_sequence(
    graph: LayerGraph, table: PlanTable, tmp_path: Path
) -> None:
    half = build_half(graph, table, Side.DEVICE, load_target("native"), tmp_path)
    by_segments = {sequence.segments: sequence for sequence in half.sequences}
    for named in table.plans:
        if len(named.device_segments) > 1:
            found = by_segments[named.device_segments].outputs
            assert set(found) == wanted(graph, table, named)


def wanted(graph: LayerGraph, table: PlanTable, named: NamedPlan) -> set[str]:
    """What a plan's device makes for the server or the caller."""
    made = {
        tensor.name
        for segment in table.segments
        if segment.name in named.device_segments
        for tensor in segment.outputs
    }
    return made & ({tensor.name for tensor in named.plan.upload} | graph_outputs(graph))


def graph_outputs(graph: LayerGraph) -> set[str]:
    return {tensor.name for tensor in graph.outputs}


def called(function: Any) -> list[str]:
    """The functions of the module that a function calls, in order."""
    names: list[str] = []

    def visit(expression: Any) -> None:
        if not isinstance(expression, relax.Call):
            return
        callee = expression.args[0] if expression.op == tvm.ir.Op.get("relax.call_tir") else None
        callee = expression.op if isinstance(expression.op, tvm.ir.GlobalVar) else callee
        if callee is not None:
            names.append(str(callee.name_hint))

    relax.analysis.post_order_visit(function, visit)
    return names


@dataclass(frozen=True)
class Timed:
    """What the timed function of a network returned."""

    names: list[str]
    outputs: dict[str, Array]
    stamps_s: Array


def run_timed(graph: LayerGraph, inputs: Mapping[str, Array], returned: set[str]) -> Timed:
    segments = [
        Segment(layer.name, (layer.name,), layer.inputs, layer.outputs) for layer in graph.layers
    ]
    lowered = lower_segments(graph, segments)
    module, spec = add_timed_sequence(
        lowered.module, [lowered.describe(segment) for segment in segments], returned, "timed"
    )
    executable = relax.build(module, "llvm", exec_mode="compiled")
    arrays = [
        *(inputs[name] for name in spec.inputs),
        *(lowered.weights[name] for name in spec.params),
    ]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    made = [each.numpy() for each in relax.VirtualMachine(executable, tvm.cpu())["timed"](*tensors)]
    outputs = dict(zip(spec.outputs, made, strict=False))
    seconds, nanoseconds = np.array(made[len(outputs) :]).T
    assert [each.shape for each in made[len(outputs) :]] == [(2,)] * (2 + len(segments))
    return Timed([segment.name for segment in segments], outputs, seconds + nanoseconds / 1e9)


def test_a_timed_sequence_computes_what_its_segments_compute(
    graph: LayerGraph, table: PlanTable, tmp_path: Path
) -> None:
    half = build_half(graph, table, Side.DEVICE, load_target("native"), tmp_path)
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 16, 9, 9), np.float32)}
    request = Executor(tmp_path, half).request(inputs)
    for segment in table.segments:
        request.run([segment.name])
    timed = run_timed(graph, inputs, graph_outputs(graph))
    assert timed.outputs.keys() == graph_outputs(graph)
    for name, made in timed.outputs.items():
        np.testing.assert_allclose(made, request.array(name), rtol=1e-5, atol=1e-6)


def test_a_timed_sequence_reads_the_clock_twice_and_after_each_segment(graph: LayerGraph) -> None:
    inputs = {"x": np.zeros((1, 16, 9, 9), np.float32)}
    before_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    timed = run_timed(graph, inputs, set())
    after_s = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert timed.outputs == {}
    assert len(timed.stamps_s) == len(graph.layers) + 2
    assert (np.diff([before_s, *timed.stamps_s, after_s]) >= 0).all()


def test_times_grow_with_the_work() -> None:
    def build(emit: Any, x: Any) -> Any:
        small = emit(op.nn.conv2d(x, weights(8, 8, 1, 1)))
        large = emit(op.nn.conv2d(small, weights(256, 8, 7, 7), padding=3))
        return emit(op.nn.conv2d(large, weights(1, 256, 1, 1)))

    graph = layer_graph(canonicalize(make_module({"x": (1, 8, 48, 48)}, build)))
    runs = [run_timed(graph, {"x": np.zeros((1, 8, 48, 48), np.float32)}, set()) for _ in range(3)]
    reading, small, large, last = np.min([np.diff(run.stamps_s) for run in runs], axis=0)
    assert large > 5 * max(small, last)
    assert reading < small
