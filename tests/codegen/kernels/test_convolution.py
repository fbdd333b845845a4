from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from blocked import normal, planes, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels.common import STACK_NBYTES
from partc.codegen.kernels.convolution import conv2d, pack_weight
from partc.codegen.kernels.convolution_plan import (
    Problem,
    Tile,
    Window,
    choose_shares,
    choose_tile,
    plan_conv2d,
)
from partc.codegen.layout import Layout
from partc.codegen.machine import Machine

MULTIPLY_ADD = {
    "x86-64": r"mulps\s.*xmm",
    "x86-64-v3": r"vfmadd\d+ps\s.*ymm",
    "x86-64-v4": r"vfmadd\d+ps\s.*zmm",
    "raspberry-pi-4": r"fmla\s+v\d+\.4s",
}
SPILLED = r"v?mov[au]ps\s+\d*\(%rsp\), %[xyz]mm"

POINT = Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
SQUARE = Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Args:
        shape: (N, C, H, W) of the data.
        makes: Channels that come out.
        window: How the kernel moves.
        groups: Groups of channels.
        reads: Where channels lie: ``plain``, in ``order``, in ``runs``, or as a ``table`` says.
        tail: Whether a bias, a residual and ReLU follow.
    """

    shape: tuple[int, ...]
    makes: int
    window: Window
    groups: int = 1
    reads: str = "order"
    tail: bool = False

    def problem(self, machine: Machine) -> Problem:
        return Problem.of(self.shape, self.makes, self.groups, self.window, machine.lanes)

    def layout(self, machine: Machine) -> Layout:
        """Of the data; runs are what a convolution in groups leaves."""
        channels, lanes = self.shape[1], machine.lanes
        if self.reads == "order":
            return Layout.of(channels, lanes)
        apart = Layout.of(channels, lanes, max(n for n in (1, 2, 3) if channels % n == 0))
        if self.reads == "runs":
            return apart
        return apart.take(np.random.default_rng(0).permutation(channels).tolist())

    def step(self, machine: Machine) -> int:
        """How many channels weights hold side by side."""
        if self.reads == "plain":
            return 1
        if self.reads == "table":
            return math.gcd(self.shape[1] // self.groups, machine.lanes)
        layout = self.layout(machine)
        assert layout.runs
        return layout.runs.step(layout.channels, machine.lanes)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    batch, channels, *plane = draw(planes())
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    shape = (batch, groups * math.ceil(channels / groups), *plane)
    reads = "table" if groups > 1 else draw(st.sampled_from(["plain", "order", "runs", "table"]))
    makes = groups * draw(st.integers(1, 70 // groups))
    window = draw(windows(plane[0], plane[1]))
    return Layer(shape, makes, window, groups, reads, draw(st.booleans()))


def compile_layer(layer: Layer, target_name: str) -> Kernel:
    machine = machine_of(target_name)
    problem, step, layout = layer.problem(machine), layer.step(machine), layer.layout(machine)
    plain = layer.reads == "plain"
    data = te.placeholder(layer.shape if plain else layout.shape(layer.shape), name="data")
    size = (layer.makes, problem.channels, *layer.window.kernel)
    weight = te.placeholder(
        pack_weight(np.zeros(size, np.float32), problem, step, machine).shape, name="weight"
    )
    inputs = [data, weight]
    if layer.reads == "table":
        table = te.placeholder((layer.shape[1],), "int32", name="slots")
        inputs.append(table)
        result = conv2d(data, weight, problem, machine, lambda channel: table[channel])
    elif layer.reads == "runs":
        runs = layout.runs
        assert runs
        result = conv2d(data, weight, problem, machine, runs.slot)
    else:
        result = conv2d(data, weight, problem, machine)
    if layer.tail:
        bias = te.placeholder((result.shape[1], result.shape[4]), name="bias")
        residual = te.placeholder(result.shape, name="residual")
        inputs += [bias, residual]
        result = with_tail(result, bias, residual)
    return compile_kernel(inputs, result, target_name)


def with_tail(convolved: te.Tensor, bias: te.Tensor, residual: te.Tensor) -> te.Tensor:
    biased = te.compute(
        convolved.shape, lambda n, o, h, w, lane: convolved(n, o, h, w, lane) + bias(o, lane)
    )
    added = te.compute(convolved.shape, lambda *at: biased(*at) + residual(*at))
    return te.compute(convolved.shape, lambda *at: te.max(added(*at), 0.0), name="relu")


def pack(values: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Blocked data, with no number where there is no channel."""
    empty = layout.pack(np.ones_like(values)) == 0
    return np.where(empty, np.float32(np.nan), layout.pack(values))


