"""Pooling and resizing of planes."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.kernels import pool
from partc.codegen.kernels.blocks import repeat_pixels
from partc.codegen.operators.convolution import make_window
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.passes.expressions import op_name, shape_of


def _max_pool2d(call: relax.Call, scene: Scene) -> Lowering | None:
    window, machine = make_window(call.attrs, call.attrs["pool_size"]), scene.machine
    output = shape_of(call)[2:]
    return _pool(call, scene, lambda x: pool.max_pool2d(x, window, output, machine))


def _avg_pool2d(call: relax.Call, scene: Scene) -> Lowering | None:
    window, machine = make_window(call.attrs, call.attrs["pool_size"]), scene.machine
    output = shape_of(call)[2:]
    padded = bool(call.attrs["count_include_pad"])
    return _pool(
        call,
        scene,
        lambda x: pool.avg_pool2d(x, window, output, machine, count_include_pad=padded),
    )


def _adaptive_avg_pool2d(call: relax.Call, scene: Scene) -> Lowering | None:
    plane, output, machine = shape_of(call.args[0])[2:], shape_of(call)[2:], scene.machine
    if output == (1, 1):
        return _pool(call, scene, lambda x: pool.global_avg_pool2d(x, machine))
    window = pool.adaptive_window(plane, output)
    if window is None:
        return None
    return _pool(
        call,
        scene,
        lambda x: pool.avg_pool2d(x, window, output, machine, count_include_pad=False),
    )


def _pool(call: relax.Call, scene: Scene, compute: Callable[..., Any]) -> Lowering | None:
    if not is_float32(call.args[0]) or call.attrs["layout"] != "NCHW":
        return None
    return pool_channels(call, scene, compute)


def pool_channels(call: relax.Call, scene: Scene, compute: Callable[..., Any]) -> Lowering:
    """Reduce each channel's plane in blocked layout."""
    data = call.args[0]
    layout = scene.layout_or_new(data)

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(op_name(call), compute, emitter.blocked(data, layout))

    return Lowering(emit, layout)


# Ways to round positions, with which a plane that grows by a whole factor repeats its pixels.
_REPEATING = frozenset(
    [
        ("asymmetric", "floor"),
        ("tf_half_pixel_for_nn", "floor"),
        ("half_pixel", "round"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    ]
)


def _resize2d(call: relax.Call, scene: Scene) -> Lowering | None:
    data, attrs = call.args[0], call.attrs
    layout, plane, output = scene.layout(data), shape_of(data)[2:], shape_of(call)[2:]
    rounding = (str(attrs["coordinate_transformation_mode"]), str(attrs["rounding_method"]))
    if layout is None or attrs["layout"] != "NCHW" or attrs["method"] != "nearest_neighbor":
        return None
    if rounding not in _REPEATING or output[0] % plane[0] or output[1] % plane[1]:
        return None
    factors = (output[0] // plane[0], output[1] // plane[1])

    def emit(emitter: Emitter) -> relax.Expr:
        own = emitter.own(data)
        return emitter.copy("resize2d", lambda x: repeat_pixels(x, factors), own)

    return Lowering(emit, layout)


RULES: Mapping[str, Rule] = {
    "resize2d": _resize2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
}
