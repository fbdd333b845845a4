# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""Winograd's convolution for 3x3 kernels with stride 1: fewer multiply-adds, more additions.

Each tile of the output, tile x tile pixels, comes from tile + 2 input pixels a side. Input tiles
are transformed to (tile + 2)^2 positions; at every position channels are multiplied by weights, as
one matrix product over all tiles; and the products are transformed back. Transformed tiles take
up to nine times the room of the plane, so rows of tiles go through in groups that stay in the
second-level cache.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (CVPR 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te, tirx

from partc.codegen.kernels.common import (
    STACK,
    TILE,
    Block,
    Loop,
    Sch,
    Tensor,
    anchor_attrs,
    fuse_tail,
    tile_of,
    unroll_inner,
)
from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.winograd_plan import Layer, Plan, plan_winograd
from partc.codegen.kernels.winograd_transform import (
    KERNEL,
    transform_input,
    transform_output,
    transform_weight,
)
from partc.codegen.layout import Runs
from partc.codegen.machine import Machine

RULE = "winograd"

_compute: Any = te.compute


def winograd_conv2d(
    data: Tensor, weight: Tensor, window: Window, machine: Machine, runs: Runs
) -> Tensor:
    """Convolve blocked data with a 3x3 kernel, stride 1 and dilation 1, giving blocked data.

    Args:
        data: (N, >= C/lanes, H, W, lanes); what is behind channel C may be anything.
        weight: What :func:`pack_winograd_weight` returned, (O/lanes, (tile+2)^2, C, lanes).
        window: The kernel's padding.
        machine: What to divide the work for.
        runs: Where the channels lie.

    Returns:
        (N, O/lanes, OH, OW, lanes).
    """
    batch, _, height, width, lanes = (int(size) for size in data.shape)
    out_blocks, positions, channels, _ = (int(size) for size in weight.shape)
    out_height, out_width = window.output(height, width)
    layer = Layer(batch, channels, out_blocks * lanes, out_height, out_width)
    plan = plan_winograd(layer, math.isqrt(positions) - KERNEL + 1, machine)
    transformed = _transformed_input(data, window, plan, layer)
    product = _multiplied(transformed, weight, runs)
    convolved = _transformed_output(product, plan)
    return _compute(
        (batch, out_blocks, out_height, out_width, lanes),
        lambda *at: convolved(*at),
        name="winograd_cropped",
    )


def pack_winograd_weight(weight: NDArray[Any], tile: int, lanes: int) -> NDArray[np.float32]:
    """Transform (O, C, 3, 3) to (O/lanes, (tile+2)^2, C, lanes), with zeros behind O."""
    out_channels, channels = weight.shape[:2]
    blocks = math.ceil(out_channels / lanes)
    positions = (tile + KERNEL - 1) ** 2
    packed = np.zeros((blocks * lanes, channels, positions), np.float32)
    packed[:out_channels] = transform_weight(weight, tile).reshape(out_channels, channels, -1)
    split = packed.reshape(blocks, lanes, channels, positions)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 1))


