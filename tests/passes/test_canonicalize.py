from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from relax_models import (
    Machine,
    assert_close,
    batch_norm,
    make_module,
    op_names,
    random_inputs,
    relax_modules,
    weights,
)
from tvm import relax
from tvm.relax import op

from partc.passes.canonicalize import canonicalize
from partc.passes.expressions import constant, op_name

IMAGE = {"x": (1, 4, 6, 6)}


def _conv(data: Any, makes: int = 4, groups: int = 1, **attributes: Any) -> Any:
    reads = 4 // groups
    return op.nn.conv2d(data, weights(makes, reads, 3, 3), groups=groups, **attributes)


def _first(emit: Any, whole: Any) -> Any:
    return emit(relax.TupleGetItem(emit(whole), 0))


def _assert_same(module: tvm.IRModule) -> None:
    before, after = (
        m["main"].with_attr("global_symbol", name)
        for m, name in ((module, "before"), (canonicalize(module), "after"))
    )
    machine = Machine(tvm.IRModule({"before": before, "after": after}))
    inputs = random_inputs(before)
    assert_close(machine.run("after", inputs), machine.run("before", inputs))


@settings(max_examples=25, deadline=None)
@given(relax_modules(max_steps=10))
def test_it_computes_the_same(module: tvm.IRModule) -> None:
    _assert_same(module)


@settings(max_examples=50, deadline=None)
@given(relax_modules())
def test_its_result_is_in_canonical_form(module: tvm.IRModule) -> None:
    once = canonicalize(module)
    relax.analysis.well_formed(once)
    assert op_names(canonicalize(once)) == op_names(once)
    assert {"batch_norm", "dropout"}.isdisjoint(op_names(once))
    for name in ("conv2d", "max_pool2d", "concat"):  # nothing is computed twice
        assert op_names(once).count(name) <= op_names(module).count(name)


# What becomes of which operators -----------------------------------------------------------------


def conv_and_batch_norm(emit, x):
    return _first(emit, batch_norm(emit(_conv(x)), 4))


def grouped_conv_and_batch_norm(emit, x):
    return _first(emit, batch_norm(emit(_conv(x, makes=8, groups=2)), 8))


def conv_bias_and_batch_norm(emit, x):
    biased = emit(op.add(emit(_conv(x)), weights(1, 4, 1, 1)))
    return _first(emit, batch_norm(biased, 4))


def conv_and_two_batch_norms(emit, x):
    once = _first(emit, batch_norm(emit(_conv(x)), 4))
    return _first(emit, batch_norm(once, 4, epsilon=0.1))


def conv_and_batch_norm_read_twice(emit, x):
    normal = _first(emit, batch_norm(emit(_conv(x)), 4))
    return emit(op.add(emit(op.multiply(normal, weights(4, 1, 1))), normal))


def conv_read_by_batch_norm_and_output(emit, x):
    conv = emit(_conv(x))
    return _first(emit, batch_norm(conv, 4)), conv


def conv_read_by_batch_norm_and_dead_code(emit, x):
    conv = emit(_conv(x))
    emit(op.nn.relu(conv))
    return _first(emit, batch_norm(conv, 4))


def conv_dropout_read_twice(emit, x):
    dropped = _first(emit, op.nn.dropout(emit(_conv(x))))
    return emit(op.multiply(dropped, weights(4, 1, 1))), dropped


def batch_norm_without_conv(emit, x):
    return _first(emit, batch_norm(x, 4))


def batch_norm_over_another_axis(emit, x):
    conv = emit(_conv(x, makes=4, padding=1))
    return _first(emit, batch_norm(conv, 6, axis=2, scale=False))


def batch_norm_over_the_last_axis(emit, x):
    return _first(emit, batch_norm(emit(_conv(x, padding=1)), 6, axis=-1, center=False))


def batch_norm_by_its_own_statistics(emit, x):
    return _first(emit, batch_norm(x, 4, training=True))


def batch_norm_with_computed_statistics(emit, x):
    mean = emit(op.mean(x, [0, 2, 3]))
    ones = weights(4, low=1, high=1)
    return _first(emit, op.nn.batch_norm(x, ones, ones, mean, ones, 1, training=False))


def batch_norm_that_returns_its_statistics(emit, x):
    normal = emit(batch_norm(x, 4))
    return [emit(relax.TupleGetItem(normal, index)) for index in range(3)]


