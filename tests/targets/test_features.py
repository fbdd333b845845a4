from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import tvm
from every_layer import networks_side_by_side
from hypothesis import given
from hypothesis import strategies as st
from relax_models import layer_graph

from partc.codegen.kernels.mathematics import legalize_map
from partc.graph import Layer, Tensor, TensorType
from partc.passes.build import ELEMENTWISE
from partc.passes.canonicalize import canonicalize
from partc.targets.families import BY_FAMILY, COSTLY, family
from partc.targets.features import count_work, describe
from partc.targets.regression import COMMON

IMAGE = (1, 8, 10, 12)
CONVOLUTION = {
    "kernel": 9,
    "kernel_width": 3,
    "stride": 1,
    "dilation": 1,
    "groups": 1,
    "out_width": 12,
}
MATRIX = {"rows": 3, "inner": 4, "columns": 5}
VECTOR_FUNCTIONS = {name.rpartition(".")[2] for name in legalize_map()}
KINDS = sorted({str(name).rsplit(".", 1)[-1] for name in tvm.ir.Op.list_op_names()})


def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, TensorType("float32", shape))


def layer(
    kind: str,
    read: tuple[int, ...] = IMAGE,
    made: tuple[int, ...] = IMAGE,
    parameters: Mapping[str, int] | None = None,
    ops: tuple[str, ...] = (),
    weight_nbytes: int = 0,
) -> Layer:
    return Layer(
        f"a {kind}",
        kind,
        (tensor("x", read),),
        (tensor("y", made),),
        ops or (kind,),
        weight_nbytes=weight_nbytes,
        parameters=parameters or {},
    )


def convolution(kind: str = "conv2d", **others: int) -> Layer:
    return layer(kind, parameters=CONVOLUTION | others)


def gate(values: tuple[int, ...], factors: tuple[int, ...]) -> Layer:
    read = (tensor("x", values), tensor("gate", factors))
    return Layer("a gate", "multiply", read, (tensor("y", values),), ("multiply",))


EXAMPLES: list[tuple[Layer, str]] = [
    (convolution(), "3x3 convolution"),
    (convolution("conv3d"), "3x3 convolution"),
    (convolution(kernel=1, kernel_width=1), "pointwise convolution"),
    (convolution(kernel=1, kernel_width=1, stride=4), "pointwise convolution"),
    (convolution(stride=4), "convolution"),
    (convolution(dilation=4), "convolution"),
    (convolution(kernel=25, kernel_width=5), "convolution"),
    (convolution(kernel=9, kernel_width=9), "convolution"),
    (convolution("conv1d", kernel=3), "convolution"),
    (convolution(groups=2), "grouped convolution"),
    (convolution(groups=2, kernel=1), "grouped convolution"),
    (convolution("depthwise_conv2d", groups=8), "depthwise convolution"),
    (convolution("depthwise_conv2d", groups=4), "grouped convolution"),
    (convolution("conv2d_transpose"), "transposed convolution"),
    (convolution("conv1d_transpose"), "transposed convolution"),
    (layer("matmul", parameters=MATRIX, weight_nbytes=80), "matrix product"),
    (layer("matmul", parameters={**MATRIX, "rows": 1}, weight_nbytes=80), "vector product"),
    (layer("matmul", parameters=MATRIX), "batched matrix product"),
    (layer("max_pool2d"), "pooling"),
    (layer("avg_pool1d"), "pooling"),
    (layer("avg_pool3d"), "response norm"),
    (layer("avg_pool2d", made=(1, 8, 1, 1)), "global pooling"),
    (layer("adaptive_avg_pool2d", made=(1, 8, 1, 1)), "global pooling"),
    (layer("mean", made=(1, 8)), "global pooling"),
    (layer("adaptive_avg_pool2d", made=(1, 8, 2, 2)), "reduction"),
    (layer("sum", made=(1, 10, 12)), "reduction"),
    (layer("max", read=(3, 4), made=(3,)), "reduction"),
    (layer("argmin", made=(1, 8)), "argmax"),
    (layer("cumsum"), "scan"),
    (layer("attention"), "attention"),
    (layer("attention_bias"), "attention"),
    (layer("layer_norm"), "layer_norm"),
    (layer("rms_norm"), "rms_norm"),
    (layer("instance_norm"), "instance_norm"),
    (layer("group_norm"), "group_norm"),
    (layer("softmax"), "softmax"),
    (layer("log_softmax"), "log_softmax"),
    (layer("resize2d"), "resize2d"),
    (layer("concat"), "concat"),
    (layer("permute_dims"), "permute_dims"),
    (layer("strided_slice"), "strided_slice"),
    (layer("take", made=(1, 4, 10, 12)), "take"),
    (layer("take"), "shuffle"),
    (layer("multiply", ops=("multiply", "expand_dims")), "squares"),
    (layer("multiply"), "element-wise"),
    (layer("an operator of tomorrow"), "element-wise"),
    (layer("pad"), "move"),
    (layer("split"), "split"),
    (layer("reshape"), "copy"),
    (layer("squeeze", ops=("squeeze", "multiply")), "copy"),
    (layer("squeeze", ops=("squeeze", "permute_dims")), "move"),
    (layer("add", ops=("add", "tanh")), "function"),
    (gate(IMAGE, (1, 8, 1, 1)), "gating"),
    (gate((1, 8, 10), (1, 8, 1)), "scaling"),
    (gate(IMAGE, IMAGE), "element-wise"),
]


