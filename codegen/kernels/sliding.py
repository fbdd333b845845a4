# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""A window that slides over the plane of every channel: depthwise convolution and pooling.

Data are (N, C/lanes, H, W, lanes). A few neighbouring pixels of the output stay in registers while
the window is walked. Padding is never stored: each load knows whether it falls into the plane, and
where it always does, the condition is gone from the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from tvm import te, tirx

from partc.codegen.kernels.common import (
    PARTITION,
    Block,
    Loop,
    Sch,
    Tensor,
    anchor_attrs,
    divisors,
    extent,
    fuse_tail,
    round_up,
    tile_of,
    unroll_inner,
)
from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.machine import Machine

RULE = "sliding window"

Expression: TypeAlias = Any

# Two additions a cycle, each with a latency of four, keep this many sums under way.
_MAX_TILE = 8

# Waking the other threads takes a microsecond or two, in which one makes this many vector steps.
_SERIAL_STEPS = 1 << 14

# Shares of work, so that few threads get about the same each.
_MIN_SHARES = 16


def slide(
    data: Tensor,
    window: Window,
    output: tuple[int, int],
    machine: Machine,
    reduction: Callable[..., Expression],
    element: Callable[..., Expression],
    outside: Expression,
) -> Tensor:
    """Reduce what a window covers, per channel.

    Args:
        data: (N, C/lanes, H, W, lanes).
        window: How the window moves.
        output: Height and width of the result.
        machine: What to tile for.
        reduction: ``te.sum`` or ``te.max``.
        element: What to reduce, of an element of the data and of the (C/lanes, KH, KW, lanes)
            indices it is under.
        outside: What to reduce where the window leaves the plane.

    Returns:
        (N, C/lanes, height, at least width, lanes); ``crop`` takes the excess columns off.
    """
    batch, blocks, rows, columns, lanes = map(int, data.shape)
    height, width = output
    tile = tile_width(width, machine)
    ky: Expression = te.reduce_axis((0, window.kernel[0]), "ky")
    kx: Expression = te.reduce_axis((0, window.kernel[1]), "kx")

    def covered(
        n: Expression, c: Expression, h: Expression, w: Expression, v: Expression
    ) -> Expression:
        y = h * window.strides[0] + ky * window.dilation[0] - window.padding[0]
        x = w * window.strides[1] + kx * window.dilation[1] - window.padding[1]
        inside = tirx.all(y >= 0, y < rows, x >= 0, x < columns)
        value = element(data[n, c, y, x, v], c, ky, kx, v)
        return reduction(tirx.if_then_else(inside, value, outside), axis=[ky, kx])

    shape = (batch, blocks, height, round_up(width, tile), lanes)
    return te.compute(shape, covered, name="window", attrs=anchor_attrs(RULE, (tile,)))


def tile_width(width: int, machine: Machine) -> int:
    """How many neighbours to compute at once: many, even where some of them go to waste."""
    return min(_MAX_TILE, machine.registers // 2, width)


def crop(
    result: Tensor, width: int, finish: Callable[..., Expression] = lambda value, _h, _w: value
) -> Tensor:
    """Take off the columns beyond ``width``, and apply ``finish(value, row, column)``."""
    batch, blocks, height, _, lanes = map(int, result.shape)
    return te.compute(
        (batch, blocks, height, width, lanes),
        lambda n, c, h, w, v: finish(result[n, c, h, w, v], h, w),
        name="crop",
    )


def schedule_sliding(schedule: Sch, anchor: Block, machine: Machine) -> None:
    """Schedule a sliding window and the element-wise blocks behind it."""
    (tile,) = tile_of(schedule, anchor)
    worthwhile = is_worth_threads(schedule, anchor, machine)
    tail = fuse_tail(schedule, anchor)
    n, c, h, w, _ = schedule.get_loops(tail)
    tiles, _ = schedule.split(w, [None, tile])
    if worthwhile:
        shares, _ = schedule.split(h, [_shares(schedule, n, c, h), None])
        schedule.parallel(schedule.fuse(n, c, shares))
    schedule.compute_at(anchor, tiles, preserve_unit_loops=True)
    *_, pixels, lanes, ky, kx = schedule.get_loops(anchor)
    schedule.reorder(ky, kx, pixels, lanes)
    unroll_inner(schedule, anchor, 2)
    schedule.annotate(tiles, PARTITION, 1)
    unroll_inner(schedule, schedule.decompose_reduction(anchor, ky), 1)
    unroll_inner(schedule, tail, 1)


def is_worth_threads(schedule: Sch, block: Block, machine: Machine) -> bool:
    """Whether a block has more work than it takes to share it out."""
    steps = math.prod(extent(schedule, loop) for loop in schedule.get_loops(block))
    return steps // machine.lanes >= _SERIAL_STEPS


def _shares(schedule: Sch, n: Loop, c: Loop, h: Loop) -> int:
    """In how many bands to cut the planes: none if there are planes enough."""
    planes = extent(schedule, n) * extent(schedule, c)
    height = extent(schedule, h)
    return next((count for count in divisors(height) if planes * count >= _MIN_SHARES), height)
