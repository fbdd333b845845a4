from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tvm
from hypothesis import given, settings
from relax_models import batch_norm, make_module, op_names, relax_modules, signature, weights
from tvm import relax
from tvm.relax import op

from partc.compiler import lower
from partc.errors import CompilerError, ModelError
from partc.frontends.onnx import import_onnx
from partc.graph import LayerGraph, Tensor, TensorType
from partc.passes.build import ELEMENTWISE, REARRANGING, LayerPayload, build_graph
from partc.passes.canonicalize import canonicalize
from partc.report.text import print_graph

IMAGE = {"x": (1, 4, 8, 8)}


def _build(module: tvm.IRModule, *outputs: str) -> LayerGraph:
    canonical = canonicalize(module)
    inputs, results = signature(canonical)
    names = outputs or [result.name for result in results]
    named = [Tensor(name, result.type) for name, result in zip(names, results, strict=True)]
    return build_graph("toy", canonical, inputs, named)


def _describe(graph: LayerGraph) -> list[str]:
    """One line a layer: its name and its operators."""
    return [f"{layer.name}: {' '.join(layer.ops)}" for layer in graph.layers]


def _conv(data: Any, reads: int, makes: int, groups: int = 1) -> Any:
    weight = weights(makes, reads // groups, 3, 3)
    return op.nn.conv2d(data, weight, padding=1, groups=groups)


def _network(emit: Any, x: Any) -> list[Any]:
    """Everything that networks for mobile devices are made of, once."""
    stem = emit(_conv(emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1])), 4, 8), "stem")
    stem = emit(op.nn.relu(emit(op.add(stem, weights(8, 1, 1)), "stem_bias")), "stem_relu")
    depthwise = emit(_conv(stem, 8, 8, groups=8), "depthwise")
    depthwise = emit(relax.TupleGetItem(emit(batch_norm(depthwise, 8)), 0), "norm")
    silu = emit(op.multiply(depthwise, emit(op.sigmoid(depthwise))), "silu")
    squeezed = emit(op.mean(silu, [2, 3], keepdims=True), "squeeze")
    gate = emit(op.sigmoid(emit(op.nn.conv2d(squeezed, weights(8, 8, 1, 1)), "excite")), "gate")
    scaled = emit(op.multiply(silu, gate), "scale")
    project = emit(op.nn.conv2d(scaled, weights(8, 8, 1, 1)), "project")
    residual = emit(op.add(stem, project), "residual")
    thirds = emit(op.split(residual, [2, 5], 1), "thirds")
    low, _, high = (emit(relax.TupleGetItem(thirds, index), f"third{index}") for index in range(3))
    joined = emit(op.concat([high, emit(op.nn.relu(low)), high], 1))
    features = emit(op.nn.avg_pool2d(joined, (10, 10)), "pool")
    logits = emit(op.matmul(emit(op.reshape(features, (1, 8))), weights(8, 10)), "classify")
    return [emit(op.nn.softmax(logits)), residual, x, weights(2), residual]


def test_the_graph_of_a_network(golden: Callable[[str, str], None]) -> None:
    graph = _build(
        make_module(IMAGE, _network), "scores", "features", "image", "version", "features_again"
    )
    golden("network.graph", print_graph(graph))


# What is fused with what ------------------------------------------------------------------------


def relu_behind_a_fork(emit: Any, x: Any) -> Any:
    conv = emit(_conv(x, 4, 4), "conv")
    return emit(op.nn.relu(conv), "relu"), emit(op.nn.max_pool2d(conv), "pool")


def fork_that_joins_again(emit: Any, x: Any) -> Any:
    conv = emit(_conv(x, 4, 4), "conv")
    both = emit(op.add(emit(op.nn.relu(conv)), emit(op.tanh(conv))))
    return emit(op.nn.max_pool2d(both), "pool")


def fork_that_joins_behind_another_layer(emit: Any, x: Any) -> Any:
    conv = emit(_conv(x, 4, 4), "conv")
    other = emit(_conv(conv, 4, 4), "other")
    return emit(op.add(emit(op.nn.relu(conv), "relu"), other), "join")


def join_of_two_layers(emit: Any, x: Any) -> Any:
    left, right = emit(_conv(x, 4, 4), "left"), emit(_conv(x, 4, 4), "right")
    return emit(op.add(right, left), "join")


def join_with_an_input(emit: Any, x: Any) -> Any:
    return emit(op.add(x, emit(_conv(x, 4, 4), "conv")), "join")