def conv_and_factor_on_the_left(emit, x):
    return emit(op.multiply(weights(4, 1, 1), emit(_conv(x))))


def conv_and_scalar_factor(emit, x):
    return emit(op.multiply(emit(_conv(x)), constant(np.float32(3))))


def conv_and_factor_for_each_column(emit, x):
    return emit(op.multiply(emit(_conv(x)), weights(4)))


def conv_and_factor_that_repeats_it(emit, x):
    return emit(op.multiply(emit(_conv(x)), weights(2, 4, 1, 1)))


def conv_bias_that_repeats_it_and_factor(emit, x):
    biased = emit(op.add(emit(_conv(x)), weights(2, 4, 1, 1)))
    return emit(op.multiply(biased, weights(4, 1, 1)))


def conv_in_nhwc_and_factor(emit, x):
    conv = op.nn.conv2d(x, weights(6, 6, 1, 1), data_layout="NHWC")
    return emit(op.multiply(emit(conv), weights(4, 1, 1)))


def conv_with_its_weight_in_hwio_and_factor(emit, x):
    conv = op.nn.conv2d(x, weights(3, 3, 4, 3), kernel_layout="HWIO")
    return emit(op.multiply(emit(conv), weights(3, 1, 1)))


def conv_with_wider_results_and_factor(emit, x):
    small = emit(op.astype(x, "float16"))
    conv = op.nn.conv2d(small, weights(4, 4, 3, 3, dtype="float16"), out_dtype="float32")
    return emit(op.multiply(emit(conv), weights(4, 1, 1)))


def conv_with_computed_weight_and_factor(emit, x):
    weight = emit(op.nn.relu(emit(op.reshape(x, (4, 4, 3, 3)))))
    return emit(op.multiply(emit(op.nn.conv2d(x, weight)), weights(4, 1, 1)))


def sum_of_biases(emit, x):
    return emit(op.add(weights(4, 1, 1), emit(op.add(x, weights(1, 4, 1, 1)))))


def bias_that_repeats_its_input(emit, x):
    return emit(op.add(emit(op.add(x, weights(2, 4, 1, 1))), weights(4, 1, 1)))


def pad_and_conv(emit, x):
    return emit(_conv(emit(op.nn.pad(x, [0, 0, 0, 0, 1, 2, 0, 1])), padding=[0, 1, 0, 0]))


def pad_of_pad_and_conv(emit, x):
    padded = emit(op.nn.pad(x, [0, 0, 0, 0, 0, 2, 0, 1]))
    return emit(_conv(emit(op.nn.pad(padded, [0, 0, 0, 0, 1, 1, 0, 1]))))


def pad_and_dilated_conv_with_wider_results(emit, x):
    padded = emit(op.nn.pad(emit(op.astype(x, "float16")), [0, 0, 0, 0, 1, 2, 0, 1]))
    weight = weights(4, 4, 3, 3, dtype="float16")
    return emit(op.nn.conv2d(padded, weight, dilation=2, out_dtype="float32"))


def pad_read_by_two_convs(emit, x):
    padded = emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1]))
    return emit(_conv(padded)), emit(_conv(padded, strides=2))


def pad_read_by_conv_and_pool(emit, x):
    padded = emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1]))
    return emit(_conv(padded)), emit(op.nn.max_pool2d(padded, (2, 2)))


def pad_and_pool(emit, x):
    return emit(op.nn.avg_pool2d(emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1])), (2, 2)))


def pad_with_ones_and_conv(emit, x):
    return emit(_conv(emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1], "constant", 1.0))))


def pad_by_reflection_and_conv(emit, x):
    return emit(_conv(emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1], "reflect"))))


def pad_of_channels_and_conv(emit, x):
    padded = emit(op.nn.pad(x, [0, 0, 1, 1, 0, 0, 0, 0]))
    return emit(op.nn.conv2d(padded, weights(2, 6, 3, 3)))


def pad_and_conv_in_nhwc(emit, x):
    padded = emit(op.nn.pad(x, [0, 0, 0, 0, 1, 1, 2, 0]))
    return emit(op.nn.conv2d(padded, weights(2, 8, 3, 3), data_layout="NHWC"))