@pytest.mark.parametrize(
    ("example", "expected"),
    EXAMPLES,
    ids=[f"{position} {name}" for position, (_, name) in enumerate(EXAMPLES)],
)
def test_families(example: Layer, expected: str):
    assert family(example) == expected


def test_every_family_has_an_example():
    assert BY_FAMILY.keys() == {expected for _, expected in EXAMPLES}


@pytest.mark.parametrize(
    ("kind", "ops", "expected"),
    [
        ("relu", ("relu",), ()),
        ("add", ("add", "tanh", "reshape", "permute_dims"), ()),
        ("sigmoid", ("sigmoid",), ()),
        ("reshape", ("reshape",), ()),
        ("conv2d", ("conv2d", "add", "relu"), ("conv2d",)),
        ("depthwise_conv2d", ("conv2d", "gelu"), ("conv2d", "depthwise_conv2d")),
        ("matmul", ("matmul", "sin"), ("matmul", "sin")),
        ("floor_mod", ("floor_mod", "add"), ("floor_mod",)),
        ("an operator of tomorrow", ("an operator of tomorrow",), ("an operator of tomorrow",)),
    ],
)
def test_operators_that_no_other_stands_for(
    kind: str, ops: tuple[str, ...], expected: tuple[str, ...]
):
    """Cheap ones take alike, and so do functions that are polynomials in vectors."""
    (workload,) = describe([layer(kind, ops=ops)])
    assert workload.operators == expected


def test_every_element_wise_operator_is_known_to_be_cheap_or_not():
    """One that is added to what is fused has to be told apart here, too."""
    alone = {name for name in ELEMENTWISE if describe([layer(name)])[0].operators}
    assert alone == COSTLY - VECTOR_FUNCTIONS | {"floor_divide", "floor_mod", "mod"}


PARAMETERS = st.fixed_dictionaries(
    {
        name: st.integers(1, 9)
        for name in (*CONVOLUTION, *MATRIX, "run", "linear", "filters", "inside", "outside")
    }
)
SHAPES = st.lists(st.integers(0, 9), max_size=5).map(tuple)


@given(
    kind=st.sampled_from(KINDS),
    read=SHAPES,
    made=SHAPES,
    parameters=PARAMETERS,
    weight_nbytes=st.sampled_from([0, 4]),
)
def test_every_family_that_is_found_has_features(
    kind: str,
    read: tuple[int, ...],
    made: tuple[int, ...],
    parameters: dict[str, int],
    weight_nbytes: int,
):
    example = layer(kind, read, made, parameters, weight_nbytes=weight_nbytes)
    (workload,) = describe([example])
    assert workload.family in BY_FAMILY
    assert all(math.isfinite(log) and log >= 0 for log in workload.features.values())


@pytest.mark.parametrize(
    "example",
    [
        layer("relu", (), ()),
        layer("relu", (0, 3), (0, 3)),
        layer("softmax", (4,), (4,)),
        Layer("constant", "reshape", (), (tensor("y", (2,)),), ("reshape",), weight_nbytes=8),
        Layer("constant", "take", (), (tensor("y", ()),), ("take",), weight_nbytes=4),
    ],
)
def test_odd_layers_have_finite_features(example: Layer):
    (workload,) = describe([example])
    assert all(math.isfinite(log) and log >= 0 for log in workload.features.values())


