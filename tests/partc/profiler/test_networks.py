from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm_ffi import structural_equal

from partc.codegen.operators import RULES
from partc.graph import Layer, LayerGraph, Tensor, TensorType
from partc.profiler.drawn import draw_graph, random_inputs
from partc.profiler.networks import draw_network
from partc.targets.families import BY_FAMILY, COSTLY
from partc.targets.features import Workload, describe

SEEDS = range(1, 13)
MORE_SEEDS = range(13, 25)
"""A profile of two minutes has as many."""
LARGEST_NBYTES = 64 * 2**20
LARGEST_FLOPS = 2_000_000_000
"""What a weak board computes in a second."""


@pytest.fixture(scope="module")
def graphs() -> list[LayerGraph]:
    return [draw_graph(seed) for seed in SEEDS]


def test_a_seed_is_a_network() -> None:
    assert structural_equal(draw_network(3), draw_network(3))
    assert not structural_equal(draw_network(3), draw_network(4))


def test_every_layer_has_features_for_its_family(graphs: list[LayerGraph]) -> None:
    for workload in (each for graph in graphs for each in describe(graph.layers)):
        assert workload.family in BY_FAMILY
        assert np.isfinite(list(workload.features.values())).all()


def test_three_networks_have_most_families(graphs: list[LayerGraph]) -> None:
    """Those that a board is calibrated from."""
    found = {workload.family for graph in graphs[:3] for workload in describe(graph.layers)}
    assert len(found) > len(BY_FAMILY) / 2


@pytest.fixture(scope="module")
def workloads(graphs: list[LayerGraph]) -> list[Workload]:
    graphs = [*graphs, *map(draw_graph, MORE_SEEDS)]
    return [workload for graph in graphs for workload in describe(graph.layers)]


def test_every_family_is_drawn(workloads: list[Workload]) -> None:
    assert {workload.family for workload in workloads} == BY_FAMILY.keys()


def test_every_operator_that_has_a_kernel_is_drawn(workloads: list[Workload]) -> None:
    """And some that TVM compiles by itself; docs/predicting.md names those that are not drawn."""
    drawn = {name for workload in workloads for name in workload.operators}
    usual = {*RULES, "attention", "cumsum", "gather_elements", "group_norm", "pad", "split"}
    usual |= {"stack", "strided_slice"}
    own = {name for name in usual if describe([a_layer(name)])[0].operators}
    by_number = COSTLY & own
    assert own - drawn == by_number | {"floor_divide", "floor_mod", "mod", "prod"}


def a_layer(kind: str) -> Layer:
    tensor = Tensor("x", TensorType("float32", (1, 2)))
    return Layer(kind, kind, (tensor,), (tensor,), (kind,))


def test_what_few_models_have_is_rare(workloads: list[Workload]) -> None:
    rare = {"attention", "cumsum", "gather_elements", "group_norm", "log_softmax", "pad"}
    rare |= {"adaptive_avg_pool2d", "argmin", "min", "rms_norm", "stack", "std", "variance"}
    assert sum(workload.kind in rare for workload in workloads) < len(workloads) / 20


def test_no_layer_is_larger_than_a_board_has_patience_for(graphs: list[LayerGraph]) -> None:
    for layer in (layer for graph in graphs for layer in graph.layers):
        assert layer.flops <= LARGEST_FLOPS, layer
        sizes = (layer.weight_nbytes, layer.output_nbytes)
        assert all(nbytes <= LARGEST_NBYTES for nbytes in sizes), layer
        assert all(tensor.type.count > 0 for tensor in layer.outputs), layer


def test_every_output_is_made_by_a_layer(graphs: list[LayerGraph]) -> None:
    for graph in graphs:
        assert all(tensor.name in graph.producers for tensor in graph.outputs)


def test_small_and_large_networks_are_drawn(graphs: list[LayerGraph]) -> None:
    work = sorted(sum(layer.flops for layer in graph.layers) for graph in graphs)
    assert work[-1] > 20 * work[0]


def test_values_stay_finite(graphs: list[LayerGraph]) -> None:
    """Infinities and denormal numbers take times of their own."""
    work = [sum(layer.flops for layer in graph.layers) for graph in graphs]
    seed = SEEDS[int(np.argmin(work))]
    module = relax.transform.LegalizeOps()(draw_network(seed))
    machine = relax.VirtualMachine(relax.build(module, "llvm"), tvm.cpu())
    inputs = [tvm.runtime.tensor(array) for array in random_inputs(draw_graph(seed)).values()]
    for made in machine["main"](*inputs):
        assert np.isfinite(made.numpy()).all()