def flattened_result(emit: Any, x: Any) -> Any:
    return emit(op.reshape(emit(_conv(x, 4, 4), "conv"), (256,)), "flat")


def growing_result(emit: Any, x: Any) -> Any:
    mean = emit(op.mean(x, [2, 3], keepdims=True), "mean")
    return emit(op.add(mean, weights(1, 4, 8, 8)), "grow")


def result_in_the_middle(emit: Any, x: Any) -> Any:
    conv = emit(_conv(x, 4, 4), "conv")
    relu = emit(op.nn.relu(conv), "relu")
    return relu, emit(op.tanh(relu), "tanh")


def gate_of_two_halves(emit: Any, x: Any) -> Any:
    halves = emit(op.split(x, 2, 1), "halves")
    left, right = (emit(relax.TupleGetItem(halves, index)) for index in range(2))
    return emit(op.multiply(left, emit(op.sigmoid(right))), "gated")


def unused_half(emit: Any, x: Any) -> Any:
    halves = emit(op.split(x, 2, 1), "halves")
    emit(op.nn.relu(emit(relax.TupleGetItem(halves, 1))), "dead")
    return emit(_conv(emit(relax.TupleGetItem(halves, 0)), 2, 2), "conv")


def elementwise_first(emit: Any, x: Any) -> Any:
    return emit(op.tanh(emit(op.nn.relu(x), "relu")), "tanh")


def constant_operator(emit: Any, x: Any) -> Any:
    return emit(op.add(x, emit(op.sin(weights(4, 1, 1)), "table")), "add")


def input_that_is_only_read_in_a_tail(emit: Any, x: Any) -> Any:
    table = emit(op.sin(weights(1, 4, 8, 8)), "table")
    return emit(op.add(table, x), "add")


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (relu_behind_a_fork, ["conv: conv2d", "relu: relu", "pool: max_pool2d"]),
        (fork_that_joins_again, ["conv: conv2d relu tanh add", "pool: max_pool2d"]),
        (
            fork_that_joins_behind_another_layer,
            ["conv: conv2d", "other: conv2d", "relu: relu add"],
        ),
        (join_of_two_layers, ["left: conv2d", "right: conv2d add"]),
        (join_with_an_input, ["conv: conv2d add"]),
        (flattened_result, ["conv: conv2d reshape"]),
        (growing_result, ["mean: mean", "grow: add"]),
        (result_in_the_middle, ["conv: conv2d relu", "tanh: tanh"]),
        (gate_of_two_halves, ["halves: split sigmoid multiply"]),
        (unused_half, ["halves: split", "conv: conv2d"]),
        (elementwise_first, ["relu: relu tanh"]),
        (constant_operator, ["table: sin", "add: add"]),
        (input_that_is_only_read_in_a_tail, ["table: sin add"]),
    ],
)
def test_what_is_fused(build: Any, layers: list[str]) -> None:
    assert _describe(_build(make_module(IMAGE, build))) == layers


def test_every_operator_is_one_of_tvm() -> None:
    known = {str(name).rsplit(".", 1)[-1] for name in tvm.ir.Op.list_op_names()}
    assert known >= ELEMENTWISE | REARRANGING
    assert ELEMENTWISE.isdisjoint(REARRANGING)


@settings(max_examples=100, deadline=None)
@given(relax_modules(max_steps=20))
def test_layers_partition_the_module(module: tvm.IRModule) -> None:
    canonical = canonicalize(module)
    graph = build_graph("random", canonical, *signature(canonical))
    payloads = [layer.payload for layer in graph.layers]
    grouped = [b.var for payload in payloads for b in payload.bindings]
    source = [b.var for block in canonical["main"].body.blocks for b in block.bindings]
    assert len(set(grouped)) == len(grouped)
    assert set(source) <= set(grouped)
    copies = len(grouped) - len(source)
    assert sum(len(layer.ops) for layer in graph.layers) == len(op_names(canonical)) + copies
    for layer in graph.layers:
        assert isinstance(layer.payload, LayerPayload)
        assert layer.outputs
        assert len(layer.inputs) == len(layer.payload.inputs)
        assert len(layer.outputs) == len(layer.payload.outputs)
        assert len(layer.ops) == 1 or len(layer.outputs) == 1
        read = {tensor.name for other in graph.layers for tensor in other.inputs}
        returned = {tensor.name for tensor in graph.outputs}
        assert all(tensor.name in read | returned for tensor in layer.outputs)


_LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("squeezenet", "26 conv2d, 8 concat, 3 max_pool2d, 1 mean, 1 softmax"),
        (
            "shufflenet",
            "33 conv2d, 16 depthwise_conv2d, 16 take, 4 avg_pool2d, 3 concat, 1 matmul, "
            "1 max_pool2d, 1 softmax",
        ),
        (
            "inception_v1",  # with two local response normalisations, a pool and a product each
            "57 conv2d, 13 max_pool2d, 9 concat, 2 avg_pool3d, 2 multiply, 1 avg_pool2d, "
            "1 matmul, 1 softmax",
        ),
    ],
)
def test_layers_of_known_networks(name: str, kinds: str) -> None:
    graph = lower(import_onnx(_LIGHT / f"light_{name}.onnx"))
    found = Counter(layer.kind for layer in graph.layers)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    assert ", ".join(f"{count} {kind}" for kind, count in ordered) == kinds
    names = {name for layer in graph.layers for name in layer.ops}
    assert names.isdisjoint({"batch_norm", "dropout", "pad"})


# Names -------------------------------------------------------------------------------------------


def test_names_are_unique_and_say_what_a_layer_is() -> None:
    def build(emit: Any, x: Any) -> Any:
        first = emit(_conv(emit(_conv(x, 4, 4)), 4, 4), "gv")
        third = emit(_conv(first, 4, 4), "conv_1")
        again = emit(_conv(emit(_conv(third, 4, 4), "conv"), 4, 4), "conv")
        relu = emit(op.nn.relu(emit(_conv(again, 4, 4), "lv12")), "relu")
        return emit(op.nn.max_pool2d(emit(op.nn.max_pool2d(relu), "x")), "y0")

    graph = _build(make_module(IMAGE, build))
    layers = "conv2d conv2d_1 conv_1 conv conv_2 relu x y0"
    assert [layer.name for layer in graph.layers] == layers.split()
    tensors = "x lv gv conv_1 conv conv_2 relu x_1 y0"
    assert [tensor.name for tensor in graph.tensors] == tensors.split()


def test_items_of_a_tuple_are_named_after_it() -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(op.concat(emit(op.split(x, 2, 1), "halves"), 1))

    graph = _build(make_module(IMAGE, build))
    assert [tensor.name for tensor in graph.tensors] == ["x", "halves", "halves_1", "y0"]


@pytest.mark.parametrize(
    ("reads", "groups", "kind"),
    [(1, 1, "conv2d"), (4, 1, "conv2d"), (4, 2, "conv2d"), (4, 4, "depthwise_conv2d")],
)
def test_a_depthwise_convolution_has_a_group_for_each_channel(
    reads: int, groups: int, kind: str
) -> None:
    module = make_module({"x": (1, reads, 8, 8)}, lambda emit, x: emit(_conv(x, reads, 4, groups)))
    assert _build(module).layers[0].kind == kind


def test_a_value_may_be_returned_twice_under_one_name() -> None:
    graph = _build(make_module(IMAGE, lambda emit, x: [x, emit(op.nn.relu(x)), x]), "x", "y", "x")
    assert [tensor.name for tensor in graph.outputs] == ["x", "y", "x"]
    assert _describe(graph) == ["relu: relu"]


@pytest.mark.parametrize("names", [("x", "y"), ("y", "y")])
def test_different_tensors_need_different_names(names: tuple[str, str]) -> None:
    module = make_module(IMAGE, lambda emit, x: [emit(op.nn.relu(x)), emit(op.tanh(x))])
    with pytest.raises(ModelError, match=f"2 different tensors are called {names[0]!r}"):
        _build(module, *names)


def test_a_signature_that_is_not_the_modules_is_refused() -> None:
    module = canonicalize(make_module(IMAGE, lambda emit, x: emit(op.nn.relu(x))))
    with pytest.raises(CompilerError, match="signature"):
        build_graph("toy", module, [], [Tensor("y", TensorType("float32", IMAGE["x"]))])


def test_a_value_that_is_no_tensor_is_refused_by_name() -> None:
    def build(emit, sizes):
        return emit(op.shape_to_tensor(emit(op.tensor_to_shape(sizes))))

    module = make_module({"sizes": (2,)}, build, dtype="int64")
    with pytest.raises(
        ModelError, match=r"operator 'tensor_to_shape', imported as '\w+', makes R\."
    ):
        _build(module)
