"""Whole networks through code generation, against what TVM makes of them without our schedules."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from every_layer import networks_side_by_side
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prerequisites import require
from random_networks import networks
from relax_models import Machine, cut_from, layer_graph, make_module, random_inputs, weights
from tvm.relax import op

from partc.codegen.build import runs_here
from partc.codegen.halves import build_half
from partc.graph import LayerGraph
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table
from partc.plan import Cut, Segment, Side
from partc.runtime.executor import Executor
from partc.targets.target import load_target

Array = NDArray[Any]

TARGETS = ("x86-64", "x86-64-v3", "x86-64-v4", "native")
TOLERANCE = 1e-4
ROUNDING = 1e-9  # what may be left of numbers that cancel, as in the variance of equal ones
M_PERTURB = -6  # malloc.h

# Compiling a network takes a second; --hypothesis-profile=nightly draws many more of them.
EXAMPLES = settings.default.max_examples // 16


@pytest.fixture(autouse=True, scope="module")
def memory_full_of_junk() -> Iterator[None]:
    """Have the C library fill what it hands out with large negative numbers."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_PERTURB, 1)
    yield
    libc.mallopt(M_PERTURB, 0)


def check(module: tvm.IRModule, graph: LayerGraph, cuts: Sequence[Cut], target_name: str) -> None:
    """Compile a network in the segments that cuts leave, and run it in one request and in many."""
    inputs = random_inputs(module["main"])
    arrays = dict(zip((tensor.name for tensor in graph.inputs), inputs, strict=True))
    names = [tensor.name for tensor in graph.outputs]
    expected = dict(zip(names, Machine(module).run("main", inputs), strict=True))
    table = build_plan_table(graph, cuts)
    with tempfile.TemporaryDirectory() as directory:
        half = build_half(graph, table, Side.DEVICE, load_target(target_name), Path(directory))
        executor = Executor(Path(directory), replace(half, threads=2))
    request = executor.request(arrays)
    request.run(segment.name for segment in table.segments)
    check_close({name: request.array(name) for name in names}, expected)
    check_close(run_apart(executor, table.segments, arrays), expected)


def run_apart(
    executor: Executor, segments: Sequence[Segment], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Run each segment in a request of its own, as if all tensors went over the wire."""
    arrays = dict(inputs)
    for segment in segments:
        request = executor.request(arrays)
        request.run([segment.name])
        arrays |= {tensor.name: request.array(tensor.name) for tensor in segment.outputs}
    return arrays


def check_close(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.isfinite(array).all()
        error = np.abs(found[name] - array).max()
        assert error <= TOLERANCE * np.abs(array).max() + ROUNDING, f"{name} is off by {error}"


@pytest.mark.parametrize("target_name", TARGETS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.data())
def test_networks_of_any_layers_compute_what_they_say(
    target_name: str, module: tvm.IRModule, data: st.DataObject
) -> None:
    require(runs_here(load_target(target_name)), f"a CPU that runs {target_name}")
    graph = layer_graph(canonicalize(module))
    assume(graph.layers)
    starts = st.lists(st.sampled_from(graph.layers), min_size=1, max_size=2)
    cuts = [cut_from(graph, layers) for layers in data.draw(st.lists(starts, max_size=2))]
    check(module, graph, cuts, target_name)


def test_networks_of_every_kind_compute_what_they_say() -> None:
    module = networks_side_by_side()
    graph = layer_graph(canonicalize(module))
    check(module, graph, [cut_from(graph, graph.layers[2::7])], "native")


@pytest.mark.parametrize("target_name", TARGETS)
def test_slices_from_the_beginning_are_no_tails(target_name: str) -> None:
    require(runs_here(load_target(target_name)), f"a CPU that runs {target_name}")

    def build(emit: Callable[..., Any], x: Any, y: Any) -> list[Any]:
        products = [emit(op.matmul(x, weights(4, 5))), emit(op.matmul(x, y)), emit(op.sum(x, 3))]
        first = ([0, 1], [0, 0], [1, 2])
        return [emit(op.nn.relu(emit(op.strided_slice(each, *first)))) for each in products]

    module = make_module({"x": (2, 3, 7, 4), "y": (2, 3, 4, 6)}, build)
    check(module, layer_graph(canonicalize(module)), [], target_name)
