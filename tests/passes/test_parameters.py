from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from relax_models import make_module, weights
from tvm import relax
from tvm.relax import op

from partc.passes import parameters
from partc.passes.canonicalize import canonicalize
from partc.passes.parameters import anchor_parameters

X = (2, 8, 10, 12)


def _parameters(inputs: Mapping[str, tuple[int, ...]], build: Any) -> Mapping[str, int]:
    """Of the only operator of a canonical module."""
    module = make_module(inputs, lambda emit, *params: emit(build(*params)))
    return _of_the_last(canonicalize(module))


def _of_the_last(module: tvm.IRModule) -> Mapping[str, int]:
    values = [binding.value for binding in module["main"].body.blocks[0].bindings]
    return anchor_parameters([value for value in values if isinstance(value, relax.Call)][-1])


def _convolution(kernel: int, width: int, out_width: int, **others: int) -> dict[str, int]:
    numbers = {"kernel": kernel, "kernel_width": width, "stride": 1, "dilation": 1, "groups": 1}
    return {**numbers, "out_width": out_width, **others}


# Convolutions ------------------------------------------------------------------------------------


def _strided(x: Any) -> Any:
    return op.nn.conv2d(x, weights(16, 8, 3, 5), strides=(2, 1), padding=(1, 2, 1, 2))


def _dilated(x: Any) -> Any:
    return op.nn.conv2d(x, weights(16, 8, 3, 3), dilation=(2, 3))


def _grouped(x: Any) -> Any:
    return op.nn.conv2d(x, weights(16, 4, 3, 3), groups=2)


def _depthwise(x: Any) -> Any:
    return op.nn.conv2d(x, weights(8, 1, 5, 5), groups=8, strides=(2, 2), padding=2)


def _transposed(x: Any) -> Any:
    return op.nn.conv2d_transpose(x, weights(8, 3, 4, 2), strides=(2, 3), groups=2)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (_strided, _convolution(15, 5, 12, stride=2, filters=16, inside=14 * 54, outside=144)),
        (_dilated, _convolution(9, 3, 6, dilation=6, filters=16, inside=9 * 36, outside=0)),
        (_grouped, _convolution(9, 3, 10, groups=2, filters=8, inside=9 * 80, outside=0)),
        (
            _depthwise,
            _convolution(25, 5, 6, stride=4, groups=8, filters=1, inside=594, outside=156),
        ),
        (
            lambda x: op.nn.conv2d(x, weights(4, 8, 1, 1)),
            _convolution(1, 1, 12, filters=4, inside=120, outside=0),
        ),
        (_transposed, _convolution(8, 2, 3 * 11 + 2, stride=6, groups=2)),
    ],
)
def test_convolutions_of_an_image(build: Any, expected: Mapping[str, int]) -> None:
    assert _parameters({"x": X}, build) == expected


def test_convolutions_of_other_ranks() -> None:
    line = _parameters({"x": (1, 4, 10)}, lambda x: op.nn.conv1d(x, weights(6, 4, 3), strides=2))
    cube = _parameters(
        {"x": (1, 4, 5, 6, 7)},
        lambda x: op.nn.conv3d(x, weights(6, 2, 3, 2, 1), strides=(1, 2, 3), groups=2),
    )
    assert line == _convolution(3, 3, 4, stride=2, filters=6, inside=12, outside=0)
    assert cube == _convolution(6, 1, 3, stride=6, groups=2, filters=3, inside=27 * 6, outside=0)


def test_a_kernel_is_known_by_its_layout() -> None:
    module = make_module(
        {"x": X},
        lambda emit, x: emit(op.nn.conv2d(x, weights(3, 5, 8, 16), kernel_layout="HWIO")),
    )
    assert _of_the_last(module) == _convolution(15, 5, 8, filters=16, inside=15 * 64, outside=0)


