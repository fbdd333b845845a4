from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import X86, machine_of
from numpy.typing import NDArray
from prerequisites import require
from tvm import relax, te, tirx
from tvm.relax import op
from tvm.s_tir import Schedule

from partc.codegen.build import resolve_target, runs_here
from partc.codegen.kernels.default import DEFAULT, INJECTIVE, schedule_default
from partc.targets.target import load_target

Shapes = list[tuple[int, ...]]
Kernel = tuple[Callable[..., Any], Shapes]

MOVES: dict[str, Kernel] = {
    "addition": (lambda a, b: op.nn.relu(op.add(a, b)), [(1, 3, 17, 19)] * 2),
    "addition of vectors": (lambda a, b: op.nn.relu(op.add(a, b)), [(1, 16, 56, 56)] * 2),
    "addition, blocked": (
        lambda a, b: op.nn.relu(op.add(a, b)),
        [(2, 3, 30, 30, 16), (1, 3, 1, 1, 16)],
    ),
    "scale and shift": (
        lambda x, a, b: op.add(op.multiply(x, a), b),
        [(1, 20, 41, 43), (1, 20, 1, 1), (20, 1, 1)],
    ),
    "a costly factor": (lambda x, a: op.multiply(x, op.exp(a)), [(8, 300), (8, 1)]),
    "square and square root": (lambda x: op.sqrt(op.add(op.multiply(x, x), x)), [(7, 1001)]),
    "transposition": (op.permute_dims, [(300, 208)]),
    "transposition of squares": (op.permute_dims, [(64, 96)]),
    "heads": (lambda x: op.permute_dims(op.reshape(x, (1, 50, 8, 64)), [0, 2, 3, 1]), [(50, 512)]),
    "heads, not transposed": (lambda x: op.permute_dims(x, [0, 2, 1, 3]), [(1, 128, 8, 64)]),
    "concatenation of channels": (
        lambda a, b: op.nn.relu(op.concat([a, b], 1)),
        [(3, 90, 9, 9), (3, 95, 9, 9)],
    ),
    "concatenation of rows": (
        lambda a, b, c: op.concat([a, b, c], 2),
        [(9, 90, 50), (9, 90, 17), (9, 90, 1)],
    ),
    "part": (lambda x: op.strided_slice(x, [1, 3], [16, 1], [48, 50], [1, 3]), [(1, 64, 7, 56)]),
    "channels behind others": (lambda x: op.strided_slice(x, [1], [16], [48]), [(1, 64, 28, 28)]),
    "padding": (lambda x: op.nn.pad(x, [0, 0, 0, 0, 1, 2, 3, 0]), [(1, 16, 55, 41)]),
    "channel shuffle": (
        lambda x: op.reshape(
            op.permute_dims(op.reshape(x, (1, 4, 34, 14, 14)), [0, 2, 1, 3, 4]), (1, 136, 14, 14)
        ),
        [(1, 136, 14, 14)],
    ),
    "enlargement": (lambda x: op.image.resize2d(x, (26, 40), layout="NCHW"), [(1, 32, 13, 20)]),
    "nearest neighbours": (
        lambda x: op.image.resize2d(
            x,
            (26, 40),
            layout="NCHW",
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        ),
        [(1, 48, 13, 20)],
    ),
    "enlargement, blocked": (
        lambda x: op.image.resize2d(x, (26, 40), layout="NCHW16c"),
        [(1, 2, 13, 20, 16)],
    ),
    "rows of a table": (
        lambda x: op.take(x, relax.const(np.array([3, 1, 1, 7]), "int64"), 0),
        [(9, 200)],
    ),
    "numbers of one element": (lambda a, b: op.add(a, b), [(1, 1), (1,)]),
}

