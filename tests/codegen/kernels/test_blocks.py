from __future__ import annotations

import numpy as np
import pytest
from blocked import blocked, normal, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from tvm import te

from partc.codegen.kernels.blocks import gather_channels, repeat_pixels, scatter_channels
from partc.codegen.layout import Layout


@st.composite
def rearranged(draw: st.DrawFn) -> tuple[tuple[int, ...], Layout, str]:
    """The shape of data, a layout in which their channels lie anyhow, and for whom."""
    target_name = draw(st.sampled_from(X86))
    channels, groups = draw(st.integers(1, 10)), draw(st.integers(1, 3))
    layout = Layout.of(groups * channels, machine_of(target_name).lanes, groups)
    layout = layout.take(draw(st.permutations(range(layout.channels))))
    batch, height, width = (draw(st.integers(1, largest)) for largest in (2, 9, 9))
    return (batch, layout.channels, height, width), layout, target_name


@settings(max_examples=8, deadline=None)
@given(rearranged())
def test_channels_go_where_a_layout_says(case: tuple[tuple[int, ...], Layout, str]) -> None:
    shape, layout, target_name = case
    data = te.placeholder(shape, name="data")
    channels = te.placeholder(layout.inverse().shape, "int32", name="channels")
    kernel = compile_kernel(
        [data, channels], scatter_channels(data, channels, layout.lanes), target_name
    )
    values = normal(*shape)
    filled = layout.pack(np.ones_like(values)) == 1
    np.testing.assert_array_equal(
        kernel(values, layout.inverse())[filled], layout.pack(values)[filled]
    )


@settings(max_examples=8, deadline=None)
@given(rearranged())
def test_channels_come_from_where_a_layout_says(case: tuple[tuple[int, ...], Layout, str]) -> None:
    shape, layout, target_name = case
    data = te.placeholder(layout.shape(shape), name="data")
    slots = te.placeholder((layout.channels,), "int32", name="slots")
    kernel = compile_kernel([data, slots], gather_channels(data, slots), target_name)
    values = normal(*shape)
    found = kernel(layout.pack(values), np.array(layout.slots, np.int32))
    np.testing.assert_array_equal(found, values)


def compile_repeat(shape: tuple[int, ...], factors: tuple[int, int], target_name: str) -> Kernel:
    lanes = machine_of(target_name).lanes
    batch, channels, *plane = shape
    data = te.placeholder((batch, -(-channels // lanes), *plane, lanes), name="data")
    return compile_kernel([data], repeat_pixels(data, factors), target_name)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(*(st.integers(1, largest) for largest in (2, 20, 9, 9))),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from(X86),
)
def test_pixels_are_repeated(
    shape: tuple[int, ...], factors: tuple[int, int], target_name: str
) -> None:
    values = normal(*shape)
    kernel = compile_repeat(shape, factors, target_name)
    found = plain(kernel(blocked(values, machine_of(target_name).lanes)), shape[1])
    np.testing.assert_array_equal(found, values.repeat(factors[0], 2).repeat(factors[1], 3))


@pytest.mark.parametrize("target_name", EVERYWHERE)
def test_a_pixel_is_one_vector(target_name: str) -> None:
    assembly = compile_repeat((1, 32, 8, 8), (2, 2), target_name).assembly()
    vector = {"x86-64": "xmm", "x86-64-v3": "ymm", "x86-64-v4": "zmm", "raspberry-pi-4": "q0"}
    assert vector[target_name] in assembly
