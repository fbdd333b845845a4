# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# TVM ships no types
"""Local response normalisation: each channel is divided by a power of its neighbours' squares.

A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks" (2012), section 3.3.

The squares of a few pixels go to a buffer first, with zeros around the channels, so that a window
over channels is a sum of vectors wherever it starts.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import te, tirx

from partc.codegen.kernels import mathematics
from partc.codegen.kernels.common import Block, Sch, anchor_attrs, fuse_tail, tile_of
from partc.codegen.kernels.mathematics import Scalar, f32
from partc.codegen.kernels.vectors import vectorize_along
from partc.codegen.machine import Machine

RULE = "lrn"


@dataclass(frozen=True)
class Response:
    """How local responses are normalised, as ONNX defines it.

    A value is divided by (bias + alpha / size * sum)^beta; the sum is over the squares of ``size``
    channels around its own, the further of them behind it where ``size`` is even.
    """

    size: int
    alpha: float
    beta: float
    bias: float

    @property
    def before(self) -> int:
        """How many channels before its own a window starts."""
        return (self.size - 1) // 2

    def scale(self, squares: Scalar) -> Scalar:
        """What to multiply a value with, whose window holds this sum of squares."""
        base = f32(self.bias) + squares * f32(self.alpha / self.size)
        return mathematics.power_of_positive(base, -self.beta)


def lrn(x: te.Tensor, channels: int, response: Response, machine: Machine) -> te.Tensor:
    """Normalise local responses.

    Args:
        x: (N, C/lanes, H, W, lanes).
        channels: C.
        response: How.
        machine: The CPU.

    Returns:
        What has the shape of ``x``.
    """
    n, blocks, height, width, lanes = (int(size) for size in x.shape)
    margin = math.ceil((response.size - 1) / 2 / lanes)

    def square(n: Scalar, h: Scalar, w: Scalar, block: Scalar, lane: Scalar) -> Scalar:
        value = mathematics.power(x(n, block - margin, h, w, lane), 2)
        if channels < blocks * lanes:
            channel = (block - margin) * lanes + lane
            value = tirx.Select(channel < channels, value, f32(0))
        within = tirx.all(block >= margin, block < margin + blocks)
        return tirx.if_then_else(within, value, f32(0))

    padded = blocks + 2 * margin
    pixels = max(1, machine.l1_nbytes // 2 // (padded * machine.vector_nbytes))
    tile = max(size for size in range(1, pixels + 1) if width % size == 0)
    squares = te.compute(
        (n, height, width, padded, lanes),
        square,
        name="squares",
        attrs=anchor_attrs(RULE, (tile,)),
    )

    def normalised(n: Scalar, block: Scalar, h: Scalar, w: Scalar, lane: Scalar) -> Scalar:
        first = (block + margin) * lanes + lane - response.before
        window = [first + step for step in range(response.size)]
        total = _sum_of([squares(n, h, w, each // lanes, each % lanes) for each in window])
        return x(n, block, h, w, lane) * response.scale(total)

    return te.compute(x.shape, normalised, name="lrn")


def _sum_of(values: Sequence[Scalar]) -> Scalar:
    return functools.reduce(operator.add, values)


def schedule_lrn(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """The squares of a row of pixels, or of a part of one, then what divides by them."""
    (tile,) = tile_of(schedule, anchor)
    tail = fuse_tail(schedule, anchor)
    n, c, h, w, lane = schedule.get_loops(tail)
    w_outer, w_inner = schedule.split(w, [None, tile])
    schedule.reorder(n, h, w_outer, c, w_inner, lane)
    pixels = schedule.fuse(n, h, w_outer)
    schedule.parallel(pixels)
    schedule.compute_at(anchor, pixels, preserve_unit_loops=True)
    *_, w, c, _ = schedule.get_loops(anchor)
    schedule.reorder(c, w)
    for block in (anchor, tail):
        vectorize_along(schedule, schedule.get_loops(block)[-1], machine.lanes)
