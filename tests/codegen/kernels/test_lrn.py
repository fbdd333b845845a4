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


def check(
    shape: tuple[int, ...], response: kernels.Response, target_name: str, spare: int = 0
) -> None:
    machine, channels = machine_of(target_name), shape[1]
    values = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    data = blocked(values, machine.lanes, spare)
    x = te.placeholder(data.shape, name="x")
    kernel = compile_kernel([x], kernels.lrn(x, channels, response, machine), target_name)
    expected = normalise(values.astype(np.float64), response)
    np.testing.assert_allclose(plain(kernel(data), channels), expected, rtol=3e-6)


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
    spare=st.integers(0, 1),
    target_name=st.sampled_from(X86),
)
@settings(max_examples=16, deadline=None)
def test_local_responses_agree_with_their_definition(
    channels: int,
    batch: int,
    plane: tuple[int, int],
    response: kernels.Response,
    spare: int,
    target_name: str,
) -> None:
    check((batch, channels, *plane), response, target_name, spare)


def test_channels_of_the_next_image_are_no_neighbours() -> None:
    check((2, 16, 2, 3), kernels.Response(5, 0.5, 0.75, 1.0), "x86-64")


def test_a_window_longer_than_a_block_reaches_over_several() -> None:
    check((1, 21, 2, 3), kernels.Response(13, 0.5, 0.75, 1.0), "x86-64")


def test_spare_blocks_are_no_neighbours() -> None:
    check((1, 16, 2, 3), kernels.Response(5, 0.5, 0.75, 1.0), "x86-64", spare=1)