# Windows and products ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "build", "expected"),
    [
        (X, lambda x: op.nn.max_pool2d(x, (3, 2), strides=(2, 1)), (6, 2, 2, 11, 6 * 44, 0)),
        (X, lambda x: op.nn.avg_pool2d(x, (2, 2), (2, 2), (1, 1, 1, 1)), (4, 2, 4, 7, 120, 48)),
        ((1, 4, 9), lambda x: op.nn.max_pool1d(x, 3, strides=2), (3, 3, 2, 4, 12, 0)),
        ((1, 4, 5, 6, 7), lambda x: op.nn.avg_pool3d(x, (5, 1, 1)), (5, 1, 1, 7, 210, 0)),
    ],
)
def test_pooling(shape: tuple[int, ...], build: Any, expected: tuple[int, ...]) -> None:
    names = ("kernel", "kernel_width", "stride", "out_width", "inside", "outside")
    assert _parameters({"x": shape}, build) == dict(zip(names, expected, strict=True))


@given(st.data())
def test_what_a_window_covers_is_what_a_sum_of_ones_says(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(*[st.integers(low, high)] * 2))

    size, kernel, strides, dilation = draw(5, 9), draw(1, 3), draw(1, 3), draw(1, 2)
    padding = [*draw(0, 2), *draw(0, 2)]
    ones = np.pad(np.ones(size), [(padding[0], padding[2]), (padding[1], padding[3])])
    windows = np.lib.stride_tricks.sliding_window_view(
        ones, [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    )[:: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]
    found = _parameters(
        {"x": (1, 4, *size)},
        lambda x: op.nn.max_pool2d(x, kernel, strides, padding, dilation),
    )
    assert found["inside"] == windows.sum()
    assert found["inside"] + found["outside"] == windows.size


@given(
    size=st.integers(1, 12),
    places=st.integers(1, 12),
    taps=st.integers(1, 8),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 4),
    padding=st.integers(0, 20),
)
def test_what_is_covered_along_an_axis_is_what_counting_says(
    size: int, places: int, taps: int, stride: int, dilation: int, padding: int
) -> None:
    """However far a window reaches beyond the plane, before it or behind."""
    under = (p * stride + t * dilation - padding for p in range(places) for t in range(taps))
    counted = sum(0 <= position < size for position in under)
    found = parameters._covered_along(size, places, taps, stride, dilation, padding)
    assert found == counted


def test_a_long_kernel_over_sound_is_counted_at_once() -> None:
    """In each half of the padding the n-th tap from its end is n times."""
    places, half = 2_000_000, 50_000
    found = parameters._covered_along(places, places, 2 * half + 1, 1, 1, half)
    assert found == places * (2 * half + 1) - half * (half + 1)


def test_pooling_to_a_size_has_no_window() -> None:
    assert _parameters({"x": X}, lambda x: op.nn.adaptive_avg_pool2d(x, (2, 3))) == {}


@pytest.mark.parametrize(
    ("left", "right", "rows", "inner", "columns"),
    [
        ((3, 4), (4, 5), 3, 4, 5),
        ((6, 1, 3, 4), (7, 4, 5), 3, 4, 5),
        ((4,), (4, 5), 1, 4, 5),
        ((3, 4), (4,), 3, 4, 1),
        ((4,), (4,), 1, 4, 1),
    ],
)
def test_matrix_products(
    left: tuple[int, ...], right: tuple[int, ...], rows: int, inner: int, columns: int
) -> None:
    found = _parameters({"x": left, "y": right}, op.matmul)
    assert found == {"rows": rows, "inner": inner, "columns": columns}