def crop_and_conv(emit, x):
    return emit(_conv(emit(op.nn.pad(x, [0, 0, 0, 0, -1, 0, 0, 0]))))


def stacked_sum(emit, x):
    total = emit(op.sum(emit(op.stack([x, emit(op.nn.relu(x)), x], -1)), [4]))
    return emit(op.sum(emit(op.stack([total, x], 1)), [-4]))


def stacked_sum_of_one(emit, x):
    return emit(op.nn.relu(emit(op.sum(emit(op.stack([x], 0)), [0]))))


def stacked_sum_over_everything(emit, x):
    return emit(op.sum(emit(op.stack([x, x]))))


def stacked_sum_over_another_axis(emit, x):
    return emit(op.sum(emit(op.stack([x, x])), [1]))


def stacked_sum_that_keeps_the_axis(emit, x):
    return emit(op.sum(emit(op.stack([x, x])), [0], keepdims=True))


def stack_of_a_split(emit, x):
    return emit(op.sum(emit(op.stack(emit(op.split(x, 2, 1)))), [0]))


def stack_read_twice(emit, x):
    stacked = emit(op.stack([x, x]))
    return emit(op.sum(stacked, [0])), stacked


def dropout(emit, x):
    return emit(op.nn.relu(_first(emit, op.nn.dropout(x))))


def operators_that_change_nothing(emit, x):
    same = emit(op.astype(emit(op.reshape(x, (1, 4, 6, 6))), "float32"))
    return emit(op.nn.relu(emit(op.squeeze(emit(op.broadcast_to(same, (1, 4, 6, 6))), []))))


def transposition_that_keeps_the_shape(emit, x):
    return emit(op.permute_dims(x, [0, 1, 3, 2]))


def arithmetic_on_constants(emit, x):
    scale = emit(op.divide(weights(4), emit(op.sqrt(weights(4, low=1, high=2)))))
    rows = emit(op.reshape(emit(op.concat([scale, emit(op.negative(scale))])), (4, 2)))
    joined = emit(op.concat([rows, weights(4, 2, low=2, high=9)], -1))
    cube = emit(op.expand_dims(emit(op.permute_dims(joined)), [2]))
    turned = emit(op.permute_dims(emit(op.broadcast_to(cube, (4, 4, 3))), [1, 2, 0]))
    difference = emit(op.subtract(turned, emit(op.multiply(turned, weights(4)))))
    whole = emit(op.astype(emit(op.flatten(emit(op.add(difference, turned)))), "int32"))
    return difference, whole, emit(op.squeeze(cube))


def constant_for_which_there_is_no_rule(emit, x):
    return emit(op.add(x, emit(op.sin(weights(4, 1, 1)))))


def constants_of_64_bits(emit, x):
    indices = emit(op.add(constant(np.array([2**40])), constant(np.array([1]))))
    third = emit(op.divide(constant(np.array([1.0])), constant(np.array([3.0]))))
    return indices, third, emit(op.nn.relu(x))


def integer_division(emit, x):
    return emit(op.divide(constant(np.array([-7])), constant(np.array([2]))))


def division_by_zero(emit, x):
    return emit(op.divide(weights(3), constant(np.zeros(3, "float32"))))


def _shuffle(emit, x, split, swap=(0, 2, 1, 3, 4), joined=(1, 4, 6, 6)):
    apart = emit(op.reshape(x, split))
    swapped = emit(op.permute_dims(apart, swap))
    return emit(op.reshape(swapped, joined)), swapped


def channel_shuffle(emit, x):
    return _shuffle(emit, x, (1, 2, 2, 6, 6))[0]


def channel_shuffle_in_uneven_groups(emit, x):
    wide = emit(op.concat([x, emit(op.nn.relu(x))], 1))
    return _shuffle(emit, wide, (1, 4, 2, 6, 6), joined=(1, 8, 6, 6))[0]


def channel_shuffle_read_within(emit, x):
    return _shuffle(emit, x, (1, 2, 2, 6, 6))


def channel_shuffle_and_transposition(emit, x):
    return _shuffle(emit, x, (1, 2, 2, 6, 6), swap=(0, 2, 1, 4, 3))[0]


def channel_shuffle_and_reshape(emit, x):
    return _shuffle(emit, x, (1, 2, 2, 6, 6), joined=(1, 4, 36))[0]


