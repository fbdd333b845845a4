"""The numbers of an operator that its cost depends on and the shapes around it do not tell."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false
# pyright: reportOptionalSubscript=false, reportOptionalMemberAccess=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from tvm import relax

from partc.passes.expressions import op_name, shape_of

_ALONG_AN_AXIS = frozenset(
    "argmax argmin concat cumprod cumsum flip gather_elements index_tensor layer_norm log_softmax "
    "max mean min prod repeat rms_norm scatter_elements softmax split std stack strided_slice sum "
    "take variance".split()
)


def anchor_parameters(call: relax.Call) -> Mapping[str, int]:
    """The numbers of a layer's anchor.

    Returns:
        For a convolution ``kernel``, ``kernel_width`` (elements of the kernel, and of its last
        axis), ``stride`` (the product of all axes), ``dilation``, ``groups`` and ``out_width``, the
        length of a row that it makes; unless it is transposed also ``filters`` (output channels of
        each group), ``inside`` and ``outside``: elements of the plane and of its padding that are
        under the kernel, summed over all its places. For pooling ``kernel``, ``kernel_width``,
        ``stride``, ``out_width``, ``inside`` and ``outside``. For a matrix product ``rows``,
        ``inner`` and ``columns``, of the last two axes. For what works along axes ``run``, the
        elements that lie in memory between two neighbours along the last of them. For a
        transposition ``run``, the elements that stay neighbours. For resizing ``linear``, 2 if it
        interpolates. For anything else nothing.
    """
    name = op_name(call)
    if name.startswith("conv"):
        return _convolution(call)
    if name.endswith(("_pool1d", "_pool2d", "_pool3d")) and not name.startswith("adaptive"):
        kernel = [int(each) for each in call.attrs["pool_size"]]
        return {
            **_window(kernel, call.attrs["strides"]),
            **_out_width(call),
            **_covered(call, kernel),
        }
    if name == "matmul":
        return _matmul(call)
    if name == "resize2d":
        return {"linear": 1 if str(call.attrs["method"]) == "nearest_neighbor" else 2}
    if name == "permute_dims":
        return {"run": _stationary(call)}
    if name in _ALONG_AN_AXIS:
        return {"run": _run(call)}
    return {}


def _convolution(call: relax.Call) -> Mapping[str, int]:
    layout, weight = str(call.attrs["kernel_layout"]), shape_of(call.args[1])
    kernel = [extent for axis, extent in zip(layout, weight, strict=True) if axis in "DHW"]
    groups = int(call.attrs["groups"])
    numbers = {
        **_window(kernel, call.attrs["strides"]),
        "dilation": math.prod(int(each) for each in call.attrs["dilation"]),
        "groups": groups,
        **_out_width(call),
    }
    if "transpose" in op_name(call):
        return numbers
    filters = weight[layout.index("O")] // groups
    return {**numbers, "filters": filters, **_covered(call, kernel)}


def _window(kernel: Sequence[int], strides: Sequence[int]) -> dict[str, int]:
    return {
        "kernel": math.prod(kernel),
        "kernel_width": kernel[-1],
        "stride": math.prod(int(each) for each in strides),
    }


def _covered(call: relax.Call, kernel: Sequence[int]) -> Mapping[str, int]:
    """How much of the plane, and of its padding, a window is over in all its places together."""
    sizes, places = shape_of(call.args[0])[-len(kernel) :], shape_of(call)[-len(kernel) :]
    strides, dilation, padding = (
        [int(each) for each in call.attrs[name]][: len(kernel)]
        for name in ("strides", "dilation", "padding")
    )
    axes = zip(sizes, places, kernel, strides, dilation, padding, strict=True)
    inside = math.prod(_covered_along(*axis) for axis in axes)
    return {"inside": inside, "outside": math.prod(places) * math.prod(kernel) - inside}


def _covered_along(
    size: int, places: int, taps: int, stride: int, dilation: int, padding: int
) -> int:
    """The same along an axis, of the plane alone, with so much padding before it.

    Each tap is over the plane at a range of places, whose ends are divisions rounded up: to look at
    every place of every tap would take gigabytes for long kernels over sound.
    """
    starts = dilation * np.arange(taps) - padding
    first = np.maximum(-(starts // stride), 0)
    after = np.minimum(-((starts - size) // stride), places)
    return int(np.maximum(after - first, 0).sum())


def _out_width(call: relax.Call) -> dict[str, int]:
    return {"out_width": shape_of(call)[-1]}


def _matmul(call: relax.Call) -> Mapping[str, int]:
    left, right = (shape_of(arg) for arg in call.args)
    return {
        "rows": (1, *left)[-2],
        "inner": left[-1],
        "columns": right[-1] if len(right) > 1 else 1,
    }


def _stationary(call: relax.Call) -> int:
    """Elements of the axes at the end that a transposition leaves there."""
    shape = shape_of(call.args[0])
    axes = call.attrs["axes"]
    order = [int(axis) for axis in axes] if axes else list(reversed(range(len(shape))))
    run, last = 1, len(shape)
    while last and order[last - 1] == last - 1:
        last -= 1
        run *= shape[last]
    return run


def _run(call: relax.Call) -> int:
    """Elements behind the last axis that an operator works along."""
    first = call.args[0]
    if op_name(call) == "stack":
        shape = shape_of(call)  # the axis is one that it makes
    else:
        shape = shape_of(first.fields[0] if isinstance(first, relax.Tuple) else first)
    last = max((axis % len(shape) for axis in _axes(call)), default=len(shape) - 1)
    return math.prod(shape[last + 1 :])


def _axes(call: relax.Call) -> Sequence[int]:
    """The axes that an operator is given; none stands for all, or for the only one."""
    name = op_name(call)
    if name == "strided_slice":
        return [int(axis.value) for axis in call.args[1].fields]
    if name == "index_tensor":
        return range(len(call.args[1].fields))
    axes = getattr(call.attrs, "axis", None)
    if axes is None:
        axes = getattr(call.attrs, "axes", None)
    if axes is None:
        return ()
    return [int(axes)] if isinstance(axes, int) else [int(axis) for axis in axes]