@pytest.mark.parametrize(
    ("method", "linear"), [("nearest_neighbor", 1), ("linear", 2), ("cubic", 2)]
)
def test_resizing(method: str, linear: int) -> None:
    assert _parameters({"x": X}, lambda x: op.image.resize2d(x, (20, 24), method=method)) == {
        "linear": linear
    }


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "run"),
    [
        (lambda x: op.nn.softmax(x), 1),
        (lambda x: op.nn.softmax(x, 1), 10 * 12),
        (lambda x: op.nn.softmax(x, -2), 12),
        (lambda x: op.nn.log_softmax(x, -4), 8 * 10 * 12),
        (lambda x: op.mean(x, [2, 3]), 1),
        (lambda x: op.max(x, [1]), 10 * 12),
        (lambda x: op.sum(x, [-3, 0]), 10 * 12),
        (lambda x: op.sum(x), 1),
        (lambda x: op.argmax(x, 1), 10 * 12),
        (lambda x: op.argmin(x), 1),
        (lambda x: op.concat([x, x], 1), 10 * 12),
        (lambda x: op.concat([x, x], -1), 1),
        (lambda x: op.split(x, 2, -3), 10 * 12),
        (lambda x: op.flip(x, 2), 12),
        (lambda x: op.repeat(x, 2, 0), 8 * 10 * 12),
        (lambda x: op.repeat(x, 2), 1),
        (lambda x: op.cumsum(x, 1), 10 * 12),
        (lambda x: op.take(x, relax.const([1, 0], "int64"), 1), 10 * 12),
        (lambda x: op.strided_slice(x, [1], [0], [8], [2]), 10 * 12),
        (lambda x: op.strided_slice(x, [0, -2], [0, 1], [1, 9]), 12),
        (lambda x: op.index_tensor(x, [relax.const([1, 0, 1], "int64")]), 8 * 10 * 12),
        (lambda x: op.index_tensor(x, [relax.const([1, 0], "int64")] * 2), 10 * 12),
        (
            lambda x: op.nn.layer_norm(x, weights(10, 12), weights(10, 12), [-2, -1]),
            1,
        ),
        (lambda x: op.nn.layer_norm(x, weights(8), weights(8), [1]), 10 * 12),
        # Of the tensor that a stack makes, which has an axis more.
        (lambda x: op.stack([x, x], 0), 2 * 8 * 10 * 12),
        (lambda x: op.stack([x, x], 2), 10 * 12),
        (lambda x: op.stack([x, x], 4), 1),
        (lambda x: op.stack([x, x], -1), 1),
    ],
)
def test_runs_along_axes(build: Any, run: int) -> None:
    module = make_module({"x": X}, lambda emit, x: emit(build(x)))
    assert _of_the_last(module) == {"run": run}


@pytest.mark.parametrize(
    ("axes", "run"),
    [
        ((0, 1, 3, 2), 1),
        ((0, 2, 1, 3), 12),
        ((1, 0, 2, 3), 10 * 12),
        ((0, 1, 2, 3), 2 * 8 * 10 * 12),
        (None, 1),
    ],
)
def test_runs_that_a_transposition_leaves(axes: tuple[int, ...] | None, run: int) -> None:
    module = make_module({"x": X}, lambda emit, x: emit(op.permute_dims(x, axes)))
    assert _of_the_last(module) == {"run": run}


@given(data=st.data())
def test_a_run_stays_together_in_memory(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    axes = data.draw(st.permutations(range(len(shape))))
    module = make_module({"x": tuple(shape)}, lambda emit, x: emit(op.permute_dims(x, axes)))
    run = _of_the_last(module)["run"]
    positions = np.arange(np.prod(shape)).reshape(shape).transpose(axes).reshape(-1, run)
    assert (np.diff(positions, axis=1) == 1).all()
    assert (positions[:, 0] % run == 0).all()
    # Axes of one element aside, which move nothing, no longer run stays.
    if run < positions.size and 1 not in shape:
        last = max(axis for axis in range(len(shape)) if axes[axis] != axis)
        longer = np.arange(np.prod(shape)).reshape(shape).transpose(axes)
        longer = longer.reshape(-1, run * shape[axes[last]])
        assert not (np.diff(longer, axis=1) == 1).all()


# Anything else -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        op.nn.relu,
        lambda x: op.add(x, x),
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1]),
        lambda x: op.reshape(x, (-1,)),
    ],
)
def test_what_shapes_tell_has_no_parameters(build: Any) -> None:
    assert _parameters({"x": X}, build) == {}


def test_every_operator_is_one_of_tvm() -> None:
    known = {str(name).rsplit(".", 1)[-1] for name in tvm.ir.Op.list_op_names()}
    assert known >= parameters._ALONG_AN_AXIS
