from __future__ import annotations

from typing import Any

import pytest
import tvm
from relax_models import make_module, weights
from tvm import relax
from tvm.relax import op

from partc.passes import flops
from partc.passes.flops import count_flops

X = (2, 8, 10, 12)


def _conv2d(x: Any) -> Any:
    return op.nn.conv2d(x, weights(16, 8, 3, 5), strides=(2, 1), padding=(1, 2, 1, 2))


def _grouped(x: Any) -> Any:
    return op.nn.conv2d(x, weights(16, 4, 3, 3), groups=2)


def _depthwise(x: Any) -> Any:
    return op.nn.conv2d(x, weights(8, 1, 3, 3), groups=8, padding=1)


def _transposed(x: Any) -> Any:
    return op.nn.conv2d_transpose(x, weights(8, 3, 4, 4), strides=(2, 2))


def _grouped_and_transposed(x: Any) -> Any:
    return op.nn.conv2d_transpose(x, weights(8, 3, 4, 4), strides=(2, 2), groups=2)


def _hwio(x: Any) -> Any:
    return op.nn.conv2d(x, weights(3, 3, 8, 16), kernel_layout="HWIO")


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        # 2 x (elements made) x (elements of the weight that each meets)
        (_conv2d, 2 * (2 * 16 * 5 * 12) * (8 * 3 * 5)),
        (_grouped, 2 * (2 * 16 * 8 * 10) * (4 * 3 * 3)),
        (_depthwise, 2 * (2 * 8 * 10 * 12) * (3 * 3)),
        (_hwio, 2 * (2 * 16 * 8 * 10) * (8 * 3 * 3)),
        # 2 x (elements read) x (elements of the weight that each meets)
        (_transposed, 2 * (2 * 8 * 10 * 12) * (3 * 4 * 4)),
        (_grouped_and_transposed, 2 * (2 * 8 * 10 * 12) * (3 * 4 * 4)),
        # (elements made) x (elements of the window)
        (lambda x: op.nn.max_pool2d(x, (3, 2), strides=(2, 2)), (2 * 8 * 4 * 6) * (3 * 2)),
        (lambda x: op.nn.adaptive_avg_pool2d(x, (2, 3)), (2 * 8 * 2 * 3) * (5 * 4)),
        # elements read
        (lambda x: op.mean(x, [2, 3]), 2 * 8 * 10 * 12),
        (lambda x: op.argmax(x, 1), 2 * 8 * 10 * 12),
        # elements made
        (op.nn.relu, 2 * 8 * 10 * 12),
        (lambda x: op.add(x, weights(3, 2, 8, 10, 12)), 3 * 2 * 8 * 10 * 12),
        (lambda x: op.topk(x, 4, axis=1), 2 * (2 * 4 * 10 * 12)),
        (op.nn.softmax, 16 * 2 * 8 * 10 * 12),
        # nothing but copies
        (lambda x: op.split(x, 2, 1), 0),
        (lambda x: op.reshape(x, (-1,)), 0),
        (lambda x: op.concat([x, x], 1), 0),
        (lambda x: op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1]), 0),
    ],
)
def test_operators_of_an_image(build: Any, expected: int) -> None:
    assert _count({"x": X}, build) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((3, 4), (4, 5), 2 * 3 * 4 * 5),
        ((6, 1, 3, 4), (7, 4, 5), 2 * (6 * 7) * 3 * 4 * 5),
        ((4,), (4, 5), 2 * 4 * 5),
        ((3, 4), (4,), 2 * 3 * 4),
        ((4,), (4,), 2 * 4),
    ],
)
def test_matrix_products(left: tuple[int, ...], right: tuple[int, ...], expected: int) -> None:
    assert _count({"x": left, "y": right}, op.matmul) == expected


def test_attention_is_two_matrix_products() -> None:
    heads = {"q": (2, 5, 3, 8), "k": (2, 7, 3, 8), "v": (2, 7, 3, 4)}
    expected = 2 * (2 * 3) * (5 * 7) * 8 + 2 * (2 * 3) * (5 * 7) * 4
    assert _count(heads, op.nn.attention) == expected
    assert _count({**heads, "bias": (2, 3, 5, 7)}, op.nn.attention) == expected


def test_convolutions_of_other_ranks() -> None:
    line = _count({"x": (1, 4, 10)}, lambda x: op.nn.conv1d(x, weights(6, 4, 3)))
    cube = _count({"x": (1, 4, 5, 6, 7)}, lambda x: op.nn.conv3d(x, weights(6, 4, 3, 3, 3)))
    assert line == 2 * (6 * 8) * (4 * 3)
    assert cube == 2 * (6 * 3 * 4 * 5) * (4 * 27)


def test_pooling_of_regions_is_no_pooling_of_windows() -> None:
    regions = {"x": (1, 4, 8, 8), "rois": (3, 5)}
    count = _count(regions, lambda x, rois: op.vision.roi_pool(x, rois, (2, 2), 1.0))
    assert count == 3 * 4 * 2 * 2


def test_every_operator_is_one_of_tvm() -> None:
    known = {str(name).rsplit(".", 1)[-1] for name in tvm.ir.Op.list_op_names()}
    assert known >= flops._MOVES | flops._REDUCTIONS | flops._PER_ELEMENT.keys()


def _count(inputs: dict[str, tuple[int, ...]], build: Any) -> int:
    module = make_module(inputs, lambda emit, *params: emit(build(*params)))
    call = module["main"].body.blocks[0].bindings[0].value
    assert isinstance(call, relax.Call)
    return count_flops(call)
