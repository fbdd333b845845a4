from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from partc.errors import GraphError
from partc.graph import (
    ITEM_NBYTES,
    Layer,
    LayerCost,
    LayerGraph,
    Tensor,
    TensorType,
    describe_layer,
)


def _tensor(name: str, dtype: str = "float32", *shape: int) -> Tensor:
    return Tensor(name, TensorType(dtype, shape or (2, 3)))


X, T, U, Y = (_tensor(name) for name in "xtuy")
CONV = Layer("stem", "conv2d", (X,), (T,))
SPLIT = Layer("halves", "split", (T,), (U, Y))
ADD = Layer("sum", "add", (T, U), (_tensor("z"),))
GRAPH = LayerGraph("net", (X,), (CONV, SPLIT, ADD), (_tensor("z"), Y))
TERMS = ("device_ms", "server_ms", "device_mj", "device_error", "server_error")


def _message(build: Callable[[], object]) -> str:
    with pytest.raises(GraphError) as error:
        build()
    return str(error.value)


@pytest.mark.parametrize(
    ("dtype", "shape", "count", "nbytes", "text"),
    [
        ("float32", (1, 3, 224, 224), 150_528, 602_112, "float32[1, 3, 224, 224]"),
        ("float16", (5,), 5, 10, "float16[5]"),
        ("bool", (2, 2), 4, 4, "bool[2, 2]"),
        ("int64", (), 1, 8, "int64[]"),
        ("uint8", (0, 7), 0, 0, "uint8[0, 7]"),
    ],
)
def test_tensor_type(
    dtype: str, shape: tuple[int, ...], count: int, nbytes: int, text: str
) -> None:
    tensor = Tensor("t", TensorType(dtype, shape))
    assert tensor.type.count == count
    assert tensor.nbytes == nbytes
    assert str(tensor.type) == text
    assert str(tensor) == f"%t: {text}"


def test_item_sizes_are_those_in_the_names() -> None:
    bits = {dtype: int("".join(filter(str.isdigit, dtype)) or 8) for dtype in ITEM_NBYTES}
    assert {dtype: nbytes * 8 for dtype, nbytes in ITEM_NBYTES.items()} == bits


def test_unknown_dtype() -> None:
    assert _message(lambda: TensorType("float8", (1,))) == (
        "unknown dtype 'float8'; known are bool, int8, uint8, int16, uint16, float16, bfloat16, "
        "int32, uint32, float32, int64, uint64, float64"
    )


def test_negative_extent() -> None:
    assert _message(lambda: TensorType("int8", (2, -1))) == "negative extent in shape [2, -1]"


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("term", TERMS)
def test_cost_must_be_finite_and_not_negative(term: str, bad: float) -> None:
    costs = dict.fromkeys(TERMS, 1.0) | {term: bad}
    assert _message(lambda: LayerCost(**costs, server_extrapolated=True)) == (
        "a cost must be finite and not negative: LayerCost("
        + ", ".join(f"{name}={cost!r}" for name, cost in costs.items())
        + ", device_extrapolated=False, server_extrapolated=True)"
    )


def test_layer_adds_up_its_tensors() -> None:
    half = _tensor("h", "float16", 4)
    layer = Layer("l", "k", (X, half), (T, U))
    assert layer.input_nbytes == 24 + 8
    assert layer.output_nbytes == 48


def test_layer_has_a_cost_once_annotated() -> None:
    message = "layer 'stem' has no cost; run the annotate pass first"
    assert _message(lambda: CONV.annotated_cost) == message
    cost = LayerCost(1, 2, 3)
    assert replace(CONV, cost=cost).annotated_cost is cost


def test_parameters_are_part_of_a_layers_value() -> None:
    strided = replace(CONV, parameters={"stride": 2})
    assert strided != CONV
    assert strided == replace(CONV, parameters={"stride": 2})
    assert len({strided, replace(CONV, parameters={"stride": 2})}) == 1


def test_payload_is_no_part_of_a_layers_value() -> None:
    loaded = replace(CONV, payload=["anything"])
    assert loaded == CONV
    assert hash(loaded) == hash(CONV)
    assert repr(loaded) == repr(CONV)


def test_who_makes_and_reads_each_tensor() -> None:
    assert [tensor.name for tensor in GRAPH.tensors] == ["x", "t", "u", "y", "z"]
    assert GRAPH.by_name == {"stem": CONV, "halves": SPLIT, "sum": ADD}
    assert GRAPH.producers == {"t": CONV, "u": SPLIT, "y": SPLIT, "z": ADD}
    assert GRAPH.consumers == {"x": (CONV,), "t": (SPLIT, ADD), "u": (ADD,), "y": (), "z": ()}


