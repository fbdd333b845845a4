# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""Depthwise convolution in blocked layout: every channel has a kernel of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import te

from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.sliding import Tensor, crop, slide
from partc.codegen.machine import Machine


def depthwise_conv2d(data: Tensor, weight: Tensor, window: Window, machine: Machine) -> Tensor:
    """Convolve every channel with its own kernel.

    Args:
        data: (N, C/lanes, H, W, lanes).
        weight: (C/lanes, KH, KW, lanes), as ``pack_depthwise_weight`` lays it out.
        window: How the kernel moves.
        machine: What to tile for.

    Returns:
        (N, C/lanes, height, width, lanes).
    """
    height, width = window.output(int(data.shape[2]), int(data.shape[3]))
    sums = slide(
        data,
        window,
        (height, width),
        machine,
        reduction=te.sum,
        element=lambda value, c, ky, kx, v: value * weight[c, ky, kx, v],
        outside=0.0,
    )
    return crop(sums, width)


def pack_depthwise_weight(weight: NDArray[np.float32], lanes: int) -> NDArray[np.float32]:
    """Lay a (C, 1, KH, KW) weight out as (C/lanes, KH, KW, lanes), with zeros in excess lanes."""
    channels, _, height, width = weight.shape
    padded = np.pad(weight[:, 0], ((0, -channels % lanes), (0, 0), (0, 0)))
    blocks = padded.reshape(-1, lanes, height, width)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1))
