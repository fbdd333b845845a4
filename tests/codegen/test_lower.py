from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_models import (
    Machine,
    assert_close,
    cut_from,
    layer_graph,
    make_module,
    random_inputs,
    relax_modules,
    weights,
)
from tvm import relax
from tvm.relax import op

from partc.codegen.emitter import INLINE_NBYTES
from partc.codegen.lower import LoweredSegments, lower_segments
from partc.errors import CompilerError
from partc.graph import Layer, LayerGraph, Tensor, TensorType
from partc.passes.canonicalize import canonicalize
from partc.passes.expressions import constant, shape_of
from partc.passes.segment import build_plan_table
from partc.plan import Segment


def _segment_by_layer(graph: LayerGraph) -> list[Segment]:
    return [
        Segment(f"segment_{index}", (layer.name,), layer.inputs, layer.outputs)
        for index, layer in enumerate(graph.layers)
    ]


@st.composite
def _segmented(draw: st.DrawFn) -> tuple[tvm.IRModule, LayerGraph, Sequence[Segment]]:
    canonical = canonicalize(draw(relax_modules(max_steps=10)))
    graph = layer_graph(canonical)
    if not graph.layers or draw(st.booleans()):
        return canonical, graph, _segment_by_layer(graph)
    starts = st.lists(st.sampled_from(graph.layers), min_size=1, max_size=2)
    cuts = [cut_from(graph, layers) for layers in draw(st.lists(starts, max_size=3))]
    return canonical, graph, build_plan_table(graph, cuts).segments


@settings(max_examples=15, deadline=None)
@given(_segmented())
def test_segments_compute_what_the_module_computes(
    segmented: tuple[tvm.IRModule, LayerGraph, Sequence[Segment]],
) -> None:
    canonical, graph, segments = segmented
    lowered = lower_segments(graph, segments)
    whole = canonical["main"].with_attr("global_symbol", "whole")
    functions = {name.name_hint: function for name, function in lowered.module.functions.items()}
    machine = Machine(tvm.IRModule({**functions, "whole": whole}))
    inputs = random_inputs(whole)
    found = dict(zip((tensor.name for tensor in graph.inputs), inputs, strict=True))
    for segment in segments:
        arguments = [found[tensor.name] for tensor in segment.inputs]
        params = [lowered.weights[name] for name in lowered.params[segment.name]]
        made = machine.run(segment.name, [*arguments, *params])
        found.update(zip((tensor.name for tensor in segment.outputs), made, strict=True))
    assert_close([found[tensor.name] for tensor in graph.outputs], machine.run("whole", inputs))


# Weights -----------------------------------------------------------------------------------------


def _lower(build: Any) -> LoweredSegments:
    graph = layer_graph(canonicalize(make_module({"x": (1, 4)}, build)))
    return lower_segments(graph, _segment_by_layer(graph))


def _chain(emit: Any, x: Any) -> Any:
    for shape in ((4, 4), (4, 5), (5, 4), (4, 4)):
        x = emit(op.matmul(x, weights(*shape)))
    return x


def test_equal_weights_are_stored_once() -> None:
    lowered = _lower(_chain)
    assert list(lowered.weights) == ["weight_0", "weight_1", "weight_2"]
    assert [array.shape for array in lowered.weights.values()] == [(4, 4), (4, 5), (5, 4)]
    assert lowered.params == {
        "segment_0": ("weight_0",),
        "segment_1": ("weight_1",),
        "segment_2": ("weight_2",),
        "segment_3": ("weight_0",),
    }


def test_weights_of_equal_bytes_but_another_type_differ() -> None:
    zeros = [np.zeros((2, 4), np.float32), np.zeros((4, 2), np.float32), np.zeros((2, 4), np.int32)]

    def build(emit: Any, x: Any) -> Any:
        return [constant(array) for array in zeros]

    lowered = _lower(build)
    assert [(str(array.dtype), array.shape) for array in lowered.weights.values()] == [
        (str(array.dtype), array.shape) for array in zeros
    ]


def test_a_function_takes_inputs_then_weights_in_the_listed_order() -> None:
    def build(emit: Any, x: Any) -> Any:
        wide = emit(op.matmul(x, weights(4, 6)))
        return emit(op.add(emit(op.multiply(wide, weights(1, 6))), weights(6)))

    lowered = _lower(build)
    assert lowered.params == {"segment_0": ("weight_0", "weight_1", "weight_2")}
    function = lowered.module["segment_0"]
    assert function.attrs["global_symbol"] == "segment_0"
    assert [shape_of(param) for param in function.params] == [(1, 4), (4, 6), (1, 6), (6,)]


@pytest.mark.parametrize(("count", "inlined"), [(4, True), (5, False)])
def test_small_constants_stay_in_the_code(count: int, inlined: bool) -> None:
    column = weights(count, 1)
    lowered = _lower(lambda emit, x: emit(op.multiply(x, column)))
    assert (4 * count <= INLINE_NBYTES) == inlined
    assert lowered.params == {"segment_0": () if inlined else ("weight_0",)}
    assert len(lowered.module["segment_0"].params) == (1 if inlined else 2)


def test_weights_that_numpy_has_no_type_for() -> None:
    def build(emit: Any, x: Any) -> Any:
        return [relax.const(np.full(16, value, np.float32), "bfloat16") for value in (1, 2, 1)]

    lowered = _lower(build)
    assert [str(array.dtype) for array in lowered.weights.values()] == ["bfloat16"] * 2


def test_the_same_graph_gives_the_same_text() -> None:
    one, other = _lower(_chain), _lower(_chain)
    assert one.module.script(show_meta=True) == other.module.script(show_meta=True)
    assert one.params == other.params


def test_a_layer_without_a_payload_is_refused() -> None:
    x, y = (Tensor(name, TensorType("float32", (4,))) for name in "xy")
    graph = LayerGraph("toy", (x,), (Layer("conv", "conv2d", (x,), (y,)),), (y,))
    with pytest.raises(CompilerError, match="layer 'conv' carries nothing to compile"):
        lower_segments(graph, _segment_by_layer(graph))
