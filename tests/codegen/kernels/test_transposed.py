from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from blocked import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels.transposed import (
    Transposition,
    interleave,
    interleave_blocked,
    phase_weight,
)
from partc.codegen.layout import Layout

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A transposed convolution of (N, C, H, W) as torch defines it; padding is on both sides."""

    shape: tuple[int, ...]
    makes: int
    kernel: Pair
    strides: Pair
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    groups: int = 1

    @property
    def transposition(self) -> Transposition:
        return Transposition(self.kernel, self.strides, self.padding, self.output)

    @property
    def output(self) -> Pair:
        height, width = (
            (size - 1) * stride + kernel - 2 * padding + more
            for size, stride, kernel, padding, more in zip(
                self.shape[2:],
                self.strides,
                self.kernel,
                self.padding,
                self.output_padding,
                strict=True,
            )
        )
        return height, width

    def weight(self) -> NDArray[np.float64]:
        shape = (self.shape[1], self.makes // self.groups, *self.kernel)
        return normal(*shape).astype(np.float64)

    def expected(self, data: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float64]:
        return torch.nn.functional.conv_transpose2d(
            torch.from_numpy(data),
            torch.from_numpy(weight),
            stride=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
        ).numpy()


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    kernel, strides = draw(pairs(1, 5)), draw(pairs(1, 3))
    padding = tuple(draw(st.integers(0, (size - 1) // 2)) for size in kernel)
    more = tuple(draw(st.integers(0, stride - 1)) for stride in strides)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, makes = (groups * draw(st.integers(1, 5)) for _ in range(2))
    shape = (draw(st.integers(1, 2)), channels, *draw(pairs(1, 6)))
    return Layer(
        shape, makes, kernel, strides, (padding[0], padding[1]), (more[0], more[1]), groups
    )


def all_phases(layer: Layer, data: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float64]:
    """(N, groups * phases * O/groups, H, W): what the convolution of all phases makes."""
    window = layer.transposition.window(*layer.shape[2:])
    top, left, bottom, right = window.padding
    padded = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
    phases = phase_weight(weight, layer.groups, layer.transposition)
    result = torch.conv2d(
        torch.from_numpy(padded), torch.from_numpy(phases), groups=layer.groups
    ).numpy()
    assert result.shape[2:] == window.output(*layer.shape[2:])
    return result


@settings(max_examples=50)
@given(layers())
def test_phases_of_a_convolution_make_a_transposed_one(layer: Layer) -> None:
    data, weight = normal(*layer.shape).astype(np.float64), layer.weight()
    phases = all_phases(layer, data, weight)
    expected = layer.expected(data, weight)
    each, (down, across) = layer.makes // layer.groups, layer.strides
    batch, _, height, width = phases.shape
    apart = phases.reshape(batch, layer.groups, down, across, each, height, width)
    together = apart.transpose(0, 1, 4, 5, 2, 6, 3).reshape(
        batch, layer.makes, height * down, width * across
    )
    (top, left), (rows, columns) = layer.padding, layer.output
    cropped = together[:, :, top : top + rows, left : left + columns]
    np.testing.assert_allclose(cropped, expected, rtol=1e-9, atol=1e-9)


def compile_interleave(layer: Layer, target_name: str, *, blocked: bool) -> tuple[Kernel, Layout]:
    """What puts the phases of a layer together, and the layout that they come in."""
    lanes, transposition = machine_of(target_name).lanes, layer.transposition
    phases = layer.makes * transposition.phases
    layout = Layout.of(phases, lanes, layer.groups)
    batch, _, *plane = layer.shape
    shape = layout.shape((batch, phases, *transposition.window(*plane).output(*plane)))
    data = te.placeholder(shape, name="data")
    if blocked:
        result = interleave_blocked(data, transposition)
    else:
        result = interleave(data, layer.groups, layer.makes, transposition)
    return compile_kernel([data], result, target_name), layout


def run_interleave(layer: Layer, target_name: str, *, blocked: bool) -> None:
    kernel, layout = compile_interleave(layer, target_name, blocked=blocked)
    data, weight = normal(*layer.shape).astype(np.float64), layer.weight()
    phases = layout.pack(all_phases(layer, data, weight).astype(np.float32))
    empty = layout.pack(np.ones((1, layout.channels, 1, 1))) == 0
    result = kernel(np.where(empty, np.float32(np.nan), phases))
    if blocked:
        batch, blocks, *_, lanes = result.shape
        result = np.moveaxis(result, -1, 2).reshape(batch, blocks * lanes, *layer.output)
    expected = layer.expected(data, weight)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(layers(), st.sampled_from(X86))
def test_phases_are_interleaved(layer: Layer, target_name: str) -> None:
    run_interleave(layer, target_name, blocked=False)


@settings(max_examples=8, deadline=None)
@given(layers(), st.sampled_from(X86), st.integers(1, 2))
def test_phases_are_interleaved_in_blocked_layout(
    layer: Layer, target_name: str, blocks: int
) -> None:
    whole = blocks * machine_of(target_name).lanes
    filled = Layer(
        layer.shape, whole, layer.kernel, layer.strides, layer.padding, layer.output_padding
    )
    run_interleave(filled, target_name, blocked=True)


@pytest.mark.parametrize("target_name", EVERYWHERE)
def test_blocks_are_moved_as_vectors(target_name: str) -> None:
    layer = Layer((1, 16, 14, 14), 32, (2, 2), (2, 2))
    kernel, _ = compile_interleave(layer, target_name, blocked=True)
    vector = {"x86-64": "xmm", "x86-64-v3": "ymm", "x86-64-v4": "zmm", "raspberry-pi-4": "q0"}
    assert vector[target_name] in kernel.assembly()


@pytest.mark.parametrize(
    ("kernel", "strides", "taps"),
    [((2, 2), (2, 2), (1, 1)), ((3, 3), (2, 2), (2, 2)), ((4, 5), (2, 3), (2, 2))],
)
def test_each_pixel_is_reached_by_the_taps_of_its_phase(
    kernel: Pair, strides: Pair, taps: Pair
) -> None:
    layer = Layer((1, 3, 4, 5), 2, kernel, strides)
    transposition = layer.transposition
    assert transposition.taps == taps
    assert transposition.phases == math.prod(strides)
    phases = phase_weight(layer.weight(), 1, transposition)
    assert phases.shape == (2 * math.prod(strides), 3, *taps)
    assert np.count_nonzero(phases) == layer.weight().size  # nothing is multiplied twice


def test_strides_of_the_kernel_need_one_tap_and_no_padding() -> None:
    transposition = Layer((1, 3, 4, 5), 2, (2, 2), (2, 2)).transposition
    assert transposition.window(4, 5).padding == (0, 0, 0, 0)