def channel_shuffle_of_a_row(emit, x):
    row = emit(op.nn.relu(emit(op.reshape(x, (1, 144)))))
    return _shuffle(emit, row, (1, 2, 2, 6, 6))[0]


def half_reshaped(emit, x):
    half = emit(relax.TupleGetItem(emit(op.split(x, 2, 1)), 0))
    return emit(op.reshape(half, (1, 72)))


def half_exchanged(emit, x):
    half = emit(relax.TupleGetItem(emit(op.split(x, 2, 1)), 0))
    return emit(op.reshape(emit(op.permute_dims(half, (0, 2, 1, 3))), (1, 72)))


def rows_exchanged_with_channels(emit, x):
    return _shuffle(emit, x, (1, 4, 2, 3, 6))[0]


def dead_code(emit, x):
    emit(_conv(emit(op.nn.relu(x))))
    halves = emit(op.split(x, 2, 1))
    emit(relax.TupleGetItem(halves, 1))
    return emit(op.sigmoid(emit(relax.TupleGetItem(halves, 0))))


def tuple_read_whole(emit, x):
    halves = emit(op.split(x, 2, 1))
    return emit(op.concat(halves, 1)), emit(op.nn.relu(emit(relax.TupleGetItem(halves, 1))))


def results_that_no_operator_makes(emit, x):
    return x, weights(3), x, emit(op.reshape(x, (1, 4, 6, 6)))


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (conv_and_batch_norm, "conv2d add"),
        (grouped_conv_and_batch_norm, "conv2d add"),
        (conv_bias_and_batch_norm, "conv2d add"),
        (conv_and_two_batch_norms, "conv2d add"),
        (conv_and_batch_norm_read_twice, "conv2d add multiply add"),
        (conv_read_by_batch_norm_and_output, "conv2d multiply add"),
        (conv_read_by_batch_norm_and_dead_code, "conv2d add"),
        (conv_dropout_read_twice, "conv2d multiply"),
        (batch_norm_without_conv, "multiply add"),
        (batch_norm_over_another_axis, "conv2d multiply add"),
        (batch_norm_over_the_last_axis, "conv2d multiply add"),
        (batch_norm_by_its_own_statistics, "batch_norm"),
        (batch_norm_with_computed_statistics, "mean batch_norm"),
        (batch_norm_that_returns_its_statistics, "multiply add"),
        (conv_and_factor_on_the_left, "conv2d"),
        (conv_and_scalar_factor, "conv2d"),
        (conv_and_factor_for_each_column, "conv2d multiply"),
        (conv_and_factor_that_repeats_it, "conv2d multiply"),
        (conv_bias_that_repeats_it_and_factor, "conv2d add multiply"),
        (conv_in_nhwc_and_factor, "conv2d multiply"),
        (conv_with_its_weight_in_hwio_and_factor, "conv2d multiply"),
        (conv_with_wider_results_and_factor, "astype conv2d multiply"),
        (conv_with_computed_weight_and_factor, "reshape relu conv2d multiply"),
        (sum_of_biases, "add"),
        (bias_that_repeats_its_input, "add"),
        (pad_and_conv, "conv2d"),
        (pad_of_pad_and_conv, "conv2d"),
        (pad_and_dilated_conv_with_wider_results, "astype conv2d"),
        (pad_read_by_two_convs, "conv2d conv2d"),
        (pad_read_by_conv_and_pool, "pad conv2d max_pool2d"),
        (pad_and_pool, "pad avg_pool2d"),
        (pad_with_ones_and_conv, "pad conv2d"),
        (pad_by_reflection_and_conv, "pad conv2d"),
        (pad_of_channels_and_conv, "pad conv2d"),
        (pad_and_conv_in_nhwc, "pad conv2d"),
        (crop_and_conv, "pad conv2d"),
        (stacked_sum, "relu add add add"),
        (stacked_sum_of_one, "relu"),
        (stacked_sum_over_everything, "stack sum"),
        (stacked_sum_over_another_axis, "stack sum"),
        (stacked_sum_that_keeps_the_axis, "stack sum"),
        (stack_of_a_split, "split add"),
        (stack_read_twice, "stack sum"),
        (dropout, "relu"),
        (operators_that_change_nothing, "relu"),
        (transposition_that_keeps_the_shape, "permute_dims"),
        (arithmetic_on_constants, ""),
        (constant_for_which_there_is_no_rule, "sin add"),
        (constants_of_64_bits, "relu"),
        (integer_division, "divide"),
        (division_by_zero, ""),
        (channel_shuffle, "take"),
        (channel_shuffle_in_uneven_groups, "relu concat take"),
        (channel_shuffle_read_within, "reshape permute_dims take"),
        (channel_shuffle_and_transposition, "reshape permute_dims reshape"),
        (channel_shuffle_and_reshape, "reshape permute_dims reshape"),
        (channel_shuffle_of_a_row, "reshape relu reshape permute_dims reshape"),
        (rows_exchanged_with_channels, "reshape permute_dims reshape"),
        (half_reshaped, "split reshape"),
        (half_exchanged, "split permute_dims reshape"),
        (dead_code, "split sigmoid"),
        (tuple_read_whole, "split concat relu"),
        (results_that_no_operator_makes, ""),
    ],
)
def test_what_is_left(build: Any, left: str) -> None:
    module = make_module(IMAGE, build)
    assert op_names(canonicalize(module)) == left.split()
    _assert_same(module)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int64"])