def unpack(values: NDArray[Any], layout: Layout) -> NDArray[Any]:
    batch, blocks, height, width, lanes = values.shape
    slots = np.moveaxis(values, -1, 2).reshape(batch, blocks * lanes, height, width)
    return slots[:, list(layout.slots)]


def convolve(
    data: NDArray[Any], weight: NDArray[Any], window: Window, groups: int
) -> NDArray[np.float64]:
    top, left, bottom, right = window.padding
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    return torch.conv2d(
        torch.from_numpy(padded),
        torch.from_numpy(weight.astype(np.float64)),
        stride=window.strides,
        dilation=window.dilation,
        groups=groups,
    ).numpy()


def check(layer: Layer, target_name: str) -> None:
    """Compare with float64, relative to what was added up."""
    machine = machine_of(target_name)
    problem, layout = layer.problem(machine), layer.layout(machine)
    data = normal(*layer.shape)
    weight = normal(layer.makes, problem.channels, *layer.window.kernel)
    result_layout = Layout.of(layer.makes, machine.lanes, layer.groups)
    expected = convolve(data, weight, layer.window, layer.groups)
    scale = convolve(np.abs(data), np.abs(weight), layer.window, layer.groups)
    ordered = weight[:, layout.order] if layer.reads in ("order", "runs") else weight
    arrays = [
        data if layer.reads == "plain" else pack(data, layout),
        pack_weight(ordered, problem, layer.step(machine), machine),
    ]
    if layer.reads == "table":
        arrays.append(np.array(layout.slots, np.int32))
    if layer.tail:
        bias, residual = normal(layer.makes, 1, 1), normal(*expected.shape)
        arrays += [pack(bias[np.newaxis], result_layout)[0, :, 0, 0], pack(residual, result_layout)]
        expected = np.maximum(expected + bias + residual, 0)
        scale = scale + np.abs(bias) + np.abs(residual)
    result = unpack(compile_layer(layer, target_name)(*arrays), result_layout)
    assert result.shape == expected.shape
    assert np.max(np.abs(result - expected) / scale.clip(1e-30)) < 2e-6


@settings(max_examples=20, deadline=None)
@given(layers(), st.sampled_from(X86))
def test_agrees_with_float64(layer: Layer, target_name: str) -> None:
    check(layer, target_name)


REAL_LAYERS = {
    "image": Layer((1, 3, 40, 40), 24, Window((7, 7), (2, 2), (1, 1), (3, 3, 3, 3)), reads="plain"),
    "image, padded behind": Layer(
        (2, 1, 33, 29), 20, Window((3, 3), (2, 2), (1, 1), (0, 0, 1, 1)), reads="plain", tail=True
    ),
    "point": Layer((1, 64, 7, 7), 96, POINT, tail=True),
    "point, in strides": Layer(
        (2, 24, 13, 14), 40, Window((1, 1), (2, 3), (1, 1), (0, 0, 0, 0)), tail=True
    ),
    "point, in strides, plain": Layer(
        (1, 3, 13, 14), 20, Window((1, 1), (2, 2), (1, 1), (0, 0, 0, 0)), reads="plain"
    ),
    "point, one pixel": Layer((2, 33, 1, 1), 70, POINT, tail=True),
    "square": Layer((1, 48, 14, 14), 48, SQUARE, tail=True),
    "square, few channels": Layer((1, 5, 23, 9), 7, SQUARE),
    "large": Layer((1, 16, 19, 19), 32, Window((5, 5), (1, 1), (1, 1), (2, 2, 2, 2))),
    "larger, in strides": Layer((1, 9, 30, 31), 17, Window((7, 7), (3, 2), (1, 1), (3, 3, 3, 3))),
    "dilated": Layer((1, 20, 17, 21), 33, Window((3, 3), (1, 1), (2, 3), (2, 3, 2, 3))),
    "uneven": Layer((1, 20, 17, 21), 8, Window((1, 7), (1, 1), (1, 1), (0, 3, 0, 2))),
    "groups": Layer(
        (1, 60, 9, 14), 36, Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), 3, "table", tail=True
    ),
    "groups of whole blocks": Layer((2, 64, 8, 8), 128, SQUARE, 4, "table"),
    "behind groups": Layer((1, 30, 11, 13), 40, POINT, reads="runs", tail=True),
    "shuffled": Layer((1, 24, 6, 28), 40, SQUARE, reads="table"),
    "padded with rows of nothing": Layer(
        (1, 8, 2, 3), 8, Window((3, 3), (1, 1), (1, 1), (2, 2, 2, 2))
    ),
}