def test_other_layers_keep_costs_and_payloads() -> None:
    cost, payload = LayerCost(1, 2, 3), object()
    layers = [replace(layer, cost=cost, payload=payload) for layer in GRAPH.layers]
    annotated = GRAPH.with_layers(iter(layers))
    assert (annotated.name, annotated.inputs, annotated.outputs) == ("net", (X,), GRAPH.outputs)
    assert all(layer.cost is cost and layer.payload is payload for layer in annotated.layers)
    assert annotated.by_name["stem"].cost is cost
    assert GRAPH.by_name["stem"].cost is None


def test_smallest_graphs() -> None:
    assert LayerGraph("empty", (), (), ()).tensors == ()
    assert LayerGraph("identity", (X,), (), (X, X)).consumers == {"x": ()}


def test_layer_in_one_line() -> None:
    assert describe_layer(SPLIT) == ("%u: float32[2, 3], %y: float32[2, 3] = split 'halves' (%t)")
    source = Layer("one", "constant", (), (_tensor("c", "int8", 1),))
    assert describe_layer(source) == "%c: int8[1] = constant 'one' ()"


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        pytest.param(replace(SPLIT, outputs=()), "layer 'halves' makes no tensor", id="no output"),
        pytest.param(
            replace(SPLIT, inputs=(T, X, T)),
            "layer 'halves' lists an input twice: t, x, t",
            id="input twice",
        ),
        pytest.param(
            replace(SPLIT, inputs=(_tensor("gone"),)),
            "layer 'halves' reads %gone, which nothing before it makes",
            id="unknown input",
        ),
        pytest.param(
            replace(SPLIT, inputs=(_tensor("z"),)),
            "layer 'halves' reads %z, which nothing before it makes",
            id="made later",
        ),
        pytest.param(
            replace(SPLIT, inputs=(U,)),
            "layer 'halves' reads %u, which nothing before it makes",
            id="own output",
        ),
        pytest.param(
            replace(SPLIT, inputs=(_tensor("t", "int8", 6),)),
            "layer 'halves' reads %t: int8[6], which is made as %t: float32[2, 3]",
            id="other type",
        ),
        pytest.param(
            replace(SPLIT, outputs=(U, U)),
            "layer 'halves' makes %u, which is made before it",
            id="output twice",
        ),
        pytest.param(
            replace(SPLIT, outputs=(U, T)),
            "layer 'halves' makes %t, which is made before it",
            id="made before",
        ),
        pytest.param(
            replace(SPLIT, outputs=(X,)),
            "layer 'halves' makes %x, which is made before it",
            id="made from outside",
        ),
    ],
)
def test_broken_layer_is_shown_among_its_neighbours(broken: Layer, problem: str) -> None:
    message = _message(lambda: GRAPH.with_layers([CONV, broken, ADD]))
    assert message == "\n".join(
        [
            problem,
            "  %t: float32[2, 3] = conv2d 'stem' (%x)",
            f"> {describe_layer(broken)}",
            "  %z: float32[2, 3] = add 'sum' (%t, %u)",
        ]
    )


@pytest.mark.parametrize(
    ("position", "shown"),
    [(0, range(6)), (3, range(9)), (50, range(45, 56)), (99, range(94, 100))],
)
def test_only_five_neighbours_on_each_side_are_shown(position: int, shown: range) -> None:
    tensors = [_tensor(f"t{index}") for index in range(101)]
    layers = [
        Layer(f"layer{index}", "k", (tensors[index],), (tensors[index + 1],))
        for index in range(100)
    ]
    layers[position] = replace(layers[position], inputs=(_tensor("gone"),))
    message = _message(lambda: LayerGraph("long", (tensors[0],), tuple(layers), (tensors[100],)))
    assert message.splitlines() == [
        f"layer 'layer{position}' reads %gone, which nothing before it makes",
        *(f"{'>' if i == position else ' '} {describe_layer(layers[i])}" for i in shown),
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda: LayerGraph("net", (X, T, X), (), ()),
            "graph 'net' has two inputs named 'x'",
            id="inputs",
        ),
        pytest.param(
            lambda: GRAPH.with_layers([CONV, replace(SPLIT, name="stem")]),
            "graph 'net' has two layers named 'stem'",
            id="layers",
        ),
        pytest.param(
            lambda: replace(GRAPH, outputs=(Y, _tensor("gone"))),
            "graph 'net' returns %gone: float32[2, 3], but no layer makes it",
            id="output nobody makes",
        ),
        pytest.param(
            lambda: replace(GRAPH, outputs=(_tensor("y", "int8", 6),)),
            "graph 'net' returns %y: int8[6], but it is made as %y: float32[2, 3]",
            id="output of another type",
        ),
    ],
)
def test_broken_graph(build: Callable[[], object], message: str) -> None:
    assert _message(build) == message