def _transformed_input(data: Tensor, window: Window, plan: Plan, layer: Layer) -> Tensor:
    """(N, groups down, groups across, side, side, register tiles, C/lanes, pixels, lanes)."""
    batch, blocks, height, width, lanes = (int(size) for size in data.shape)
    side = plan.tile + KERNEL - 1
    groups = plan.groups(layer)
    top, left = window.padding[:2]

    def read(n: Any, p: Any, q: Any, c: Any, j: Any, i: Any, x: Any, y: Any, lane: Any) -> Any:
        index = j * plan.pixels + i
        h = (p * plan.rows + index // plan.columns) * plan.tile + y - top
        w = (q * plan.columns + index % plan.columns) * plan.tile + x - left
        inside = tirx.all(h >= 0, h < height, w >= 0, w < width)
        return tirx.if_then_else(inside, data[n, c, h, w, lane], 0.0)

    tiles = (batch, *groups, blocks, plan.register_tiles, plan.pixels)
    patch = _compute((*tiles, side, side, lanes), read, name="winograd_patch")
    columns = _compute(
        (*tiles, side, side, lanes),
        lambda *at: _pick(
            at[-2],
            transform_input(plan.tile, [patch[(*at[:-2], k, at[-1])] for k in range(side)]),
        ),
        name="winograd_input_columns",
    )
    return _compute(
        (batch, *groups, side, side, plan.register_tiles, blocks, plan.pixels, lanes),
        lambda n, p, q, y, x, j, c, i, lane: _pick(
            x,
            transform_input(
                plan.tile, [columns[n, p, q, c, j, i, k, y, lane] for k in range(side)]
            ),
        ),
        name="winograd_input",
    )


def _multiplied(transformed: Tensor, weight: Tensor, runs: Runs) -> Tensor:
    """(N, groups down, groups across, O/lanes, side, side, register tiles, pixels, lanes)."""
    *groups, side, _, register_tiles, _, pixels, lanes = map(int, transformed.shape)
    out_blocks, _, channels, _ = map(int, weight.shape)
    c: Any = te.reduce_axis((0, channels), "c")
    return _compute(
        (*groups, out_blocks, side, side, register_tiles, pixels, lanes),
        lambda n, p, q, o, y, x, j, i, lane: te.sum(
            transformed[n, p, q, y, x, j, runs.slot(c) // lanes, i, runs.slot(c) % lanes]
            * weight[o, y * side + x, c, lane],
            axis=c,
        ),
        name="winograd_product",
        attrs={TILE: [runs.step(channels, lanes)]},
    )


def _transformed_output(product: Tensor, plan: Plan) -> Tensor:
    """(N, O/lanes, H, W, lanes), height and width rounded up to whole tiles and groups."""
    batch, down, across, out_blocks, side, _, *tiles, lanes = map(int, product.shape)
    tile = plan.tile
    columns = _compute(
        (batch, down, across, out_blocks, *tiles, side, tile, lanes),
        lambda n, p, q, o, j, i, x, y, lane: _pick(
            y, transform_output(tile, [product[n, p, q, o, k, x, j, i, lane] for k in range(side)])
        ),
        name="winograd_output_columns",
    )

    def pixel(n: Any, o: Any, h: Any, w: Any, lane: Any) -> Any:
        row, column = h // tile, w // tile
        index = row % plan.rows * plan.columns + column % plan.columns
        group = (n, row // plan.rows, column // plan.columns)
        at = (*group, o, index // plan.pixels, index % plan.pixels)
        values = [columns[(*at, k, h % tile, lane)] for k in range(side)]
        return _pick(w % tile, transform_output(tile, values))

    return _compute(
        (batch, out_blocks, down * plan.rows * tile, across * plan.columns * tile, lanes),
        pixel,
        name="winograd",
        attrs=anchor_attrs(RULE, (tile, plan.rows, plan.columns, plan.blocks, int(plan.whole))),
    )


def _pick(index: Any, values: Sequence[Any]) -> Any:
    """The value at an index, which is a constant once its loop is unrolled."""
    *before, picked = values
    for position, value in reversed(list(enumerate(before))):
        picked = tirx.Select(index == position, value, picked)
    return picked


def schedule_winograd(schedule: Sch, anchor: Block, machine: Machine) -> None:  # noqa: ARG001
    """Groups of tiles in parallel, or channel blocks of them if the input is transformed whole."""
    tile, rows, columns, blocks, whole = tile_of(schedule, anchor)
    output = _producer(schedule, anchor)
    product = _producer(schedule, output)
    transformed = _producer(schedule, product)
    tail = fuse_tail(schedule, anchor)
    n, o, h, w, lane = schedule.get_loops(tail)
    o_outer, o_inner = schedule.split(o, [None, blocks])
    down, row, y = schedule.split(h, [None, rows, tile])
    across, column, x = schedule.split(w, [None, columns, tile])
    schedule.reorder(n, down, across, o_outer, o_inner, row, column, y, x, lane)
    outer = (n, down, across, o_outer) if whole else (n, down, across)
    parallel = schedule.fuse(*outer)
    schedule.parallel(parallel)
    for block in (anchor, output):
        schedule.compute_at(block, column, preserve_unit_loops=True)
        unroll_inner(schedule, block, 2)
    schedule.set_scope(output, 0, STACK)
    unroll_inner(schedule, tail, 2)
    schedule.compute_at(product, parallel if whole else o_outer, preserve_unit_loops=True)
    _schedule_product(schedule, product)
    _schedule_input(schedule, transformed, None if whole else parallel)


def _producer(schedule: Sch, block: Block) -> Block:
    """Where a block's first operand comes from."""
    return schedule.get_producers(block)[0]


def _schedule_product(schedule: Sch, product: Block) -> None:
    """Pixels by channel blocks in registers; channels of the input in the innermost loop."""
    (step,) = tile_of(schedule, product)
    stored = schedule.cache_write(product, 0, STACK)
    o, y, x, j, i, lane = schedule.get_loops(stored)[-6:]
    schedule.reorder(y, x, j, o, i, lane)
    unroll_inner(schedule, stored, 2)
    schedule.compute_at(product, j, preserve_unit_loops=True)
    o, y, x, j, i, lane, c = schedule.get_loops(product)[-7:]
    schedule.reorder(y, x, j, c, i, o, lane)
    unroll_inner(schedule, product, 2)
    # Channels of one block lie side by side, which a loop over them alone lets the compiler see.
    c_outer, _ = schedule.split(c, [None, step])
    unroll_inner(schedule, schedule.decompose_reduction(product, c_outer), 2)


def _schedule_input(schedule: Sch, transformed: Block, group: Loop | None) -> None:
    """One tile of one channel block at a time, in registers; in a loop of groups, or on its own."""
    columns = _producer(schedule, transformed)
    patch = _producer(schedule, columns)
    if group is not None:
        schedule.compute_at(transformed, group, preserve_unit_loops=True)
    *outer, y, x, j, c, i, lane = schedule.get_loops(transformed)
    schedule.reorder(c, j, i, y, x, lane)
    unroll_inner(schedule, transformed, 2)
    schedule.compute_at(columns, i, preserve_unit_loops=True)
    unroll_inner(schedule, columns, 2)
    schedule.compute_at(patch, schedule.get_loops(columns)[-3], preserve_unit_loops=True)
    unroll_inner(schedule, patch, 1)
    for block in (columns, patch):
        schedule.set_scope(block, 0, STACK)
    if group is None:
        schedule.parallel(schedule.fuse(*outer, c))
