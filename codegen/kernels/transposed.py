# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""Transposed convolution, as a direct one whose results are interleaved.

Output pixels whose positions leave the same remainder by the stride are reached by the same
elements of the kernel. Each of these phases is a convolution of stride 1 with its share of the
kernel, and all of them together are one convolution with as many more output channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels.common import Tensor
from partc.codegen.kernels.convolution_plan import Window


@dataclass(frozen=True)
class Transposition:
    """A transposed convolution without dilation; (height, width) of each.

    Args:
        kernel: The size of the kernel.
        strides: How far apart it is put down.
        crop: What is cut off at the top and at the left.
        output: The size of the plane that comes out.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    crop: tuple[int, int]
    output: tuple[int, int]

    @property
    def phases(self) -> int:
        return math.prod(self.strides)

    @property
    def taps(self) -> tuple[int, int]:
        """How many elements of the kernel reach a pixel."""
        taps = (math.ceil(k / s) for k, s in zip(self.kernel, self.strides, strict=True))
        return next(taps), next(taps)

    def window(self, height: int, width: int) -> Window:
        """The window of the convolution of all phases, over a plane of this size."""
        tops = [tap - 1 for tap in self.taps]
        ends = [
            max(0, math.ceil((output + crop) / stride) - size)
            for output, crop, stride, size in zip(
                self.output, self.crop, self.strides, (height, width), strict=True
            )
        ]
        return Window(self.taps, (1, 1), (1, 1), (tops[0], tops[1], ends[0], ends[1]))


def phase_weight(weight: NDArray[Any], groups: int, transposition: Transposition) -> NDArray[Any]:
    """The weight of the convolution of all phases.

    Args:
        weight: (C, O/groups, KH, KW).
        groups: Groups of channels.
        transposition: How the kernel is put down.

    Returns:
        (groups * phases * O/groups, C/groups, taps down, taps across).
    """
    channels, each, *kernel = weight.shape
    down, across = transposition.strides
    taps = transposition.taps
    padded = np.zeros((channels, each, taps[0] * down, taps[1] * across), weight.dtype)
    padded[:, :, : kernel[0], : kernel[1]] = weight
    # What lies further behind in the kernel is reached from further before in the input.
    split = padded.reshape(groups, channels // groups, each, taps[0], down, taps[1], across)[
        :, :, :, ::-1, :, ::-1
    ]
    phases = split.transpose(0, 4, 6, 2, 1, 3, 5)
    return np.ascontiguousarray(phases.reshape(-1, channels // groups, *taps))


def interleave(data: Tensor, groups: int, channels: int, transposition: Transposition) -> Tensor:
    """Put the pixels of all phases where they belong.

    Args:
        data: (N, blocks, H, W, lanes), the phases of each group one after the other, each group
            from the beginning of a block on.
        groups: Groups of channels.
        channels: O, the channels of the result.
        transposition: How the kernel was put down.

    Returns:
        Plain, (N, O, OH, OW).
    """
    batch, blocks, _, _, lanes = (int(size) for size in data.shape)
    each, (down, across) = channels // groups, transposition.strides
    top, left = transposition.crop

    def pixel(n: Any, o: Any, h: Any, w: Any) -> Any:
        row, column = h + top, w + left
        phase = row % down * across + column % across
        slot = o // each * (blocks // groups * lanes) + phase * each + o % each
        return data(n, slot // lanes, row // down, column // across, slot % lanes)

    return te.compute((batch, channels, *transposition.output), pixel, name="interleave")


def interleave_blocked(data: Tensor, transposition: Transposition) -> Tensor:
    """Put the pixels of all phases where they belong, in blocked layout.

    Args:
        data: (N, phases * O/lanes, H, W, lanes), each phase from the beginning of a block on.
        transposition: How the kernel was put down.

    Returns:
        (N, O/lanes, OH, OW, lanes).
    """
    batch, blocks, _, _, lanes = (int(size) for size in data.shape)
    each, (down, across) = blocks // transposition.phases, transposition.strides
    top, left = transposition.crop

    def pixel(n: Any, o: Any, h: Any, w: Any, lane: Any) -> Any:
        row, column = h + top, w + left
        phase = row % down * across + column % across
        return data(n, phase * each + o, row // down, column // across, lane)

    return te.compute((batch, each, *transposition.output, lanes), pixel, name="interleave")
