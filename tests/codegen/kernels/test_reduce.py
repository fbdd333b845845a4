from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels import X86
from rows import compile_function, in_float64, randoms, shapes

from partc.codegen.kernels import reduce as kernels

torch = pytest.importorskip("torch")

REFERENCES: dict[str, Callable[..., Any]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
    "variance": lambda x, axes, keepdims: torch.var(x, axes, correction=0, keepdim=keepdims),
    "std": lambda x, axes, keepdims: torch.std(x, axes, correction=0, keepdim=keepdims),
}


@given(
    kind=st.sampled_from(sorted(REFERENCES)),
    shape=shapes,
    keepdims=st.booleans(),
    target_name=st.sampled_from(X86),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_reductions_agree_with_float64(
    kind: str, shape: list[int], keepdims: bool, target_name: str, data: st.DataObject
) -> None:
    axes = data.draw(st.sets(st.integers(-len(shape), len(shape) - 1), min_size=1).map(sorted))
    assume(len({axis % len(shape) for axis in axes}) == len(axes))
    (x,) = randoms(tuple(shape))
    kernel = compile_function(
        lambda x, machine: kernels.reduce(kind, x, axes, keepdims, machine), [x.shape], target_name
    )
    wanted = in_float64(lambda x: REFERENCES[kind](x, axes, keepdims), [x])
    scale = np.abs(x).sum() / wanted.size if kind == "sum" else 1
    np.testing.assert_allclose(kernel(x), wanted, rtol=2e-6, atol=2e-6 * scale)


def test_no_axes_are_all_axes() -> None:
    (x,) = randoms((3, 4, 5))
    kernel = compile_function(
        lambda x, machine: kernels.reduce("mean", x, [], False, machine), [x.shape], "x86-64"
    )
    assert kernel(x).shape == ()
    np.testing.assert_allclose(kernel(x), x.mean(dtype=np.float64), rtol=1e-6)


def test_products_agree_with_float64() -> None:
    x = np.random.default_rng(0).uniform(0.8, 1.25, (5, 37)).astype(np.float32)
    kernel = compile_function(
        lambda x, machine: kernels.reduce("prod", x, [1], False, machine), [x.shape], "x86-64-v3"
    )
    np.testing.assert_allclose(kernel(x), x.astype(np.float64).prod(1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
@pytest.mark.parametrize(("shape", "axis"), [((7, 83), 1), ((2, 19, 32), 1), ((5,), 0)])
def test_the_first_of_equal_extremes_is_found(kind: str, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).integers(-4, 4, shape).astype(np.float32)
    kernel = compile_function(
        lambda x, machine: kernels.reduce(kind, x, [axis], True, machine), [shape], "x86-64-v3"
    )
    wanted = getattr(np, kind)(x, axis=axis, keepdims=True)
    np.testing.assert_array_equal(kernel(x), wanted)
    assert kernel(x).dtype == np.int64


def test_a_row_of_no_numbers_has_its_extreme_within() -> None:
    kernel = compile_function(
        lambda x, machine: kernels.reduce("argmax", x, [1], False, machine), [(1, 20)], "x86-64"
    )
    assert kernel(np.full((1, 20), np.nan, np.float32)) == [0]


def test_extremes_of_infinities_and_of_integers() -> None:
    x = np.full((2, 21), -np.inf, np.float32)
    greatest = compile_function(
        lambda x, machine: kernels.reduce("max", x, [1], False, machine), [x.shape], "x86-64"
    )
    assert (greatest(x) == -np.inf).all()
    integers = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 50), np.int32)
    least = compile_function(
        lambda x, machine: kernels.reduce("min", x, [1], False, machine),
        [integers.shape],
        "x86-64",
        "int32",
    )
    np.testing.assert_array_equal(least(integers), integers.min(1))
