# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# TVM ships no types
"""Depthwise convolution in blocked layout: every channel has a kernel of its own."""

from __future__ import annotations

from tvm import te

from partc.codegen.kernels.common import Tensor
from partc.codegen.kernels.convolution_plan import Window
from partc.codegen.kernels.sliding import crop, slide
from partc.codegen.machine import Machine


def depthwise_conv2d(data: Tensor, weight: Tensor, window: Window, machine: Machine) -> Tensor:
    """Convolve every channel with its own kernel.

    Args:
        data: (N, C/lanes, H, W, lanes).
        weight: (C/lanes, KH, KW, lanes), channels where those of the data lie.
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
