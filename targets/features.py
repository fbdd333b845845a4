"""What the time of a layer depends on, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated

import msgspec

from partc.graph import Layer
from partc.targets.families import COSTLY, family, unlike_others
from partc.targets.surroundings import Surroundings, logarithms

_LANES = (4, 8, 16)
"""Of 32-bit numbers, that the vectors of CPUs have."""

_TILE = 4
_SLIDING = ("depthwise convolution", "pooling")


class Workload(msgspec.Struct, frozen=True):
    """What is known of a layer before it has been compiled.

    Args:
        kind: The anchor operator.
        family: Which layers take time for like reasons.
        features: Natural logarithms of counts, by name.
        operators: Those that take a time of their own, which nothing else tells; sorted.
    """

    kind: str
    family: str
    features: dict[str, Annotated[float, msgspec.Meta(ge=0, le=100)]]
    operators: tuple[str, ...] = ()


class Described(tuple[Layer, ...]):
    """All layers of a model, which are described once for all who ask."""

    @cached_property
    def workloads(self) -> list[Workload]:
        return _describe(self)


def describe(layers: Sequence[Layer]) -> list[Workload]:
    """The workloads of all layers of a model, in the order in which they run."""
    return layers.workloads if isinstance(layers, Described) else _describe(layers)


def _describe(layers: Sequence[Layer]) -> list[Workload]:
    around = Surroundings(layers)
    return [
        Workload(
            layer.kind,
            family(layer),
            _features(layer) | around.features(position),
            unlike_others(layer),
        )
        for position, layer in enumerate(layers)
    ]


def count_work(workload: Workload) -> tuple[float, float]:
    """Floating-point operations of a layer, and bytes that it reads and makes."""
    flops, *moved = (
        math.exp(workload.features[name]) for name in ("flops", "read", "weights", "written")
    )
    return flops, sum(moved)


def _features(layer: Layer) -> dict[str, float]:
    made = layer.outputs[0].type.count
    counts = {
        **_shapes(layer),
        "flops": layer.flops,
        "read": layer.input_nbytes,
        "weights": layer.weight_nbytes,
        "written": layer.output_nbytes,
        "tail": made * (len(layer.ops) - 1),
        "costly": made * sum(name in COSTLY for name in layer.ops),
        "transposed": made * layer.ops.count("permute_dims"),
        "averages": 1 + layer.kind.startswith("avg"),
        **layer.parameters,
        **_computed(layer),
    }
    return logarithms(counts)


def _computed(layer: Layer) -> Mapping[str, float]:
    """Operations that a kernel does, if vectors have so many lanes.

    The last vector of a row of channels is filled up, and so is the last tile of a plane where
    Winograd's tiles of 4 x 4 may be used. A window that slides skips what is not of the plane.
    """
    kind, numbers, flops = family(layer), layer.parameters, float(layer.flops)
    inside, outside = numbers.get("inside", 1), numbers.get("outside", 0)
    if kind in _SLIDING:
        flops *= inside / (inside + outside)
    elif kind == "3x3 convolution":
        width, places = numbers.get("out_width", 1), (inside + outside) // 9
        flops *= _filled(width, _TILE) * _filled(max(1, places // width), _TILE)
    channels = numbers.get("filters", 0)
    if kind == "depthwise convolution":
        channels *= numbers.get("groups", 1)
    return {f"flops, {lanes} lanes": flops * _filled(channels, lanes) for lanes in _LANES}


def _filled(extent: int, size: int) -> float:
    """How much larger an extent is in whole pieces of a size."""
    return size * math.ceil(extent / size) / extent if extent else 1.0


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
