"""What the time of a layer depends on, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from partc.graph import Layer, Tensor

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_REDUCTIONS = frozenset(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d argmax argmin max mean median min "
    "prod std sum variance".split()
)
_MOVES = frozenset(
    "astype broadcast_to expand_dims flatten flip full full_like gather_elements gather_nd "
    "index_tensor one_hot pad pixel_shuffle repeat reshape scatter_elements scatter_nd "
    "slice_scatter split squeeze stack tile".split()
)
_COSTLY = frozenset(
    "acos acosh asin asinh atan atan2 atanh cos cosh erf exp gelu gelu_tanh log log_add_exp power "
    "selu sigmoid silu sin sinh softplus tan tanh".split()
)


def family(layer: Layer) -> str:
    """The layers that one regression can be fitted to: those that take time for like reasons."""
    kind = layer.kind
    if kind in _CONVOLUTIONS:
        return _convolution_family(layer)
    if kind == "depthwise_conv2d":
        return "depthwise convolution"
    if kind.startswith("conv"):
        return "transposed convolution"
    if kind == "matmul":
        return _product_family(layer)
    if "_pool" in kind and "adaptive" not in kind:
        return "response norm" if kind.endswith("3d") else "pooling"
    if kind in _REDUCTIONS:
        return _reduction_family(layer)
    if kind == "take" and layer.inputs[:1] and layer.inputs[0].type == layer.outputs[0].type:
        return "shuffle"
    if kind == "multiply" and "expand_dims" in layer.ops:
        return "squares"
    if kind in BY_FAMILY:
        return kind
    return "move" if kind in _MOVES else "element-wise"


def _product_family(layer: Layer) -> str:
    if not layer.weight_nbytes:
        return "batched matrix product"
    return "vector product" if layer.parameters.get("rows") == 1 else "matrix product"


def _reduction_family(layer: Layer) -> str:
    if layer.kind.startswith("arg"):
        return "argmax"
    shape = layer.inputs[0].type.shape if layer.inputs else ()
    made = layer.outputs[0].type.count
    return "global pooling" if len(shape) == 4 and made == math.prod(shape[:2]) else "reduction"


def _convolution_family(layer: Layer) -> str:
    numbers = layer.parameters
    if numbers.get("groups", 1) > 1:
        return "grouped convolution"
    if numbers.get("kernel") == 1:
        return "pointwise convolution"
    winograd = {"kernel": 9, "kernel_width": 3, "stride": 1, "dilation": 1}
    return "3x3 convolution" if winograd.items() <= numbers.items() else "convolution"


class Workload(msgspec.Struct, frozen=True):
    """What is known of a layer before it has been compiled.

    Args:
        kind: The anchor operator.
        family: Which layers take time for like reasons.
        features: Natural logarithms of counts, by name.
    """

    kind: str
    family: str
    features: dict[str, float]


def describe(layers: Sequence[Layer]) -> list[Workload]:
    """The workloads of all layers of a model, in the order in which they run."""
    context = _Context(layers)
    return [
        Workload(layer.kind, family(layer), _features(layer) | context.features(position))
        for position, layer in enumerate(layers)
    ]


def count_work(workload: Workload) -> tuple[float, float]:
    """Floating-point operations of a layer, and bytes that it reads and makes."""
    flops, *moved = (
        math.exp(workload.features[name]) for name in ("flops", "read", "weights", "written")
    )
    return flops, sum(moved)


NEARNESS = {"near": 1 << 19, "close": 1 << 22, "far": 1 << 25, "out": math.inf}
"""Bytes that may be touched until something is read again that still is so near in the caches."""


class _Context:
    """What a layer's time depends on and only the layers around it tell.

    How long reading takes depends on what was touched since: for a tensor since it was made, for
    weights and for the kernel's own code since the last run. And kernels are faster on what
    convolutions make, which keep channels in blocks, than on tensors in order.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._made_at = {
            tensor.name: position
            for position, layer in enumerate(layers)
            for tensor in layer.outputs
        }
        touched = [each.input_nbytes + each.weight_nbytes + each.output_nbytes for each in layers]
        self._touched = [0, *accumulate(touched)]
        self._footprint = sum(layer.weight_nbytes + layer.output_nbytes for layer in layers)
        self._blocked: set[str] = set()
        for layer in layers:
            if self._makes_blocks(layer):
                self._blocked.update(tensor.name for tensor in layer.outputs)

    def features(self, position: int) -> dict[str, float]:
        layer = self._layers[position]
        around = _nearness(self._footprint)
        counts = {
            "footprint": self._footprint,
            "reads blocks": 1 + self._in_blocks(layer.inputs),
            "makes blocks": 1 + self._in_blocks(layer.outputs),
            f"weights, {around}": layer.weight_nbytes,
            f"call, {around}": math.e,
        }
        for tensor in layer.inputs:
            name = f"read, {_nearness(self._age(tensor, position))}"
            counts[name] = counts.get(name, 0) + tensor.nbytes
        return {name: math.log(max(1, count)) for name, count in counts.items()}

    def _age(self, tensor: Tensor, position: int) -> int:
        """Bytes that were touched from when a tensor was made until a layer runs."""
        return self._touched[position] - self._touched[self._made_at.get(tensor.name, 0)]

    def _makes_blocks(self, layer: Layer) -> bool:
        if not _ORDERING.isdisjoint(layer.ops):
            return False
        made = layer.kind.startswith(("conv", "depthwise"))
        return made or (family(layer) in _KEEPING_BLOCKS and self._in_blocks(layer.inputs))

    def _in_blocks(self, tensors: Sequence[Tensor]) -> bool:
        return any(tensor.name in self._blocked for tensor in tensors)


