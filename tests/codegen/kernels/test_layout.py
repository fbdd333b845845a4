from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from blocked import blocked, normal, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from tvm import te

from partc.codegen.kernels.layout import permute_dims, to_blocked, to_plain
from partc.codegen.machine import Machine

IN_REGISTERS = {
    "x86-64": r"unpcklps",
    "x86-64-v3": r"vperm2f128|vinsertf128",
    "x86-64-v4": r"vshuff64x2.*zmm",
    "raspberry-pi-4": r"zip1\s+v\d+.4s",
}


def compile_layout(
    shape: tuple[int, ...],
    compute: Callable[[te.Tensor, Machine], te.Tensor],
    target_name: str,
) -> Kernel:
    data = te.placeholder(shape, name="data")
    machine = machine_of(target_name)
    result = compute(data, machine)
    return compile_kernel([data], result, target_name)


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(1, largest) for largest in (2, 37, 11, 11)))


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=6, deadline=None)
@given(shapes())
def test_channels_are_gathered_in_vectors(target_name: str, shape: tuple[int, ...]) -> None:
    data = normal(*shape)
    result = compile_layout(shape, to_blocked, target_name)(data)
    np.testing.assert_array_equal(plain(result, shape[1]), data)


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=6, deadline=None)
@given(shapes())
def test_pixels_are_gathered_in_rows(target_name: str, shape: tuple[int, ...]) -> None:
    data = normal(*shape)
    source = blocked(data, machine_of(target_name).lanes)
    kernel = compile_layout(
        source.shape, lambda x, machine: to_plain(x, shape[1], machine), target_name
    )
    np.testing.assert_array_equal(kernel(source), data)


@pytest.mark.parametrize("target_name", X86)
def test_data_need_not_be_images(target_name: str) -> None:
    data = normal(2, 19, 23)
    there = compile_layout(data.shape, to_blocked, target_name)
    back = compile_layout(there.shape, lambda x, m: to_plain(x, 19, m), target_name)
    np.testing.assert_array_equal(back(there(data)), data)


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=6, deadline=None)
@given(st.data())
def test_axes_are_permuted(target_name: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 37), min_size=1, max_size=4)))
    axes = data.draw(st.permutations(range(len(shape))))
    values = normal(*shape)
    kernel = compile_layout(shape, lambda x, machine: permute_dims(x, axes, machine), target_name)
    np.testing.assert_array_equal(kernel(values), values.transpose(axes))


@pytest.mark.parametrize("target_name", EVERYWHERE)
def test_tiles_are_transposed_in_registers(target_name: str) -> None:
    shape = (1, 64, 30, 31)
    lanes = machine_of(target_name).lanes
    kernels = [
        compile_layout(shape, to_blocked, target_name),
        compile_layout(
            (1, 64 // lanes, 30, 31, lanes), lambda x, m: to_plain(x, 64, m), target_name
        ),
        compile_layout((128, 300), lambda x, m: permute_dims(x, (1, 0), m), target_name),
    ]
    for kernel in kernels:
        assembly = kernel.assembly()
        assert re.search(IN_REGISTERS[target_name], assembly)
        assert not re.search(r"insertps|gather|ins\s+v\d+\.s", assembly)


@pytest.mark.parametrize(
    ("shape", "axes"), [((1, 128, 8, 64), (0, 2, 1, 3)), ((5, 1, 7), (1, 0, 2)), ((9, 9), (0, 1))]
)
def test_whole_rows_are_left_to_the_default_schedule(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    machine = machine_of("x86-64-v3")
    moved = permute_dims(te.placeholder(shape), axes, machine)
    assert isinstance(moved.op, te.ComputeOp)


def test_only_large_transpositions_use_threads() -> None:
    def kind(shape: tuple[int, int]) -> str:
        data = te.placeholder(shape)
        moved = permute_dims(data, (1, 0), machine_of("x86-64"))
        return te.create_prim_func([data, moved]).script()

    assert "T.parallel" in kind((256, 256))
    assert "T.parallel" not in kind((64, 64))