@pytest.mark.parametrize(
    ("name", "target_name"), list(zip(REAL_LAYERS, itertools.cycle(X86), strict=False))
)
def test_layers_of_real_networks(name: str, target_name: str) -> None:
    check(REAL_LAYERS[name], target_name)


RAGGED = {
    "rows": Layer((1, 8, 11, 3), 16, SQUARE, tail=True),
    "columns": Layer((1, 8, 5, 23), 16, SQUARE),
    "columns of plain data": Layer((1, 3, 5, 23), 16, SQUARE, reads="plain", tail=True),
    "joined rows": Layer((2, 8, 17, 19), 16, POINT, tail=True),
    "joined rows in bands": Layer((1, 96, 56, 56), 16, POINT, tail=True),
}


@pytest.mark.parametrize("target_name", X86)
@pytest.mark.parametrize("name", RAGGED)
def test_the_last_tile_may_lack_pixels(name: str, target_name: str) -> None:
    machine, layer = machine_of(target_name), RAGGED[name]
    problem = layer.problem(machine)
    tile, shares = plan_conv2d(problem, machine)
    assert problem.height % tile.rows or problem.width % tile.columns
    assert shares.bands > 1 or "bands" not in name
    check(layer, target_name)


def test_infinities_stay_with_the_pixels_that_read_them() -> None:
    """Padding is nothing, rather than something times zero; so is what tiles compute in vain."""
    layer = Layer((1, 16, 6, 21), 16, SQUARE)
    machine = machine_of("x86-64-v3")
    data = normal(*layer.shape)
    data[:, :, -1, -1] = np.inf
    weight = np.ones((16, 16, 3, 3), np.float32)
    problem = layer.problem(machine)
    kernel = compile_layer(layer, "x86-64-v3")
    result = unpack(
        kernel(
            pack(data, layer.layout(machine)),
            pack_weight(weight, problem, layer.step(machine), machine),
        ),
        Layout.of(16, machine.lanes),
    )
    infinite = np.isinf(result)
    assert infinite[:, :, -2:, -2:].all()
    assert infinite.sum() == 16 * 4


# Code --------------------------------------------------------------------------------------------

CODE = {
    "point": Layer((1, 64, 28, 28), 64, POINT),
    "square": Layer((1, 64, 28, 28), 64, SQUARE, tail=True),
    "image": Layer((1, 3, 64, 64), 64, SQUARE, reads="plain"),
    "groups": Layer((1, 64, 14, 14), 64, SQUARE, 2, "table"),
}


@pytest.mark.parametrize(
    ("name", "target_name"),
    [(name, target) for target in EVERYWHERE for name in ("point", "square")]
    + [("image", "raspberry-pi-4"), ("groups", "raspberry-pi-4")],
)
def test_a_tile_stays_in_registers(name: str, target_name: str) -> None:
    layer, machine = CODE[name], machine_of(target_name)
    assembly = compile_layer(layer, target_name).assembly()
    tile, _ = plan_conv2d(layer.problem(machine), machine)
    assert len(re.findall(MULTIPLY_ADD[target_name], assembly)) >= tile.accumulators
    assert len(re.findall(SPILLED, assembly)) < tile.accumulators // 2
    assert not re.findall(r"\t(vfmadd\d+ss|mulss|fmadd\ts)", assembly)


def test_points_are_read_where_they_are() -> None:
    assembly = compile_layer(CODE["point"], "x86-64-v4").assembly()
    assert "AllocWorkspace" not in assembly


# Weights -----------------------------------------------------------------------------------------


