"""What kernels that reduce or normalise rows are tested with, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from kernels import Kernel, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import te

torch = pytest.importorskip("torch")

shapes = st.lists(st.one_of(st.integers(1, 9), st.integers(1, 70)), min_size=1, max_size=4).filter(
    lambda shape: np.prod(shape) < 20_000
)


def compile_function(
    function: Callable[..., te.Tensor],
    shapes: list[tuple[int, ...]],
    target_name: str,
    dtype: str = "float32",
) -> Kernel:
    inputs = [te.placeholder(shape, dtype, name=f"x{i}") for i, shape in enumerate(shapes)]
    output = function(*inputs, machine_of(target_name))
    return compile_kernel(inputs, output, target_name)


def randoms(*shapes: tuple[int, ...]) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.normal(1, 3, shape).astype(np.float32) for shape in shapes]


def in_float64(function: Callable[..., Any], arrays: list[NDArray[np.float32]]) -> NDArray[Any]:
    return function(*(torch.from_numpy(array.astype(np.float64)) for array in arrays)).numpy()