def test_element_types(dtype: str) -> None:
    def build(emit: Any, x: Any) -> Any:
        conv = emit(op.nn.conv2d(x, weights(4, 4, 3, 3, dtype=dtype, low=0, high=9)))
        factor, bias = (weights(4, 1, 1, dtype=dtype, low=low, high=9) for low in (0, 3))
        biased = emit(op.add(bias, emit(op.add(emit(op.multiply(conv, factor)), bias))))
        return emit(op.add(bias, emit(op.multiply(bias, factor)))), biased

    module = make_module(IMAGE, build, dtype)
    assert op_names(canonicalize(module)) == ["conv2d", "add"]
    _assert_same(module)


def test_bfloat16_constants_fold() -> None:
    third = constant(weights(3).value.numpy().astype("bfloat16"))
    module = make_module({}, lambda emit: emit(op.multiply(third, third)))
    (result,) = canonicalize(module)["main"].body.body.fields
    assert str(result.value.dtype) == "bfloat16"
    squared = third.value.numpy().astype("float32") ** 2
    np.testing.assert_allclose(result.value.numpy().astype("float32"), squared, rtol=1e-2)


def test_names_of_the_source_survive() -> None:
    def build(emit: Any, x: Any) -> Any:
        biased = emit(op.add(emit(_conv(x), "conv1"), weights(4, 1, 1)), "bias1")
        first = emit(relax.TupleGetItem(emit(batch_norm(biased, 4), "tuple"), 0), "norm1")
        second = emit(relax.TupleGetItem(emit(batch_norm(first, 4, axis=2), "tuple"), 0), "norm2")
        total = emit(op.sum(emit(op.stack([second, second, second])), [0]), "total")
        halves = emit(op.split(total, 2, 1), "halves")
        return [emit(relax.TupleGetItem(halves, index), f"half{index}") for index in (1, 0)]

    bindings = canonicalize(make_module(IMAGE, build))["main"].body.blocks[0].bindings
    assert [f"{binding.var.name} {_operator(binding)}".strip() for binding in bindings] == [
        "conv1 conv2d",
        "norm1 add",
        "norm2 multiply",
        "norm2 add",
        "total add",
        "total add",
        "halves split",
        "half0",
        "half1",
    ]


def _operator(binding: Any) -> str:
    return op_name(binding.value) if isinstance(binding.value, relax.Call) else ""


def test_a_single_result_becomes_a_tuple_of_one() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(op.nn.relu(x))
        builder.emit_func_output(result)
    main = canonicalize(builder.get())["main"]
    assert isinstance(main.body.body, relax.Tuple)
    assert len(main.ret_ty.fields) == 1
    assert not isinstance(main.body.blocks[0], relax.DataflowBlock)


def test_no_index_reads_outside_its_table() -> None:
    table = weights(5, 3)

    def build(emit, indices):
        return emit(op.take(table, indices, axis=0, mode="fast"))

    module = canonicalize(make_module({"indices": (4,)}, build, dtype="int64"))
    indices = np.array([0, 4, 1_000_000_000, -7])
    (rows,) = Machine(module).run("main", [indices])
    np.testing.assert_array_equal(rows, table.value.numpy()[[0, 4, 4, 0]])
