from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from blocked import blocked, normal, plain, planes, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.depthwise import depthwise_conv2d
from partc.codegen.kernels.sliding import tile_width
from partc.codegen.layout import Layout

SQUARE = Window(kernel=(3, 3), strides=(1, 1), dilation=(1, 1), padding=(1, 1, 1, 1))
MULTIPLY_ADD = {
    "x86-64": r"mulps",
    "x86-64-v3": r"vfmadd\d+ps.*ymm",
    "x86-64-v4": r"vfmadd\d+ps.*zmm",
    "raspberry-pi-4": r"fmla\s+v\d+.4s",
}


def reference(
    data: NDArray[Any], weight: NDArray[Any], window: Window, *, tail: bool
) -> NDArray[np.float64]:
    """Padded, convolved and, with a tail, ReLU6 of twice the result."""
    top, left, bottom, right = window.padding
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    convolved = torch.conv2d(
        torch.from_numpy(padded),
        torch.from_numpy(weight.astype(np.float64)),
        stride=window.strides,
        dilation=window.dilation,
        groups=len(weight),
    ).numpy()
    return np.clip(convolved + convolved, 0, 6) if tail else convolved


def packed(weight: NDArray[Any], lanes: int) -> NDArray[Any]:
    """(C, 1, KH, KW) as (C/lanes, KH, KW, lanes)."""
    return Layout.of(len(weight), lanes).pack(weight.swapaxes(0, 1))[0]


def compile_depthwise(
    shape: tuple[int, ...], window: Window, target_name: str, *, tail: bool = False
) -> Kernel:
    machine = machine_of(target_name)
    lanes = machine.lanes
    batch, channels, *plane = shape
    blocks = -(-channels // lanes)
    data = te.placeholder((batch, blocks, *plane, lanes), name="data")
    weight = te.placeholder((blocks, *window.kernel, lanes), name="weight")
    result = convolved = depthwise_conv2d(data, weight, window, machine)
    if tail:
        residual = te.compute(convolved.shape, lambda *at: convolved(*at) + convolved(*at))
        result = te.compute(
            residual.shape, lambda *at: te.min(te.max(residual(*at), 0.0), 6.0), name="relu6"
        )
    return compile_kernel([data, weight], result, target_name)


def check(shape: tuple[int, ...], window: Window, target_name: str, *, tail: bool) -> None:
    lanes = machine_of(target_name).lanes
    data, weight = normal(*shape), normal(shape[1], 1, *window.kernel)
    kernel = compile_depthwise(shape, window, target_name, tail=tail)
    result = kernel(blocked(data, lanes), packed(weight, lanes))
    expected = reference(data, weight, window, tail=tail)
    rounding = 5e-6 * math.prod(window.kernel) ** 0.5
    np.testing.assert_allclose(plain(result, shape[1]), expected, rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=7, deadline=None)
@given(st.data())
def test_agrees_with_float64(target_name: str, data: st.DataObject) -> None:
    shape = data.draw(planes())
    window = data.draw(windows(*shape[2:]))
    check(shape, window, target_name, tail=data.draw(st.booleans()))


@pytest.mark.parametrize(
    ("shape", "window", "target_name"),
    [
        ((1, 40, 7, 7), Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), "x86-64-v4"),
        ((1, 16, 56, 56), Window((3, 3), (2, 2), (1, 1), (0, 0, 1, 1)), "x86-64"),
        ((1, 16, 56, 56), Window((3, 3), (2, 2), (1, 1), (0, 0, 1, 1)), "x86-64-v4"),
        ((1, 24, 3, 40), Window((5, 5), (1, 1), (1, 1), (2, 2, 2, 2)), "x86-64-v3"),
        ((1, 16, 20, 20), Window((17, 17), (1, 1), (1, 1), (8, 8, 8, 8)), "x86-64-v4"),
        ((2, 5, 1, 1), Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)), "x86-64-v3"),
        ((1, 3, 9, 1), Window((5, 1), (1, 1), (2, 1), (4, 0, 4, 0)), "x86-64"),
    ],
)
def test_layers_of_real_networks(shape: tuple[int, ...], window: Window, target_name: str) -> None:
    check(shape, window, target_name, tail=True)


def test_infinities_at_the_border_stay_where_they_are() -> None:
    """Padding is nothing, rather than something times zero."""
    data = normal(1, 16, 6, 20)
    data[:, :, 0, 0] = np.inf
    kernel = compile_depthwise(data.shape, SQUARE, "x86-64")
    result = kernel(blocked(data, 4), packed(np.ones((16, 1, 3, 3), np.float32), 4))
    assert np.isinf(plain(result, 16)[:, :, :2, :2]).all()
    assert np.isfinite(plain(result, 16)[:, :, :, 2:]).all()


@pytest.mark.parametrize("target_name", EVERYWHERE)
@pytest.mark.parametrize("stride", [1, 2])
def test_multiplies_whole_vectors_and_copies_nothing(target_name: str, stride: int) -> None:
    window = Window((3, 3), (stride, stride), (1, 1), (1, 1, 1, 1))
    kernel = compile_depthwise((1, 64, 56, 56), window, target_name)
    assembly = kernel.assembly()
    tile = tile_width(56 // stride, machine_of(target_name))
    assert len(re.findall(MULTIPLY_ADD[target_name], assembly)) >= 3 * tile
    assert "AllocWorkspace" not in assembly
    assert not re.findall(r"vfmadd\d+ss|mulss", assembly)


@pytest.mark.parametrize("target_name", EVERYWHERE)
def test_only_much_work_is_shared_out(target_name: str) -> None:
    small, large = (
        compile_depthwise((1, 32, size, size), SQUARE, target_name).assembly() for size in (7, 112)
    )
    assert "ParallelLaunch" not in small
    assert "ParallelLaunch" in large


def test_tiles_are_whole_before_columns_are_cropped() -> None:
    data = te.placeholder((1, 1, 9, 55, 16), name="data")
    weight = te.placeholder((1, 3, 3, 16), name="weight")
    result: Any = depthwise_conv2d(data, weight, SQUARE, machine_of("x86-64-v4"))
    (whole,) = result.op.input_tensors
    assert (result.shape[3], whole.shape[3]) == (55, 56)
