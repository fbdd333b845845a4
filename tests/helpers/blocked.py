"""Arrays in blocked layout, and windows to slide over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from partc.codegen.kernels.convolution_plan import Window


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def blocked(values: NDArray[Any], lanes: int, spare: int = 0) -> NDArray[Any]:
    """(N, C, ...) as (N, C/lanes + spare, ..., lanes), with NaN in lanes that are no channel."""
    batch, channels, *plane = values.shape
    blocks = -(-channels // lanes) + spare
    padded = np.full((batch, blocks * lanes, *plane), np.nan, np.float32)
    padded[:, :channels] = values
    return np.ascontiguousarray(np.moveaxis(padded.reshape(batch, -1, lanes, *plane), 2, -1))


def plain(values: NDArray[Any], channels: int) -> NDArray[Any]:
    batch, blocks, *plane, lanes = values.shape
    return np.moveaxis(values, -1, 2).reshape(batch, blocks * lanes, *plane)[:, :channels]


@st.composite
def planes(draw: st.DrawFn) -> tuple[int, ...]:
    """(N, C, H, W) of data."""
    return tuple(draw(st.integers(1, largest)) for largest in (2, 37, 20, 40))


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Window:
    """Windows that a plane holds; their padding is shorter than they are."""
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    before = [draw(st.integers(0, (span - 1) // 2)) for span in spans]
    after = [
        draw(st.integers(max(0, span - size - start), max((span - 1) // 2, span - size - start)))
        for span, size, start in zip(spans, (height, width), before, strict=True)
    ]
    return Window(kernel, strides, dilation, (before[0], before[1], after[0], after[1]))
