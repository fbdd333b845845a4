from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from blocked import blocked, normal, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.winograd import (
    pack_winograd_weight,
    winograd_conv2d,
)
from partc.codegen.kernels.winograd_plan import (
    TILES,
    Layer,
    choose_winograd,
    plan_winograd,
)
from partc.codegen.kernels.winograd_transform import (
    transform_input,
    transform_output,
    transform_weight,
)
from partc.codegen.layout import Runs

# Largest deviation from float64 relative to the largest value.
TOLERANCE = {4: 1e-5, 2: 2e-6}


def conv2d(
    data: NDArray[Any], weight: NDArray[Any], padding: tuple[int, int, int, int]
) -> NDArray[Any]:
    top, left, bottom, right = padding
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    inputs = torch.from_numpy(padded), torch.from_numpy(weight.astype(np.float64))
    return torch.nn.functional.conv2d(*inputs).numpy()


def compile_winograd(
    target: str,
    data: NDArray[Any],
    weight: NDArray[Any],
    padding: tuple[int, int, int, int],
    *,
    fused: bool,
) -> Kernel:
    """The kernel over packed operands; fused, a bias, a residual and ReLU follow."""
    x = te.placeholder(data.shape, name="data")
    w = te.placeholder(weight.shape, name="weight")
    window = Window((3, 3), (1, 1), (1, 1), padding)
    channels = weight.shape[2]
    y = winograd_conv2d(x, w, window, machine_of(target), Runs(channels, channels))
    if not fused:
        return compile_kernel([x, w], y, target)
    _, blocks, *_, lanes = y.shape
    bias = te.placeholder((1, blocks, 1, 1, lanes), name="bias")
    other = te.placeholder(y.shape, name="other")
    biased = te.compute(y.shape, lambda n, o, h, w, v: y[n, o, h, w, v] + bias[0, o, 0, 0, v])
    added = te.compute(y.shape, lambda *at: biased(*at) + other(*at))
    rectified = te.compute(y.shape, lambda *at: te.max(added(*at), 0.0))
    return compile_kernel([x, w, bias, other], rectified, target)


@pytest.mark.parametrize("tile", TILES)
def test_the_transforms_make_a_convolution(tile: int) -> None:
    patch = normal(tile + 2, tile + 2).astype(np.float64)
    weight = normal(3, 3, seed=1).astype(np.float64)
    product = in_both_axes(transform_input, tile, patch) * transform_weight(weight, tile)
    result = in_both_axes(transform_output, tile, product)
    expected = conv2d(patch[None, None], weight[None, None], (0, 0, 0, 0))[0, 0]
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def in_both_axes(
    transform: Callable[[int, Sequence[Any]], list[Any]], tile: int, values: NDArray[Any]
) -> NDArray[Any]:
    return np.stack(transform(tile, np.stack(transform(tile, values)).T)).T


@settings(max_examples=12, deadline=None)
@given(
    target=st.sampled_from(X86),
    tile=st.sampled_from(TILES),
    batch=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    plane=st.tuples(st.integers(3, 30), st.integers(3, 30)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    spare=st.integers(0, 1),
    fused=st.booleans(),
)
def test_it_is_a_convolution(
    target: str,
    tile: int,
    batch: int,
    channels: tuple[int, int],
    plane: tuple[int, int],
    padding: tuple[int, int, int, int],
    spare: int,
    fused: bool,
) -> None:
    lanes = machine_of(target).lanes
    data, weight = normal(batch, channels[0], *plane), normal(*channels[::-1], 3, 3, seed=1)
    expected = conv2d(data, weight, padding)
    inputs = [blocked(data, lanes, spare), pack_winograd_weight(weight, tile, lanes)]
    kernel = compile_winograd(target, *inputs, padding, fused=fused)
    if fused:
        bias, other = normal(1, channels[1], 1, 1, seed=2), normal(*expected.shape, seed=3)
        inputs += [blocked(bias, lanes), blocked(other, lanes)]
        expected = np.maximum(expected + bias + other, 0)
    deviation = np.abs(plain(kernel(*inputs), channels[1]) - expected).max()
    assert deviation <= TOLERANCE[tile] * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("tile", TILES)
def test_many_channels_lose_little(tile: int) -> None:
    data, weight = normal(1, 512, 14, 14), normal(32, 512, 3, 3, seed=1)
    inputs = [blocked(data, 8), pack_winograd_weight(weight, tile, 8)]
    kernel = compile_winograd("x86-64-v3", *inputs, (1, 1, 1, 1), fused=False)
    expected = conv2d(data, weight, (1, 1, 1, 1))
    deviation = np.abs(plain(kernel(*inputs), 32) - expected).max()
    assert deviation <= TOLERANCE[tile] * np.abs(expected).max()


def test_weights_of_channels_that_are_not_there_are_zero() -> None:
    packed = pack_winograd_weight(normal(5, 3, 3, 3), 4, 4)
    assert packed.shape == (2, 36, 3, 4)
    assert not packed[1, :, :, 1:].any()
    assert packed[1, :, :, 0].all()


@pytest.mark.parametrize("target", EVERYWHERE)
@pytest.mark.parametrize(
    "layer",
    [
        Layer(1, 64, 64, 56, 56),
        Layer(1, 256, 256, 14, 14),
        Layer(1, 32, 128, 27, 27),
        Layer(1, 24, 24, 160, 160),
        Layer(2, 96, 208, 13, 13),
    ],
)
def test_a_plan_fits_the_machine(layer: Layer, target: str) -> None:
    machine = machine_of(target)
    for tile in TILES:
        plan = plan_winograd(layer, tile, machine)
        assert plan.pixels * plan.blocks + plan.blocks < machine.registers
        assert layer.out_blocks(machine) % plan.blocks == 0


@pytest.mark.parametrize("target", EVERYWHERE)
def test_what_wins(target: str) -> None:
    machine = machine_of(target)
    assert choose_winograd(Layer(1, 64, 64, 56, 56), machine) == 4
    assert choose_winograd(Layer(1, 128, 128, 28, 28), machine) == 4
    assert choose_winograd(Layer(1, 64, 64, 1, 1), machine) is None
    assert choose_winograd(Layer(1, 3, 2, 56, 56), machine) is None