REDUCTIONS: dict[str, Kernel] = {
    "convolution": (
        lambda image, kernel: op.nn.relu(op.nn.conv2d(image, kernel, padding=1, strides=2)),
        [(1, 8, 33, 29), (16, 8, 3, 3)],
    ),
    "convolution in tiles": (
        lambda image, kernel: op.nn.conv2d(image, kernel, padding=1),
        [(2, 6, 9, 32), (12, 6, 3, 3)],
    ),
    "depthwise convolution": (
        lambda image, kernel: op.nn.conv2d(image, kernel, padding=2, groups=8),
        [(1, 8, 30, 30), (8, 1, 5, 5)],
    ),
    "transposed convolution": (
        lambda image, kernel: op.nn.conv2d_transpose(image, kernel, strides=(2, 2)),
        [(1, 8, 9, 9), (8, 6, 2, 2)],
    ),
    "matrix product": (op.matmul, [(7, 64), (64, 129)]),
    "matrix product in tiles": (op.matmul, [(36, 64), (64, 96)]),
    "product with a transposed matrix": (
        lambda a, b: op.matmul(a, op.permute_dims(b)),
        [(7, 64), (129, 64)],
    ),
    "maximum pooling": (
        lambda image: op.nn.max_pool2d(image, pool_size=(3, 3), strides=(2, 2)),
        [(1, 16, 41, 41)],
    ),
    "mean of planes": (lambda image: op.mean(image, [2, 3]), [(2, 64, 29, 31)]),
    "mean of rows": (lambda image: op.mean(image, [2]), [(2, 64, 384)]),
    "largest of columns": (lambda image: op.max(image, [1]), [(3, 50, 48)]),
    "sum of all": (op.sum, [(40, 128)]),
    "sum of all, no vectors": (op.sum, [(40, 101)]),
    "softmax": (op.nn.softmax, [(40, 1000)]),
    "place of the largest": (
        lambda x: op.astype(op.argmax(x, 1), "float32"),
        [(40, 100)],
    ),
    "scattered": (
        lambda x, y: op.scatter_elements(x, relax.const(np.ones((4, 3)), "int64"), y, 1),
        [(40, 100), (4, 3)],
    ),
}

KERNELS = MOVES | REDUCTIONS


@functools.cache
def fused(name: str) -> tvm.IRModule:
    return lower(*KERNELS[name])


def lower(operator: Callable[..., Any], shapes: Shapes) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    arguments = [
        relax.Var(f"x{index}", relax.TensorType(shape, "float32"))
        for index, shape in enumerate(shapes)
    ]
    with builder.function("main", arguments):
        with builder.dataflow():
            result = builder.emit_output(operator(*arguments))
        builder.emit_func_output(result)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return tvm.transform.Sequential(passes)(builder.get())


def schedule(module: tvm.IRModule, target_name: str) -> tuple[tvm.IRModule, set[str]]:
    """The module with all its kernels scheduled, and what they were called."""
    functions, names = dict[Any, Any](), set[str]()
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            scheduled: Any = Schedule(function)
            names.add(schedule_default(scheduled, machine_of(target_name)))
            function = scheduled.mod["main"]
        functions[variable] = function
    return tvm.IRModule(functions), names


def run(module: tvm.IRModule, shapes: Shapes, target_name: str) -> NDArray[Any]:
    target = load_target(target_name)
    require(runs_here(target), f"a CPU that runs {target_name}")
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape, np.float32) for shape in shapes]
    library = relax.build(module, resolve_target(target))
    machine = relax.VirtualMachine(library, tvm.cpu())
    return machine["main"](*map(tvm.runtime.tensor, arrays)).numpy()


@functools.cache
def expected(name: str) -> NDArray[Any]:
    return run(fused(name), KERNELS[name][1], "x86-64")


@pytest.mark.parametrize(
    ("name", "target_name"), list(zip(KERNELS, itertools.cycle(X86), strict=False))
)
def test_the_schedule_changes_no_result(name: str, target_name: str) -> None:
    module, kinds = schedule(fused(name), target_name)
    actual = run(module, KERNELS[name][1], target_name)
    np.testing.assert_allclose(actual, expected(name), rtol=1e-5, atol=1e-5)
    assert kinds == {INJECTIVE} if name in MOVES else DEFAULT in kinds


