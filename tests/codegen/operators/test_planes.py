from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lowered import Network
from relax_models import weights
from tvm.relax import op

from partc.codegen.layout import Layout

IMAGE = {"x": (2, 4, 6, 8)}
GROUPED = Layout.of(12, 8, 2)


def grouped(x: Any) -> Any:
    """Channels that do not lie in order."""
    return op.nn.conv2d(x, weights(12, 2, 1, 1), groups=2)


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        (lambda x: op.nn.max_pool2d(x, (3, 2), (2, 1), (1, 0, 1, 1)), "max_pool2d"),
        (lambda x: op.nn.max_pool2d(x, 3, 2, ceil_mode=True), "max_pool2d"),
        (lambda x: op.nn.avg_pool2d(x, 3, 2, 1), "avg_pool2d"),
        (lambda x: op.nn.avg_pool2d(x, 3, 2, 1, count_include_pad=True), "avg_pool2d"),
        (lambda x: op.nn.adaptive_avg_pool2d(x, 1), "adaptive_avg_pool2d"),
        (lambda x: op.nn.adaptive_avg_pool2d(x, (3, 2)), "adaptive_avg_pool2d"),
        (lambda x: op.mean(x, [2, 3], keepdims=True), "mean"),
        (lambda x: op.max(x, [-1, 2], keepdims=True), "max"),
    ],
)
def test_pools_leave_channels_where_they_are(pool: Callable[[Any], Any], name: str) -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(pool(emit(grouped(x)))))
    assert network.layouts[name] == GROUPED
    assert network.kernels == ["conv2d", name]
    assert network.lowered.without_rule == ()
    network.check()


def test_plain_data_are_pooled_in_blocks() -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(op.nn.max_pool2d(x, 2, 2)))
    assert network.kernels == ["to_blocked", "max_pool2d"]
    network.check()


def test_uneven_windows_are_left_to_tvm() -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(op.nn.adaptive_avg_pool2d(x, (4, 8))))
    assert network.layouts["adaptive_avg_pool2d"] is None
    assert len(network.lowered.without_rule) == 1
    network.check()


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: op.mean(x, [2, 3]),
        lambda x: op.mean(x, [1, 2], keepdims=True),
        lambda x: op.mean(x, [3], keepdims=True),
        lambda x: op.min(x, [2, 3], keepdims=True),
    ],
)
def test_other_reductions_are_of_plain_data(reduce: Callable[[Any], Any]) -> None:
    network = Network.of(IMAGE, lambda emit, x: emit(reduce(emit(grouped(x)))))
    (*_, (_, last)) = network.choices
    assert last.layout is None
    assert network.lowered.without_rule == ()
    network.check()


# resize2d ----------------------------------------------------------------------------------------

ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric", "rounding_method": "floor"}


def resized(size: tuple[int, int], *, plain: bool = False, **options: Any) -> Network:
    options = {"method": "nearest_neighbor", **ASYMMETRIC, **options}

    def build(emit: Any, x: Any) -> Any:
        return emit(op.image.resize2d(x if plain else emit(grouped(x)), size, **options))

    network = Network.of(IMAGE, build)
    network.check()
    return network


@pytest.mark.parametrize(
    ("mode", "rounding"),
    [
        ("asymmetric", "floor"),
        ("tf_half_pixel_for_nn", "floor"),
        ("half_pixel", "round"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    ],
)
@pytest.mark.parametrize("size", [(12, 16), (6, 40)])
def test_planes_that_grow_by_whole_factors_repeat_pixels(
    mode: str, rounding: str, size: tuple[int, int]
) -> None:
    network = resized(size, coordinate_transformation_mode=mode, rounding_method=rounding)
    assert network.layouts["resize2d"] == GROUPED
    assert network.kernels == ["conv2d", "resize2d"]


@pytest.mark.parametrize(
    "options",
    [
        {"size": (9, 16)},
        {"size": (12, 12)},
        {"size": (3, 4)},
        {"size": (12, 16), "method": "linear"},
        {"size": (12, 16), "coordinate_transformation_mode": "align_corners"},
        {"size": (12, 16), "rounding_method": "ceil"},
        {"size": (12, 16), "plain": True},
    ],
)
def test_other_sizes_and_methods_are_left_to_tvm(options: dict[str, Any]) -> None:
    assert resized(**options).layouts["resize2d"] is None
