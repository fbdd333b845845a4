# pyright: reportMissingTypeStubs=false
"""Temporary."""

from __future__ import annotations
import math
import numpy as np
from tvm import te, tirx


def to_blocked(x, machine):
    n, c, h, w = (int(v) for v in x.shape)
    L = machine.lanes
    return te.compute(
        (n, math.ceil(c / L), h, w, L),
        lambda b, o, i, j, v: (
            tirx.if_then_else(o * L + v < c, x[b, o * L + v, i, j], 0.0)
            if c % L
            else x[b, o * L + v, i, j]
        ),
        name="to_blocked",
    )


def to_plain(x, channels, machine):
    n, _, h, w, L = (int(v) for v in x.shape)
    return te.compute(
        (n, channels, h, w), lambda b, c, i, j: x[b, c // L, i, j, c % L], name="to_plain"
    )


def pack_channels(array, lanes):
    n, c, h, w = array.shape
    blocks = math.ceil(c / lanes)
    padded = np.zeros((n, blocks * lanes, h, w), array.dtype)
    padded[:, :c] = array
    return np.ascontiguousarray(padded.reshape(n, blocks, lanes, h, w).transpose(0, 1, 3, 4, 2))


def blocked_shape(shape, lanes):
    n, c, h, w = shape
    return (n, math.ceil(c / lanes), h, w, lanes)
