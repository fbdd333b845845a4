from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx
from tvm.s_tir.dlight import ApplyDefaultSchedule

from partc.codegen.schedule import LoopOrder

Kernel = tuple[Callable[..., Any], list[tuple[int, ...]]]

KERNELS: dict[str, Kernel] = {
    "convolution": (
        lambda image, kernel: relax.op.nn.conv2d(image, kernel, padding=1, strides=2),
        [(1, 8, 33, 29), (16, 8, 3, 3)],
    ),
    "pointwise convolution": (relax.op.nn.conv2d, [(1, 16, 28, 28), (24, 16, 1, 1)]),
    "depthwise convolution": (
        lambda image, kernel: relax.op.nn.conv2d(image, kernel, padding=2, groups=8),
        [(1, 8, 30, 30), (8, 1, 5, 5)],
    ),
    "matrix product": (relax.op.matmul, [(7, 64), (64, 129)]),
    "transposed matrix product": (
        lambda a, b: relax.op.matmul(a, relax.op.permute_dims(b)),
        [(7, 64), (129, 64)],
    ),
    "maximum pooling": (
        lambda image: relax.op.nn.max_pool2d(image, pool_size=(3, 3), strides=(2, 2)),
        [(1, 16, 41, 41)],
    ),
    "mean": (lambda image: relax.op.mean(image, [2, 3]), [(2, 64, 29, 31)]),
    "sum of all": (relax.op.sum, [(40, 1000)]),
    "softmax": (relax.op.nn.softmax, [(40, 1000)]),
    "transposition": (relax.op.permute_dims, [(300, 200)]),
    "concatenation": (lambda a, b: relax.op.concat([a, b], axis=1), [(3, 90, 99), (3, 95, 99)]),
    "running sum": (lambda a: relax.op.cumsum(a, axis=1), [(40, 1000)]),
}


def lowered(kernel: Kernel) -> tvm.IRModule:
    operator, shapes = kernel
    builder = relax.BlockBuilder()
    arguments = [
        relax.Var(f"x{index}", relax.TensorType(shape, "float32"))
        for index, shape in enumerate(shapes)
    ]
    with builder.function("main", arguments):
        with builder.dataflow():
            result = builder.emit_output(operator(*arguments))
        builder.emit_func_output(result)
    return relax.transform.LegalizeOps()(builder.get())


def scheduled(module: tvm.IRModule, threads: int) -> tvm.IRModule:
    with tvm.target.Target("llvm"):
        return ApplyDefaultSchedule(LoopOrder(threads))(module)


def run(module: tvm.IRModule, kernel: Kernel) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape, np.float32) for shape in kernel[1]]
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    return machine["main"](*map(tvm.runtime.tensor, arrays)).numpy()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_the_loop_order_changes_no_result(name: str, threads: int) -> None:
    kernel = KERNELS[name]
    module = lowered(kernel)
    expected = run(module, kernel)
    actual = run(scheduled(module, threads), kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_innermost_loop_of_a_convolution_runs_along_a_row() -> None:
    text = scheduled(lowered(KERNELS["convolution"]), threads=1).script()
    channels_and_window_then_row = ", ".join(f"T.int64({extent})" for extent in (8, 3, 3, 15))
    assert f"in T.grid({channels_and_window_then_row})" in text


def test_only_large_kernels_use_threads_and_only_where_there_are_threads() -> None:
    large, small = KERNELS["matrix product"], (relax.op.matmul, [(2, 3), (3, 4)])
    assert "T.parallel" in scheduled(lowered(large), threads=2).script()
    assert "T.parallel" not in scheduled(lowered(large), threads=1).script()
    assert "T.parallel" not in scheduled(lowered(small), threads=2).script()


def test_a_kernel_with_unknown_extents_gets_no_threads() -> None:
    size = tirx.Var("size", "int64")
    data = te.placeholder((size, 4), name="data")
    function = te.create_prim_func([data, te.compute((size, 4), lambda i, j: data[i, j] + 1)])
    text = scheduled(tvm.IRModule({"main": function}), threads=2).script()
    assert "T.parallel" not in text