def _nearness(nbytes: float) -> str:
    return next(name for name, most in NEARNESS.items() if nbytes <= most)


_ORDERING = frozenset(("permute_dims", "reshape"))
_KEEPING_BLOCKS = frozenset(
    "pooling concat element-wise resize2d shuffle squares strided_slice".split()
) | {"global pooling", "response norm"}


def _features(layer: Layer) -> dict[str, float]:
    counts = {
        **_shapes(layer),
        "flops": layer.flops,
        "read": layer.input_nbytes,
        "weights": layer.weight_nbytes,
        "written": layer.output_nbytes,
        "inputs": len(layer.inputs),
        "operators": len(layer.ops),
        "costly operators": 1 + sum(name in _COSTLY for name in layer.ops),
        "transpositions": 1 + layer.ops.count("permute_dims"),
        "averages": 1 + layer.kind.startswith("avg"),
        **layer.parameters,
    }
    return {name: math.log(max(1, count)) for name, count in counts.items()}


def _shapes(layer: Layer) -> Mapping[str, float]:
    """The extents of the first tensors read and made, named as for images."""
    read = layer.inputs[0].type.shape if layer.inputs else ()
    made = layer.outputs[0].type.shape
    channels_in, channels_out = (_extent(shape, 1) for shape in (read, made))
    groups = layer.parameters.get("groups", 1)
    return {
        "channels in": channels_in / groups,
        "channels out": channels_out,
        "pixels in": math.prod(read) / max(1, channels_in),
        "pixels out": math.prod(made) / max(1, channels_out),
        "last in": _extent(read, -1),
        "last out": _extent(made, -1),
        "elements out": math.prod(made),
    }


def _extent(shape: Sequence[int], axis: int) -> int:
    return shape[axis] if len(shape) > max(axis, 0) else 1


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
    "global pooling": ("pixels in", "channels in", "last out"),
    "shuffle": ("read",),
    "squares": ("read",),
    "response norm": ("pixels out", "channels out", "kernel"),
    "reduction": ("written", *_ROWS),
    "argmax": ("written", *_ROWS),
    "layer_norm": _ROWS,
    "instance_norm": ("read", "last in"),
    "group_norm": ("read", "last in"),
    "softmax": _ROWS,
    "log_softmax": _ROWS,
    "resize2d": ("read", "written", "last out", "linear"),
    "concat": ("read", "written", "run"),
    "permute_dims": (*_ROWS, "last out"),
    "strided_slice": ("read", "written", "run"),
    "take": ("read", "written", "run"),
    "move": ("read", "written", "run", "last in", "last out"),
    "element-wise": ("read", "written", "last out"),
}
"""The features of each family, besides those of all."""

COMMON = (
    "weights",
    "footprint",
    *(f"read, {name}" for name in NEARNESS),
    "reads blocks",
    "makes blocks",
    "operators",
    "costly operators",
    "inputs",
    "transpositions",
)
"""What the time of any layer may depend on."""
