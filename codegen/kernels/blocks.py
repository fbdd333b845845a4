# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""What moves the elements of blocked data."""

from __future__ import annotations

from tvm import te

from partc.codegen.kernels.common import Tensor


def scatter_channels(data: Tensor, channels: Tensor, lanes: int) -> Tensor:
    """Bring plain data into blocked layout.

    Args:
        data: (N, C, H, W).
        channels: What each slot of the result holds, (blocks * lanes,) of int32.
        lanes: Slots of a block.

    Returns:
        (N, blocks, H, W, lanes).
    """
    batch, _, *plane = data.shape
    return te.compute(
        (batch, channels.shape[0] // lanes, *plane, lanes),
        lambda n, o, h, w, lane: data(n, channels[o * lanes + lane], h, w),
        name="scatter_channels",
    )


def gather_channels(data: Tensor, slots: Tensor) -> Tensor:
    """Bring blocked data into plain layout.

    Args:
        data: (N, blocks, H, W, lanes).
        slots: Where each channel lies, (C,) of int32.

    Returns:
        (N, C, H, W).
    """
    batch, _, *plane, lanes = data.shape
    return te.compute(
        (batch, slots.shape[0], *plane),
        lambda n, c, h, w: data(n, slots[c] // lanes, h, w, slots[c] % lanes),
        name="gather_channels",
    )


def repeat_pixels(data: Tensor, factors: tuple[int, int]) -> Tensor:
    """Repeat each pixel of (N, blocks, H, W, lanes), so often down and so often across."""
    batch, blocks, height, width, lanes = data.shape
    down, across = factors
    return te.compute(
        (batch, blocks, height * down, width * across, lanes),
        lambda n, o, h, w, lane: data(n, o, h // down, w // across, lane),
        name="repeat_pixels",
    )
