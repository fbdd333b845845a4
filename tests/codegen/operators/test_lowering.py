from __future__ import annotations

from typing import Any

import pytest
from kernels import machine_of
from lowered import Network
from relax_models import layer_graph, make_module, weights
from tvm import relax
from tvm.relax import op

from partc.codegen.lower import lower_segments
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table

IMAGE = {"x": (1, 4, 6, 6)}


def some_without_rules(emit: Any, x: Any) -> Any:
    """Three layers that no kernel is for, and five that have one or need none."""
    running = emit(op.cumsum(x, 2))
    sorted_ = emit(op.sort(emit(op.nn.relu(running)), 3))
    made = emit(op.nn.conv2d(sorted_, weights(8, 4, 1, 1)))
    flipped = emit(op.flip(emit(op.nn.max_pool2d(made, 2, 2)), 2))
    half = emit(relax.TupleGetItem(emit(op.split(flipped, 2, 1)), 1))
    return emit(op.nn.conv3d(emit(op.expand_dims(half, 0)), weights(2, 1, 1, 1, 1)))


def test_layers_that_no_rule_fits_are_counted() -> None:
    network = Network.of(IMAGE, some_without_rules)
    kinds = [network.graph.by_name[name].kind for name in network.lowered.without_rule]
    assert kinds == ["cumsum", "sort", "conv3d"]
    network.check()


def test_what_is_left_to_tvm_is_told_by_the_lowering() -> None:
    network = Network.of(IMAGE, some_without_rules)
    assert {name for name, lowering in network.choices if not lowering.has_rule} == {
        "cumsum",
        "sort",
        "conv3d",
    }


def test_on_a_gpu_no_layer_needs_a_rule_of_ours() -> None:
    graph = layer_graph(canonicalize(make_module(IMAGE, some_without_rules)))
    (segment,) = build_plan_table(graph, []).segments
    lowered = lower_segments(graph, [segment])
    assert lowered.without_rule == ()
    assert lowered.blocked == ()


@pytest.mark.parametrize(("target_name", "lanes"), [("x86-64", 4), ("x86-64-v4", 16)])
def test_blocks_are_as_long_as_vectors(target_name: str, lanes: int) -> None:
    assert machine_of(target_name).lanes == lanes
    network = Network.of(
        IMAGE, lambda emit, x: emit(op.nn.conv2d(x, weights(24, 4, 3, 3))), target_name
    )
    layout = network.layouts["conv2d"]
    assert layout is not None
    assert (layout.lanes, layout.blocks) == (lanes, -(-24 // lanes))
    network.check()