# Operations that a kernel does --------------------------------------------------------------------

FLOPS = 10**6
PLANE = {"out_width": 12, "inside": 1000, "outside": 80}
"""120 places of a kernel with 9 elements."""
POOL = {"kernel": 9, "kernel_width": 3, "stride": 1, "out_width": 12}
ALONE = {"groups": 10, "filters": 1, "inside": 594, "outside": 156}


@pytest.mark.parametrize(
    ("example", "shares"),
    [
        (convolution(**PLANE, filters=5), (1.2 * 8 / 5, 1.2 * 8 / 5, 1.2 * 16 / 5)),
        (convolution(**PLANE, filters=16), (1.2, 1.2, 1.2)),
        (
            convolution(out_width=10, inside=9 * 110, outside=0, filters=4),
            (12 / 10 * 12 / 11, 12 / 10 * 12 / 11 * 2, 12 / 10 * 12 / 11 * 4),
        ),
        (
            convolution(kernel=1, kernel_width=1, out_width=11, inside=110, outside=5, filters=5),
            (8 / 5, 8 / 5, 16 / 5),
        ),
        (convolution(**PLANE, stride=4, filters=5), (8 / 5, 8 / 5, 16 / 5)),
        (
            layer("depthwise_conv2d", (1, 10, 9, 9), (1, 10, 9, 9), CONVOLUTION | ALONE),
            (594 / 750 * 12 / 10, 594 / 750 * 16 / 10, 594 / 750 * 16 / 10),
        ),
        (
            layer("depthwise_conv2d", parameters=CONVOLUTION | ALONE | {"groups": 4}),
            (4, 8, 16),
        ),
        (layer("max_pool2d", parameters=POOL | {"inside": 30, "outside": 10}), (0.75,) * 3),
        (convolution("conv2d_transpose"), (1, 1, 1)),
        (layer("matmul", parameters=MATRIX, weight_nbytes=80), (1, 1, 1)),
    ],
    ids=lambda value: family(value) if isinstance(value, Layer) else "",
)
def test_vectors_and_tiles_are_filled_up_and_padding_is_skipped(
    example: Layer, shares: tuple[float, ...]
):
    (workload,) = describe([replace(example, flops=FLOPS)])
    counted = [math.exp(workload.features[f"flops, {lanes} lanes"]) for lanes in (4, 8, 16)]
    assert counted == pytest.approx([FLOPS * share for share in shares])


# Whole models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers() -> tuple[Layer, ...]:
    return layer_graph(canonicalize(networks_side_by_side())).layers


def test_a_model_of_every_layer(layers: tuple[Layer, ...]):
    workloads = describe(layers)
    assert [workload.kind for workload in workloads] == [each.kind for each in layers]
    assert [workload.family for workload in workloads] == [family(each) for each in layers]
    assert {workload.family for workload in workloads} >= {
        *("pointwise convolution", "3x3 convolution", "convolution", "grouped convolution"),
        *("depthwise convolution", "transposed convolution", "matrix product", "pooling"),
        *("global pooling", "layer_norm", "instance_norm", "softmax", "resize2d", "concat"),
        *("batched matrix product", "gating"),
    }


def test_the_same_model_is_described_alike(layers: tuple[Layer, ...]):
    assert describe(layers) == describe(layers)


def test_every_feature_of_a_family_is_one_that_some_layer_has(layers: tuple[Layer, ...]):
    examples = [example for example, _ in EXAMPLES]
    known = {
        name
        for each in (layers, examples)
        for workload in describe(each)
        for name in workload.features
    }
    named = {*COMMON, *(name for names in BY_FAMILY.values() for name in names)}
    assert known >= named


def test_work_is_what_layers_count(layers: tuple[Layer, ...]):
    for each, workload in zip(layers, describe(layers), strict=True):
        flops, nbytes = count_work(workload)
        assert flops == pytest.approx(max(1, each.flops))
        moved = (each.input_nbytes, each.weight_nbytes, each.output_nbytes)
        assert nbytes == pytest.approx(sum(max(1, part) for part in moved))