def test_weights_are_packed_by_channel_in_and_lane_out() -> None:
    machine = machine_of("x86-64")
    weight = normal(6, 10, 2, 3)
    window = Window((2, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    problem = Layer((1, 10, 9, 9), 6, window).problem(machine)
    packed = pack_weight(weight, problem, 2, machine)
    tile, _ = plan_conv2d(problem, machine)
    assert packed.shape == (math.ceil(2 / tile.blocks) * tile.blocks, 5, 2, 3, 2, 4)
    np.testing.assert_array_equal(packed[1, 3, 1, 2, 1, :2], weight[4:, 7, 1, 2])
    np.testing.assert_array_equal(packed[1, ..., 2:], 0)


def test_weights_of_a_group_start_a_block() -> None:
    machine = machine_of("x86-64")
    weight = normal(6, 5, 1, 1)
    packed = pack_weight(weight, Layer((1, 10, 9, 9), 6, POINT, 2).problem(machine), 1, machine)
    assert packed.shape == (2, 5, 1, 1, 1, 4)
    np.testing.assert_array_equal(packed[1, :, 0, 0, 0, :3], weight[3:, :, 0, 0].T)
    np.testing.assert_array_equal(packed[..., 3], 0)


# Plans -------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    sizes: Sequence[int] = [draw(st.integers(1, largest)) for largest in (4, 4, 512, 40, 120, 120)]
    window = draw(st.sampled_from([POINT, SQUARE]))
    batch, groups, channels, blocks, height, width = sizes
    return Problem(batch, groups, channels, blocks, height, width, window)


def registers_of(tile: Tile, machine: Machine) -> int:
    """What the inner loop keeps: sums, weights, spread pixels, and products that are not added."""
    if machine.broadcasts:
        return tile.accumulators + tile.blocks
    spread = tile.pixels if tile.blocks > 1 else 1
    return tile.accumulators + 1 + spread + (0 if machine.multiply_adds else 1)


@given(problems(), st.sampled_from(EVERYWHERE))
def test_tiles_fit_registers_stack_and_plane(problem: Problem, target_name: str) -> None:
    machine = machine_of(target_name)
    tile = choose_tile(problem, machine)
    assert registers_of(tile, machine) <= machine.registers
    assert tile.accumulators * 4 * machine.lanes <= STACK_NBYTES
    assert tile.rows <= problem.height
    assert tile.columns <= problem.width
    assert tile.blocks <= problem.blocks
    assert problem.groups == 1 or problem.blocks % tile.blocks == 0


@given(problems(), st.sampled_from(EVERYWHERE))
def test_shares_are_whole_tiles(problem: Problem, target_name: str) -> None:
    machine = machine_of(target_name)
    tile = choose_tile(problem, machine)
    shares = choose_shares(problem, tile, machine)
    tiles = math.ceil(problem.height / tile.rows)
    assert tiles % shares.bands == 0
    if problem.height % tile.rows:  # the slow tile is one of several in its band
        assert shares.bands == 1 or tiles >= 4 * shares.bands
    assert problem.groups * math.ceil(problem.blocks / tile.blocks) % shares.parts == 0


@pytest.mark.parametrize("target_name", EVERYWHERE)
@pytest.mark.parametrize("size", [7, 14, 28, 56, 112])
@pytest.mark.parametrize("channels", [64, 96, 256])
def test_common_layers_keep_multiply_adds_busy(channels: int, size: int, target_name: str) -> None:
    machine = machine_of(target_name)
    problem = Layer((1, channels, size, size), channels, SQUARE).problem(machine)
    tile, shares = plan_conv2d(problem, machine)
    assert tile.accumulators >= 10  # two pipelines of four or five stages
    assert tile.accumulators >= 1.4 * (tile.pixels + tile.blocks)  # as many loads at a time
    sizes = zip((size, size, problem.blocks), tile.extents, strict=True)
    assert math.prod(math.ceil(whole / part) * part / whole for whole, part in sizes) < 1.3
    count = shares.bands * shares.parts
    assert math.ceil(count / 2) * 2 / count < 1.15  # what two threads take longer than half


def test_a_group_is_not_mixed_with_the_next() -> None:
    machine = machine_of("x86-64-v4")
    problem = Problem(1, 2, 16, 3, 14, 14, SQUARE)
    assert choose_tile(problem, machine).blocks in (1, 3)


def test_windows_reach_what_they_cover() -> None:
    window = Window((3, 5), (2, 1), (1, 2), (1, 0, 2, 3))
    assert window.output(10, 20) == (6, 15)
    assert [window.reach(0, 6), window.reach(1, 15)] == [13, 23]
