from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from kernels import EVERYWHERE, X86, Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import relax, te

from partc.codegen.kernels.common import most_accumulators
from partc.codegen.kernels.matmul import (
    choose_tile,
    dense,
    matmul,
    pack_weight,
    panel_width,
)

FUSED_MULTIPLY_ADD = {
    "x86-64": r"mulps",
    "x86-64-v3": r"vfmadd\d+ps.*%ymm",
    "x86-64-v4": r"vfmadd\d+ps.*%zmm",
    "raspberry-pi-4": r"fmla\s+v\d+\.4s",
}

targets = st.sampled_from(X86)
axes = st.lists(st.integers(1, 3), max_size=2)


def random(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def agree(
    result: NDArray[np.float32], a: NDArray[np.float32], b: NDArray[np.float32], *more: Any
) -> None:
    """Compare with float64, relative to what was added up."""
    wide, other = a.astype(np.float64), b.astype(np.float64)
    expected, size = wide @ other, np.abs(wide) @ np.abs(other)
    for each in more:
        expected, size = expected + each, size + np.abs(each)
    assert result.shape == expected.shape
    assert np.max(np.abs(result - expected) / size) < 2e-6


def placeholder(name: str, array: NDArray[Any]) -> te.Tensor:
    return te.placeholder(array.shape, name=name)


def added(product: te.Tensor, *others: te.Tensor) -> te.Tensor:
    """What a fused tail does: each of the others is broadcast from the right and added."""

    def total(*at: Any) -> Any:
        return sum((other(*at[-len(other.shape) :]) for other in others), product(*at))

    return te.compute(product.shape, total, name="added")


def check_dense(rows: tuple[int, ...], depth: int, units: int, target: str) -> None:
    data, weight, bias = random((*rows, depth)), random((depth, units)), random((units,))
    residual = random((*rows, units))
    machine = machine_of(target)
    packed = pack_weight(weight, panel_width(data.shape, units, machine))
    arrays = [data, packed, bias, residual]
    tensors = [placeholder(f"x{index}", array) for index, array in enumerate(arrays)]
    product = dense(tensors[0], tensors[1], units, machine)
    kernel = compile_kernel(tensors, added(product, *tensors[2:]), target)
    agree(kernel(*arrays), data, weight, bias, residual)


def compile_matmul(a: Any, b: Any, target: str) -> Kernel:
    tensors = placeholder("a", a), placeholder("b", b)
    product = matmul(*tensors, machine_of(target))
    return compile_kernel(tensors, product, target)


def check_matmul(a_shape: tuple[int, ...], b_shape: tuple[int, ...], target: str) -> None:
    a, b = random(a_shape), random(b_shape, seed=1)
    agree(compile_matmul(a, b, target)(a, b), a, b)


@settings(max_examples=15, deadline=None)
@given(axes, st.integers(1, 70), st.integers(1, 40), st.integers(1, 150), targets)
def test_rows_times_weights(
    leading: list[int], rows: int, depth: int, units: int, target: str
) -> None:
    check_dense((*leading, rows), depth, units, target)


@pytest.mark.parametrize(
    ("rows", "depth", "units"),
    [
        ((1,), 96, 24),
        ((1, 1), 300, 1000),
        ((40,), 24, 1665),  # the last panel is ragged, others come before it in its part
        ((64,), 16, 7 * 64 - 1),
        ((2, 13), 64, 48),
        ((1000,), 700, 17),  # rows do not fit the cache
    ],
)
@pytest.mark.parametrize("target", ["x86-64", "x86-64-v4"])
def test_rows_times_weights_of_awkward_sizes(
    rows: tuple[int, ...], depth: int, units: int, target: str
) -> None:
    check_dense(rows, depth, units, target)


@st.composite
def broadcast_stacks(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The leading axes of two stacks of matrices that broadcast against each other."""
    full = draw(axes)

    def some() -> tuple[int, ...]:
        kept = full[draw(st.integers(0, len(full))) :]
        return tuple(draw(st.sampled_from([1, size])) for size in kept)

    return some(), some()


@settings(max_examples=15, deadline=None)
@given(
    broadcast_stacks(),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 80)),
    targets,
)
def test_stacks_of_matrices(
    stacks: tuple[tuple[int, ...], tuple[int, ...]],
    sizes: tuple[int, int, int],
    target: str,
) -> None:
    rows, depth, columns = sizes
    check_matmul((*stacks[0], rows, depth), (*stacks[1], depth, columns), target)


@pytest.mark.parametrize("heads", [(3,), (2, 6)])
@pytest.mark.parametrize("target", X86)
def test_attention(heads: tuple[int, ...], target: str) -> None:
    check_matmul((*heads, 97, 15), (*heads, 15, 97), target)


@pytest.mark.parametrize(
    ("a_stack", "b_stack"), [((2, 1), (3,)), ((), (2, 3)), ((3, 4), (2, 1, 4)), ((2, 5), (1, 1))]
)
def test_stacks_broadcast(a_stack: tuple[int, ...], b_stack: tuple[int, ...]) -> None:
    check_matmul((*a_stack, 7, 12), (*b_stack, 12, 20), "x86-64-v3")


def test_a_matrix_for_a_whole_stack_is_read_once() -> None:
    stack, matrix = random((9, 5, 8)), random((8, 32), seed=1)
    tensors = placeholder("a", stack), placeholder("b", matrix)
    product = matmul(*tensors, machine_of("x86-64-v3"))
    assert product.op.input_tensors[0].op.input_tensors[1].shape[0] == 1


@pytest.mark.parametrize("target", EVERYWHERE)
def test_the_inner_loop_multiplies_and_adds_vectors(target: str) -> None:
    a, b = random((48, 64)), random((64, 96))
    assembly = compile_matmul(a, b, target).assembly()
    tile = choose_tile(machine_of(target), 48, 96 // machine_of(target).lanes)
    assert len(re.findall(FUSED_MULTIPLY_ADD[target], assembly)) >= tile.accumulators


@given(st.integers(1, 300), st.integers(1, 100), st.sampled_from(EVERYWHERE))
def test_a_tile_leaves_registers_for_its_operands(rows: int, blocks: int, target: str) -> None:
    machine = machine_of(target)
    tile = choose_tile(machine, rows, blocks)
    assert tile.accumulators < machine.registers
    assert tile.rows <= rows
    assert tile.blocks <= blocks


@pytest.mark.parametrize("target", EVERYWHERE)
def test_large_products_have_enough_accumulators(target: str) -> None:
    machine = machine_of(target)
    enough = min(machine.registers // 2, most_accumulators(machine))
    assert choose_tile(machine, 128, 24).accumulators >= enough


def test_what_follows_is_fused_behind_a_product() -> None:
    machine = machine_of("x86-64-v3")
    builder = relax.BlockBuilder()
    shapes = [(2, 7, 16), (1, 16, 16), (16,)]
    x, weight, bias = (
        relax.Var(f"x{index}", relax.TensorType(shape, "float32"))
        for index, shape in enumerate(shapes)
    )
    compute: Callable[..., te.Tensor] = lambda a, b: dense(a, b, 16, machine)  # noqa: E731
    with builder.function("main", [x, weight, bias]):
        with builder.dataflow():
            product = builder.emit_te(compute, x, weight)
            result = builder.emit_output(
                relax.op.nn.relu(builder.emit(relax.op.add(product, bias)))
            )
        builder.emit_func_output(result)
    module: Any = relax.transform.LegalizeOps()(builder.get())
    for transformation in ("AnnotateTIROpPattern", "FuseOps", "FuseTIR"):
        module = getattr(relax.transform, transformation)()(module)
    kernels = [each for each in module.functions.values() if isinstance(each, tvm.tirx.PrimFunc)]
    assert len(kernels) == 1