@pytest.mark.parametrize("target_name", X86)
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_random_shapes_and_axes(target_name: str, data: st.DataObject) -> None:
    sizes = st.sampled_from((1, 2, 3, 7, 16, 24, 33, 64))
    shape = tuple(data.draw(st.lists(sizes, min_size=2, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    other = tuple(data.draw(st.sampled_from((1, size))) for size in shape)
    order = data.draw(st.permutations(range(len(shape))))

    def compute(a: Any, b: Any) -> Any:
        joined = op.permute_dims(op.concat([op.add(a, b), op.multiply(a, b)], axis), order)
        return op.concat([joined, op.sum(joined, axis, keepdims=True)], axis)

    module = lower(compute, [shape, other])
    actual = run(schedule(module, target_name)[0], [shape, other], target_name)
    np.testing.assert_allclose(
        actual, run(module, [shape, other], target_name), rtol=1e-5, atol=1e-5
    )


def script(name: str, target_name: str = "x86-64-v3") -> str:
    """The one kernel of a module, scheduled."""
    functions = schedule(fused(name), target_name)[0].functions.values()
    (kernel,) = [function for function in functions if isinstance(function, tirx.PrimFunc)]
    return kernel.script()


def test_what_is_one_walk_through_memory_is_one_loop() -> None:
    assert script("addition").count("for ") == 1
    assert script("scale and shift").count("for ") == 2
    assert "range(T.int64(81))" in script("concatenation of channels")


def test_vectors_are_explicit_where_they_fit() -> None:
    assert "T.vectorized(T.int64(8))" in script("addition of vectors")
    assert "T.vectorized(T.int64(8))" in script("addition, blocked")
    assert "T.vectorized" not in script("addition")


def test_vectors_do_not_cut_what_was_fused() -> None:
    """A row of 56 numbers is no multiple of 16, and TVM would compute an index for each lane."""
    assert "T.vectorized" not in script("addition of vectors", "x86-64-v4")


def test_only_large_kernels_use_threads() -> None:
    assert "T.parallel" in script("addition of vectors")
    assert "T.parallel" not in script("addition")


def test_a_chain_is_one_block_unless_that_repeats_costly_work() -> None:
    assert len(re.findall(r"^ +with T.sblock", script("addition"), re.MULTILINE)) == 1
    assert len(re.findall(r"^ +with T.sblock", script("a costly factor"), re.MULTILINE)) == 2


def test_concatenated_rows_are_copied_without_a_question() -> None:
    text = script("concatenation of rows")
    assert "range(T.int64(50))" in text
    assert "range(T.int64(50), T.int64(67))" in text


def test_what_is_read_twice_is_written_twice() -> None:
    assert "T.unroll(T.int64(2))" in script("nearest neighbours")


def test_the_results_of_a_tile_stay_in_registers() -> None:
    text = script("matrix product in tiles")
    assert "matmul_global = T.sblock_alloc_buffer" in text
    assert text.count("T.unroll") >= 3
    assert text.count("T.vectorized") == 3


def test_sums_along_a_row_are_vectors() -> None:
    text = script("mean of rows")
    (part,) = re.findall(r"for .* in T.vectorized\(T.int64\((\d+)\)\):\n.*x0_red_rf_update", text)
    assert int(part) == 32


def test_a_kernel_with_unknown_extents_is_left_alone() -> None:
    size = tirx.Var("size", "int64")
    data = te.placeholder((size, 4), name="data")
    function = te.create_prim_func([data, te.compute((size, 4), lambda i, j: data[i, j] + 1)])
    scheduled: Any = Schedule(function)
    assert schedule_default(scheduled, machine_of("x86-64")) == DEFAULT
    tvm.ir.assert_structural_equal(scheduled.mod["main"], function)
