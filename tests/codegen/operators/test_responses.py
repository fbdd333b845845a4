from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lowered import Network
from relax_models import weights
from tvm.relax import op

from partc.codegen.layout import Layout
from partc.passes.expressions import constant

IMAGE = {"x": (2, 10, 3, 4)}


def number(value: float, rank: int = 0) -> Any:
    return constant(np.full((1,) * rank, value, np.float32))


def local_response(
    emit: Any,
    x: Any,
    *,
    squares: Any = None,
    size: int = 5,
    plane: Sequence[int] = (1, 1),
    padding: Sequence[int] = (2, 0, 0, 2, 0, 0),
    expand: int = 1,
    squeeze: Sequence[int] | None = (1,),
    counted: bool = True,
    swapped: bool = False,
    rank: int = 0,
    factor: Any = None,
) -> Any:
    """Local response normalisation as TVM imports it from ONNX."""
    squared = emit(op.multiply(x, x if squares is None else squares))
    volume = emit(op.expand_dims(squared, expand))
    pooled = emit(
        op.nn.avg_pool3d(volume, (size, *plane), (1, 1, 1), padding, count_include_pad=counted)
    )
    mean = emit(op.squeeze(pooled, squeeze))
    scaled = emit(op.multiply(mean, number(0.5, rank) if factor is None else factor))
    power = emit(op.power(emit(op.add(scaled, number(2.0))), number(0.75)))
    return emit(op.divide(power, x) if swapped else op.divide(x, power))


def itself(_: Any, x: Any) -> Any:
    return x


def network_of(behind: Any = itself, shape: Any = IMAGE, **changes: Any) -> Network:
    network = Network.of(shape, lambda emit, x: local_response(emit, behind(emit, x), **changes))
    network.check()
    return network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": 3, "padding": (1, 0, 0, 1, 0, 0)},
        {"squeeze": None},  # nothing else is of one element
        {"rank": 4},
    ],
)
def test_a_local_response_is_one_kernel(changes: dict[str, Any]) -> None:
    network = network_of(**changes)
    assert network.kernels[-1] == "lrn"
    assert network.layouts["divide"] == Layout.of(10, 8)
    assert network.lowered.without_rule == ()  # the pool is not computed


def test_a_convolution_hands_it_blocks() -> None:
    network = network_of(lambda emit, x: emit(op.nn.conv2d(x, weights(20, 10, 1, 1))))
    assert network.kernels[-1] == "lrn"
    assert network.kernels.count("to_blocked") == 1  # for the convolution


def test_channels_in_another_order_have_other_neighbours() -> None:
    network = network_of(lambda emit, x: emit(op.nn.conv2d(x, weights(12, 5, 1, 1), groups=2)))
    assert "lrn" not in network.kernels


def test_taken_channels_have_no_neighbours_but_each_other() -> None:
    def first(emit: Any, x: Any) -> Any:
        indices = constant(np.arange(8, dtype=np.int32))
        made = emit(op.nn.conv2d(x, weights(20, 10, 1, 1)))
        return emit(op.take(made, indices, axis=1, mode="clip"))

    assert network_of(first).kernels[-1] == "lrn"


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 4, "padding": (2, 0, 0, 1, 0, 0)},  # even sizes are not centred
        {"padding": (0, 0, 0, 4, 0, 0)},
        {"counted": False},
        {"plane": (3, 1), "padding": (2, 1, 0, 2, 1, 0)},
        {"swapped": True},
        {"expand": 2, "squeeze": (2,)},  # a pool over one channel
        {"factor": weights(10, 1, 1, low=0.1)},
        {"squares": weights(10, 1, 1, low=0.1)},
    ],
)
def test_what_only_looks_like_a_local_response(changes: dict[str, Any]) -> None:
    network = network_of(lambda emit, x: emit(op.add(emit(op.abs(x)), number(1.0))), **changes)
    assert "lrn" not in network.kernels


def test_a_pool_that_is_returned_is_computed() -> None:
    def build(emit: Any, x: Any) -> Any:
        normalised = local_response(emit, x)
        volume = emit(op.expand_dims(emit(op.multiply(x, x)), 1))
        pooled = op.nn.avg_pool3d(volume, (5, 1, 1), (1, 1, 1), (2, 0, 0, 2, 0, 0))
        return normalised, emit(pooled)

    network = Network.of(IMAGE, build)
    assert len(network.lowered.without_rule) == 1
    network.check()


def test_a_sum_that_is_broadcast_is_no_local_response() -> None:
    network = network_of(shape={"x": (1, 3, 1, 3)}, squeeze=None)
    assert "lrn" not in network.kernels
