from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm_ffi import structural_equal

from partc.graph import LayerGraph
from partc.profiler.drawn import draw_graph, random_inputs
from partc.profiler.networks import draw_network
from partc.targets.families import BY_FAMILY
from partc.targets.features import describe

SEEDS = range(1, 13)
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


def test_a_few_networks_have_most_families(graphs: list[LayerGraph]) -> None:
    """Those that a board is calibrated from, and what a profile of some minutes has."""
    found = {workload.family for graph in graphs for workload in describe(graph.layers)}
    assert len(found) > len(BY_FAMILY) / 2


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
