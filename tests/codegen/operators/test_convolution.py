from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lowered import Network
from relax_models import weights
from tvm.relax import op

from partc.codegen.layout import Layout, Runs
from partc.passes.expressions import constant


def conv(x: Any, makes: int, reads: int, kernel: int = 1, groups: int = 1, **options: Any) -> Any:
    weight = weights(makes, reads // groups, kernel, kernel)
    return op.nn.conv2d(x, weight, groups=groups, **options)


def chosen(inputs: dict[str, tuple[int, ...]], build: Any) -> Network:
    """A network that computes what it says."""
    network = Network.of(inputs, build)
    network.check()
    return network


@pytest.mark.parametrize(
    ("channels", "groups", "kernels"),
    [
        (3, 1, ["conv2d"]),  # an image is read as it comes
        (7, 7, ["to_blocked", "depthwise_conv2d"]),
        (6, 2, ["conv2d"]),
        (8, 1, ["to_blocked", "conv2d"]),
        (13, 1, ["to_blocked", "conv2d"]),
        (16, 16, ["to_blocked", "depthwise_conv2d"]),
        (16, 4, ["to_blocked", "conv2d"]),
    ],
)
def test_kernels_for_plain_data(channels: int, groups: int, kernels: list[str]) -> None:
    makes = channels if groups == channels else 2 * channels

    def build(emit: Any, x: Any) -> Any:
        return emit(conv(x, makes, channels, 3, groups, padding=(1, 0, 2, 1)))

    network = chosen({"x": (2, channels, 7, 6)}, build)
    assert network.kernels == kernels
    assert network.lowered.without_rule == ()
    depthwise = groups == channels
    assert network.layouts["conv2d"] == Layout.of(makes, 8, 1 if depthwise else groups)


def test_few_channels_that_are_blocked_stay_so() -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(conv(emit(conv(x, 5, 3)), 9, 5))

    assert chosen({"x": (1, 3, 5, 5)}, build).kernels == ["conv2d", "conv2d"]


def test_channels_behind_groups_are_read_where_they_are() -> None:
    """They lie in runs; a weight that follows needs no table."""

    def build(emit: Any, x: Any) -> Any:
        return emit(conv(emit(conv(x, 12, 8, groups=2)), 9, 12))

    network = chosen({"x": (1, 8, 5, 5)}, build)
    assert network.kernels == ["to_blocked", "conv2d", "conv2d"]
    tables = [weight for weight in network.lowered.weights.values() if weight.dtype == np.int32]
    assert len(tables) == 1


def test_shuffled_channels_are_read_where_they_are() -> None:
    def build(emit: Any, x: Any, order: Any) -> Any:
        shuffled = emit(op.take(emit(conv(x, 20, 8)), order, axis=1, mode="clip"))
        return [
            emit(conv(shuffled, 9, 20)),
            emit(conv(shuffled, 10, 20, groups=2)),
            emit(conv(shuffled, 20, 20, 3, groups=20)),
        ]

    order = constant(np.arange(20, dtype=np.int32).reshape(4, 5).T.reshape(-1))
    network = chosen({"x": (1, 8, 5, 5)}, lambda emit, x: build(emit, x, order))
    assert network.kernels == ["to_blocked", "conv2d", "conv2d", "conv2d", "depthwise_conv2d"]


@pytest.mark.parametrize("taken", [range(14), (0, 2, 3, 23), (1, 5, 4)])
def test_some_of_many_channels_are_read_where_they_are(taken: Sequence[int]) -> None:
    """The last run may be shorter, and there may be no run at all."""

    def build(emit: Any, x: Any) -> Any:
        channels = constant(np.array(taken, np.int32))
        some = emit(op.take(emit(conv(x, 24, 8, groups=2)), channels, axis=1, mode="clip"))
        return emit(conv(some, 9, len(taken)))

    network = chosen({"x": (1, 8, 5, 5)}, build)
    assert network.kernels == ["to_blocked", "conv2d", "conv2d"]


@pytest.mark.parametrize("size", [1, 3])
def test_a_last_run_that_is_shorter_is_read_where_it_is(size: int) -> None:
    """As behind a concatenation, whose parts each start a block."""

    def build(emit: Any, x: Any) -> Any:
        joined = emit(op.concat([emit(conv(x, 6, 8)), emit(conv(x, 3, 8))], 1))
        return emit(conv(joined, 9, 9, size))

    network = chosen({"x": (1, 8, 7, 7)}, build)
    layout = network.layouts["concat"]
    assert layout is not None
    assert layout.runs == Runs(6, 8)
    assert "to_plain" not in network.kernels


def test_many_channels_of_large_planes_are_convolved_by_winograd() -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(conv(x, 64, 64, 3, padding=1))

    network = Network.of({"x": (1, 64, 28, 28)}, build)
    assert network.kernels == ["to_blocked", "winograd_conv2d"]
    assert network.layouts["conv2d"] == Layout.of(64, 8)


def test_winograd_reads_shuffled_channels_where_they_are() -> None:
    def build(emit: Any, x: Any) -> Any:
        order = constant(np.arange(32, dtype=np.int32)[::-1])
        shuffled = emit(op.take(emit(conv(x, 32, 8)), order, axis=1, mode="clip"))
        return emit(conv(shuffled, 32, 32, 3, padding=1))

    network = chosen({"x": (1, 8, 12, 12)}, build)
    assert network.kernels == ["to_blocked", "conv2d", "winograd_conv2d"]


@pytest.mark.parametrize(
    "options", [{"strides": 2}, {"dilation": 2}, {"strides": (1, 2)}, {"groups": 2}]
)
def test_winograd_is_for_dense_squares(options: dict[str, Any]) -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(conv(x, 64, 64, 3, padding=1, **options))

    assert Network.of({"x": (1, 64, 28, 28)}, build).kernels == ["to_blocked", "conv2d"]


def test_rows_are_planes_of_one_row() -> None:
    def build(emit: Any, x: Any) -> Any:
        made = emit(op.nn.conv1d(x, weights(12, 4, 3), strides=2, padding=(1, 2), groups=2))
        biased = emit(op.add(made, weights(12, 1)))
        return emit(op.nn.conv1d(emit(op.nn.relu(biased)), weights(5, 12, 1)))

    network = chosen({"x": (2, 8, 11)}, build)
    assert network.layouts["conv1d"] == Layout.of(5, 8)
    assert network.kernels == ["reshape", "to_blocked", "conv2d", "add", "relu", "conv2d"]


def test_computed_weights_are_left_to_tvm() -> None:
    network = chosen(
        {"x": (1, 8, 5, 5), "w": (4, 8, 1, 1)}, lambda emit, x, w: emit(op.nn.conv2d(x, w))
    )
    assert network.layouts["conv2d"] is None
    assert network.lowered.without_rule == ("conv2d",)


@pytest.mark.parametrize(
    ("makes", "groups", "blocked"), [(12, 1, True), (5, 1, True), (4, 1, False), (12, 2, False)]
)
def test_transposed_convolutions(makes: int, groups: int, blocked: bool) -> None:
    def build(emit: Any, x: Any) -> Any:
        weight = weights(8, makes // groups, 3, 2)
        return emit(
            op.nn.conv2d_transpose(
                emit(conv(x, 8, 4)),
                weight,
                strides=(2, 3),
                padding=(1, 0, 0, 1),
                output_padding=(1, 0),
                groups=groups,
            )
        )

    network = chosen({"x": (2, 4, 5, 6)}, build)
    assert network.layouts["conv2d_transpose"] == (Layout.of(makes, 8) if blocked else None)
    assert network.kernels == ["conv2d", "conv2d", "interleave"]


def test_dilated_transposed_convolutions_are_left_to_tvm() -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(op.nn.conv2d_transpose(x, weights(8, 4, 3, 3), dilation=2))

    network = Network.of({"x": (1, 8, 5, 5)}, build)
    assert network.layouts["conv2d_transpose"] is None
    assert len(network.lowered.without_rule) == 1
