from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from blocked import blocked, normal, plain, planes, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import X86, Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import relax, te

from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.pool import (
    adaptive_window,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
)
from partc.codegen.machine import Machine

Pool = Callable[[te.Tensor, Machine], te.Tensor]


def covered(
    data: NDArray[Any], window: Window, output: tuple[int, int], padding: float
) -> NDArray[np.float64]:
    """(N, C, height, width, KH, KW): what windows cover; NaN beyond the padding."""
    spare = [size * stride + 10 for size, stride in zip(output, window.strides, strict=True)]
    top, left, bottom, right = window.padding
    padded = np.pad(
        data.astype(np.float64),
        ((0, 0), (0, 0), (top, bottom), (left, right)),
        constant_values=padding,
    )
    beyond = ((0, 0), (0, 0), (0, spare[0]), (0, spare[1]))
    padded = np.pad(padded, beyond, constant_values=np.nan)
    rows, columns = (
        np.arange(output[axis])[:, None] * window.strides[axis]
        + np.arange(window.kernel[axis]) * window.dilation[axis]
        for axis in (0, 1)
    )
    return padded[:, :, rows[:, None, :, None], columns[None, :, None, :]]


def largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    lowest = np.finfo(np.float32).min
    return np.fmax(values, lowest).max(axis=(-2, -1))


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nothing averages to zero."""
    counts = np.isfinite(values).sum(axis=(-2, -1))
    return np.nansum(values, axis=(-2, -1)) / np.maximum(counts, 1)


def compile_pool(
    shape: tuple[int, ...], pool: Pool, target_name: str, *, fused: bool = False
) -> Kernel:
    """A pool; fused, of the data's squares, and with one added."""
    machine = machine_of(target_name)
    batch, channels, *plane = shape
    data = te.placeholder(
        (batch, -(-channels // machine.lanes), *plane, machine.lanes), name="data"
    )
    result = pool(data, machine)
    if fused:
        squares = te.compute(data.shape, lambda *at: data(*at) * data(*at), name="squares")
        pooled = pool(squares, machine)
        result = te.compute(pooled.shape, lambda *at: pooled(*at) + 1.0, name="add")
    return compile_kernel([data], result, target_name)


def run(data: NDArray[Any], pool: Pool, target_name: str, *, fused: bool = False) -> NDArray[Any]:
    kernel = compile_pool(data.shape, pool, target_name, fused=fused)
    return plain(kernel(blocked(data, machine_of(target_name).lanes)), data.shape[1])


def result_size(window: Window, shape: tuple[int, ...], *, ceil: bool) -> tuple[int, int]:
    """As many windows as fit, or rounded up, as many as begin before the padding behind."""
    height, width = window.output(*shape[2:])
    if not ceil:
        return height, width
    spare = [
        size + window.padding[axis] > count * window.strides[axis]
        for axis, (size, count) in enumerate(zip(shape[2:], (height, width), strict=True))
    ]
    return height + spare[0], width + spare[1]


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=6, deadline=None)
@given(st.data())
def test_max_pool_agrees(target_name: str, data: st.DataObject) -> None:
    shape = data.draw(planes())
    window = data.draw(windows(*shape[2:]))
    output = result_size(window, shape, ceil=data.draw(st.booleans()))
    values = normal(*shape) - 5  # below the zeros that padding must not be
    result = run(values, lambda x, m: max_pool2d(x, window, output, m), target_name)
    expected = largest(covered(values, window, output, np.nan))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=6, deadline=None)
@given(st.data(), st.booleans())
def test_avg_pool_agrees(target_name: str, data: st.DataObject, count_include_pad: bool) -> None:
    shape = data.draw(planes())
    window = data.draw(windows(*shape[2:]))
    output = result_size(window, shape, ceil=data.draw(st.booleans()))

    def pool(x: te.Tensor, machine: Machine) -> te.Tensor:
        return avg_pool2d(x, window, output, machine, count_include_pad=count_include_pad)

    values = normal(*shape)
    result = run(values, pool, target_name)
    padding = 0.0 if count_include_pad else np.nan
    expected = mean(covered(values, window, output, padding))
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("size", [(6, 9), (7, 14)])
def test_rounding_up_is_torch_s(size: tuple[int, int], count_include_pad: bool) -> None:
    values = normal(1, 8, *size)
    window = Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1))
    expected = torch.nn.functional.avg_pool2d(
        torch.from_numpy(values), 3, 2, 1, ceil_mode=True, count_include_pad=count_include_pad
    ).numpy()
    output = (expected.shape[2], expected.shape[3])

    def pool(x: te.Tensor, machine: Machine) -> te.Tensor:
        return avg_pool2d(x, window, output, machine, count_include_pad=count_include_pad)

    np.testing.assert_allclose(run(values, pool, "x86-64"), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target_name", X86)
@pytest.mark.parametrize(
    ("shape", "fused"), [((2, 37, 7, 7), True), ((1, 5, 1, 1), False), ((1, 3, 56, 57), True)]
)
def test_global_pools_agree(shape: tuple[int, ...], fused: bool, target_name: str) -> None:
    values = normal(*shape) - 5
    expected = values.astype(np.float64) ** 2 if fused else values.astype(np.float64)
    average = run(values, global_avg_pool2d, target_name, fused=fused)
    np.testing.assert_allclose(
        average, expected.mean((2, 3), keepdims=True) + fused, rtol=2e-6, atol=1e-6
    )
    maximum = run(values, global_max_pool2d, target_name, fused=fused)
    np.testing.assert_allclose(maximum, expected.max((2, 3), keepdims=True) + fused, rtol=1e-6)


@pytest.mark.parametrize("target_name", X86)
def test_fused_tail(target_name: str) -> None:
    values = normal(1, 20, 15, 15)
    window = Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1))
    machine = machine_of(target_name)
    data = te.placeholder((1, -(-20 // machine.lanes), 15, 15, machine.lanes), name="data")
    pooled = max_pool2d(data, window, (8, 8), machine)
    output = te.compute(pooled.shape, lambda *at: te.max(pooled(*at) - 1.0, 0.0), name="relu")
    kernel = compile_kernel([data], output, target_name)
    expected = largest(covered(values, window, (8, 8), np.nan))
    result = plain(kernel(blocked(values, machine.lanes)), 20)
    np.testing.assert_allclose(result, np.maximum(expected - 1, 0), rtol=1e-6, atol=1e-6)


def test_adaptive_windows() -> None:
    window = adaptive_window((12, 6), (4, 1))
    assert window == Window((3, 6), (3, 6), (1, 1), (0, 0, 0, 0))
    assert adaptive_window((7, 6), (4, 1)) is None
    assert adaptive_window((12, 7), (4, 2)) is None


@pytest.mark.parametrize(
    "pool",
    [
        global_avg_pool2d,
        global_max_pool2d,
        lambda x, m: max_pool2d(x, Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)), (4, 4), m),
    ],
)
def test_element_wise_operators_can_be_fused_behind(pool: Pool) -> None:
    machine = machine_of("x86-64")
    builder = relax.BlockBuilder()
    data: Any = relax.Var("x", relax.TensorType((1, 2, 7, 7, 4), "float32"))
    with builder.function("main", [data]):
        pooled = builder.emit_te(lambda x: pool(x, machine), data, primfunc_name_hint="pool")
        builder.emit_func_output(pooled)
    annotated: Any = relax.transform.AnnotateTIROpPattern()(builder.get())
    assert annotated["pool"].attrs["op_pattern"] == 4
