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

IMAGE = {"x": (2, 4, 3, 5)}


def conv(x: Any, makes: int, reads: int = 4, groups: int = 1) -> Any:
    return op.nn.conv2d(x, weights(makes, reads // groups, 1, 1), groups=groups)


def take(x: Any, channels: Sequence[int], axis: int = 1, mode: str = "clip") -> Any:
    return op.take(x, constant(np.array(channels, np.int32)), axis=axis, mode=mode)


# concat ------------------------------------------------------------------------------------------


def test_tensors_are_joined_block_behind_block() -> None:
    def build(emit: Any, x: Any) -> Any:
        joined = emit(op.concat([emit(conv(x, 12)), emit(conv(x, 5)), x], 1))
        return emit(conv(joined, 6, 21))

    network = Network.of(IMAGE, build)
    parts = [Layout.of(channels, 8) for channels in (12, 5, 4)]
    assert network.layouts["concat"] == Layout.concatenate(parts)
    assert network.kernels == ["conv2d", "conv2d", "to_blocked", "concat", "conv2d"]
    network.check()


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_other_axes_are_joined_in_plain_layout(axis: int) -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(op.concat([emit(conv(x, 12)), emit(conv(x, 12))], axis))

    network = Network.of(IMAGE, build)
    assert network.layouts["concat"] is None
    network.check()


def test_plain_tensors_stay_plain() -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(op.concat([x, emit(op.nn.relu(x))], 1)))
    assert network.kernels == ["relu", "concat"]
    network.check()


# take --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "channels",
    [
        [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11],  # a channel shuffle
        [11, 3],
        [-1, 99],  # clipped
        list(range(9)),
    ],
)
def test_taken_channels_are_not_moved(channels: list[int]) -> None:
    def build(emit: Any, x: Any) -> Any:
        taken = emit(take(emit(conv(x, 12)), channels))
        biased = emit(op.add(taken, weights(len(channels), 1, 1)))
        return emit(conv(biased, 3, len(channels)))

    network = Network.of(IMAGE, build)
    clipped = [min(max(channel, 0), 11) for channel in channels]
    assert network.layouts["take"] == Layout.of(12, 8).take(clipped)
    assert network.kernels == ["conv2d", "add", "conv2d"]
    network.check()


def test_channels_of_groups_are_taken_from_where_they_are() -> None:
    def build(emit: Any, x: Any) -> Any:
        return emit(take(emit(conv(x, 6, groups=2)), [5, 0, 3]))

    network = Network.of(IMAGE, build)
    assert network.layouts["take"] == Layout(8, 2, (10, 0, 8))
    network.check()


def test_plain_tensors_meet_taken_channels() -> None:
    """Blocks behind the channels that were taken are there, and hold others."""

    def build(emit: Any, x: Any, other: Any) -> Any:
        taken = emit(take(emit(conv(x, 64)), range(16)))
        return emit(op.add(taken, other))

    network = Network.of({**IMAGE, "other": (2, 16, 3, 5)}, build)
    assert network.kernels == ["conv2d", "to_blocked", "add"]
    network.check()


def test_a_channel_taken_twice_is_copied() -> None:
    def build(emit: Any, x: Any) -> Any:
        taken = emit(take(emit(conv(x, 12)), [0, 0, 3]))
        return emit(op.add(taken, weights(3, 1, 1)))

    network = Network.of(IMAGE, build)
    assert network.layouts["take"] is None
    network.check()


@pytest.mark.parametrize("axis", [2, 3])
def test_rows_and_columns_are_copied(axis: int) -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(take(emit(conv(x, 12)), [2, 0], axis=axis)))
    assert network.layouts["take"] is None
    network.check()


def test_indices_that_are_computed_move_data() -> None:
    def build(emit: Any, x: Any, indices: Any) -> Any:
        which = emit(op.astype(indices, "int32"))
        return emit(op.take(emit(conv(x, 12)), which, axis=1, mode="clip"))

    network = Network.of({**IMAGE, "indices": (3,)}, build)
    assert network.layouts["take"] is None
    network.check()
