"""Families: layers whose time has like reasons, and what it depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping

from partc.graph import Layer

_VECTORISED = frozenset("erf exp gelu gelu_tanh log power selu sigmoid silu softplus tanh".split())
"""Those of many instructions that are polynomials in vectors, each about as long."""

COSTLY = _VECTORISED | frozenset(
    "acos acosh asin asinh atan atan2 atanh cos cosh log_add_exp sin sinh tan".split()
)
"""Operators that take many instructions for each element."""

_CHEAP = frozenset(
    "abs add bitwise_and bitwise_not bitwise_or bitwise_xor ceil clip divide equal ewise_fma floor "
    "greater greater_equal isfinite isinf isnan leakyrelu left_shift less less_equal logical_and "
    "logical_not logical_or logical_xor maximum minimum multiply negative not_equal prelu relu "
    "right_shift round rsqrt sign sqrt square subtract trunc where".split()
)
"""Operators of an instruction or two for a whole vector of elements."""

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_REDUCTIONS = frozenset(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d argmax argmin max mean median min "
    "prod std sum variance".split()
)
_SCANS = frozenset(("cumprod", "cumsum"))
_COPIES = frozenset("expand_dims flatten reshape squeeze".split())
_ALIKE = _VECTORISED | _CHEAP | _COPIES | {"permute_dims"}
_MOVES = frozenset(
    "astype broadcast_to expand_dims flatten flip full full_like gather_elements gather_nd "
    "index_tensor one_hot pad pixel_shuffle repeat reshape scatter_elements scatter_nd "
    "slice_scatter split squeeze stack tile".split()
)


def unlike_others(layer: Layer) -> tuple[str, ...]:
    """The layer's operators whose time says nothing of others', nor others' of theirs, sorted."""
    return tuple(sorted({layer.kind, *layer.ops} - _ALIKE))


def family(layer: Layer) -> str:
    """The layers that one regression can be fitted to: those that take time for like reasons."""
    kind = layer.kind
    if kind in _CONVOLUTIONS:
        return _convolution_family(layer)
    if kind == "depthwise_conv2d":
        alone = layer.outputs[0].type.shape[1:2] == (layer.parameters.get("groups"),)
        return "depthwise convolution" if alone else "grouped convolution"
    if "transpose" in kind and kind.startswith("conv"):
        return "transposed convolution"
    if kind == "matmul":
        return _product_family(layer)
    if "_pool" in kind and "adaptive" not in kind:
        return _pooling_family(layer)
    if kind in _REDUCTIONS:
        return _reduction_family(layer)
    if kind in _SCANS:
        return "scan"
    if kind.startswith("attention"):
        return "attention"
    if kind == "take" and layer.inputs[:1] and layer.inputs[0].type == layer.outputs[0].type:
        return "shuffle"
    if kind == "multiply" and "expand_dims" in layer.ops:
        return "squares"
    if kind in BY_FAMILY:
        return kind
    if kind in _COPIES and "permute_dims" not in layer.ops:
        return "copy"
    return "move" if kind in _MOVES else _element_wise_family(layer)


def _element_wise_family(layer: Layer) -> str:
    if not COSTLY.isdisjoint(layer.ops):
        return "function"
    made = layer.outputs[0].type.count
    spread = any(1 < tensor.type.count < made for tensor in layer.inputs)
    if not spread:
        return "element-wise"
    return "gating" if len(layer.outputs[0].type.shape) == 4 else "scaling"


def _product_family(layer: Layer) -> str:
    if not layer.weight_nbytes:
        return "batched matrix product"
    return "vector product" if layer.parameters.get("rows") == 1 else "matrix product"


def _pooling_family(layer: Layer) -> str:
    if layer.kind.endswith("3d"):
        return "response norm"
    return "global pooling" if layer.outputs[0].type.count == _planes(layer) else "pooling"


def _planes(layer: Layer) -> int:
    """Of the first tensor that a layer reads."""
    return math.prod(layer.inputs[0].type.shape[:2])


def _reduction_family(layer: Layer) -> str:
    if layer.kind.startswith("arg"):
        return "argmax"
    averages = len(layer.inputs[0].type.shape) == 4
    made = layer.outputs[0].type.count
    return "global pooling" if averages and made == _planes(layer) else "reduction"


def _convolution_family(layer: Layer) -> str:
    numbers = layer.parameters
    if numbers.get("groups", 1) > 1:
        return "grouped convolution"
    if numbers.get("kernel") == 1:
        return "pointwise convolution"
    winograd = {"kernel": 9, "kernel_width": 3, "stride": 1, "dilation": 1}
    return "3x3 convolution" if winograd.items() <= numbers.items() else "convolution"


_WINDOWED = ("pixels out", "channels in", "channels out", "kernel", "kernel_width", "stride")
_PRODUCT = ("rows", "inner", "columns", "elements out")
_ROWS = ("read", "last in", "run")
BY_FAMILY: Mapping[str, tuple[str, ...]] = {
    "pointwise convolution": ("pixels out", "channels in", "channels out", "stride", "out_width"),
    "3x3 convolution": ("pixels out", "channels in", "channels out", "out_width"),
    "convolution": (*_WINDOWED, "dilation", "out_width"),
    "grouped convolution": (*_WINDOWED, "groups", "out_width"),
    "depthwise convolution": ("pixels out", "channels out", "kernel", "stride", "out_width"),
    "transposed convolution": (*_WINDOWED, "groups", "out_width"),
    "matrix product": _PRODUCT,
    "vector product": ("inner", "columns"),
    "batched matrix product": _PRODUCT,
    "pooling": ("pixels out", "channels out", "kernel", "stride", "out_width", "averages"),
    "global pooling": ("pixels in", "channels in", "last out", "averages"),
    "shuffle": ("read",),
    "squares": ("read",),
    "response norm": ("pixels out", "channels out", "kernel"),
    "reduction": ("written", *_ROWS),
    "argmax": ("written", *_ROWS),
    "scan": ("read", "last in", "run"),
    "attention": ("channels in", "pixels in", "last in"),
    "layer_norm": _ROWS,
    "rms_norm": _ROWS,
    "instance_norm": ("read", "last in"),
    "group_norm": ("read", "last in"),
    "softmax": _ROWS,
    "log_softmax": _ROWS,
    "resize2d": ("read", "written", "last out", "linear"),
    "concat": ("read", "written", "run"),
    "permute_dims": (*_ROWS, "last out"),
    "split": ("read", "written", "run"),
    "copy": ("read", "last out"),
    "function": ("read", "written", "last out"),
    "scaling": ("read", "written", "last out"),
    "gating": ("read", "written", "last out"),
    "strided_slice": ("read", "written", "run"),
    "take": ("read", "written", "run"),
    "move": ("read", "written", "run", "last in", "last out"),
    "element-wise": ("read", "written", "last out"),
}
"""The features of each family, besides those of all."""
