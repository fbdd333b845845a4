from __future__ import annotations

import math

import numpy as np
from blocked import blocked, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import X86, compile_kernel, machine_of
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels import lrn as kernels


def normalise(x: NDArray[np.float64], response: kernels.Response) -> NDArray[np.float64]:
    """What ONNX says, word for word."""
    result = np.empty_like(x)
    for c in range(x.shape[1]):
        first = max(0, c - (response.size - 1) // 2)
        last = min(x.shape[1] - 1, c + math.ceil((response.size - 1) / 2))
        squares = (x[:, first : last + 1] ** 2).sum(1)
        base = response.bias + response.alpha / response.size * squares
        result[:, c] = x[:, c] / base**response.beta
    return result


@given(
    channels=st.integers(1, 40),
    batch=st.integers(1, 2),
    plane=st.tuples(st.integers(1, 5), st.integers(1, 40)),
    response=st.builds(
        kernels.Response,
        size=st.integers(1, 9),
        alpha=st.sampled_from([1e-4, 0.5]),
        beta=st.sampled_from([0.75, 0.5, 0.6]),
        bias=st.sampled_from([1.0, 2.0]),
    ),
    is_blocked=st.booleans(),
    target_name=st.sampled_from(X86),
)
@settings(max_examples=16, deadline=None)
def test_local_responses_agree_with_their_definition(
    channels: int,
    batch: int,
    plane: tuple[int, int],
    response: kernels.Response,
    is_blocked: bool,
    target_name: str,
) -> None:
    machine = machine_of(target_name)
    values = np.random.default_rng(0).normal(0, 3, (batch, channels, *plane)).astype(np.float32)
    data = blocked(values, machine.lanes) if is_blocked else values
    x = te.placeholder(data.shape, name="x")
    y = kernels.lrn(x, channels, response, machine)
    result = compile_kernel([x], y, target_name)(data)
    np.testing.assert_allclose(
        plain(result, channels) if is_blocked else result,
        normalise(values.astype(np.float64), response),
        rtol=3e-6,
    )


def test_channels_of_the_next_image_are_no_neighbours() -> None:
    machine, response = machine_of("x86-64"), kernels.Response(5, 0.5, 0.75, 1.0)
    values = np.random.default_rng(0).normal(0, 3, (2, 16, 2, 3)).astype(np.float32)
    x = te.placeholder((2, 4, 2, 3, 4), name="x")
    kernel = compile_kernel([x], kernels.lrn(x, 16, response, machine), "x86-64")
    np.testing.assert_allclose(
        plain(kernel(blocked(values, 4)), 16),
        normalise(values.astype(np.float64), response),
        rtol=3e-6,
    )


def test_a_window_longer_than_a_block_reaches_over_several() -> None:
    machine, response = machine_of("x86-64"), kernels.Response(13, 0.5, 0.75, 1.0)
    values = np.random.default_rng(0).normal(0, 3, (1, 21, 2, 3)).astype(np.float32)
    x = te.placeholder((1, 6, 2, 3, 4), name="x")
    kernel = compile_kernel([x], kernels.lrn(x, 21, response, machine), "x86-64")
    np.testing.assert_allclose(
        plain(kernel(blocked(values, 4)), 21),
        normalise(values.astype(np.float64), response),
        rtol=3e-6,
    )
