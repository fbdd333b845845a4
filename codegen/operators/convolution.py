"""Convolutions with constant weights."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.kernels.convolution import conv2d, pack_weight
from partc.codegen.kernels.convolution_plan import Problem, Window
from partc.codegen.kernels.depthwise import depthwise_conv2d
from partc.codegen.kernels.transposed import (
    Transposition,
    interleave,
    interleave_blocked,
    phase_weight,
)
from partc.codegen.kernels.winograd import pack_winograd_weight, winograd_conv2d
from partc.codegen.kernels.winograd_plan import Layer, choose_winograd
from partc.codegen.layout import Layout, Runs, plane_of
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.passes.expressions import as_array, shape_of


def _conv2d(call: relax.Call, scene: Scene) -> Lowering | None:
    data, weight = call.args[0], as_array(call.args[1])
    if weight is None or not is_float32(*call.args) or call.attrs["data_layout"] != "NCHW":
        return None
    window, groups = make_window(call.attrs, weight.shape[2:]), int(call.attrs["groups"])
    channels = shape_of(data)[1]
    is_depthwise = groups == channels == weight.shape[0]
    if scene.layout(data) is None and channels < scene.machine.lanes and not is_depthwise:
        return _on_image(data, weight, window, groups, scene)
    return _on_blocks(data, weight, window, groups, scene)


def _conv1d(call: relax.Call, scene: Scene) -> Lowering | None:
    """A convolution of planes that are one pixel high."""
    data, weight, attrs = call.args[0], as_array(call.args[1]), call.attrs
    if weight is None or not is_float32(*call.args) or attrs["data_layout"] != "NCW":
        return None
    left, right = (int(width) for width in attrs["padding"])
    window = Window(
        (1, weight.shape[2]),
        (1, int(attrs["strides"][0])),
        (1, int(attrs["dilation"][0])),
        (0, left, 0, right),
    )
    return _on_blocks(data, weight[:, :, np.newaxis], window, int(attrs["groups"]), scene)


def _on_blocks(
    data: relax.Expr, weight: NDArray[Any], window: Window, groups: int, scene: Scene
) -> Lowering:
    """Choose the kernel that is fastest on blocked data."""
    if groups == shape_of(data)[1] == weight.shape[0]:
        return _depthwise(data, weight, window, scene)
    runs = scene.layout_or_new(data).runs
    if groups > 1 or runs is None:
        return _direct_by_table(data, weight, window, groups, scene)
    tile = _winograd_tile(data, weight, window, scene)
    if tile is not None:
        return _winograd(data, weight, window, tile, runs, scene)
    return _direct(data, weight, window, runs, scene)


def _on_image(
    data: relax.Expr, weight: NDArray[Any], window: Window, groups: int, scene: Scene
) -> Lowering:
    """Read few channels as they come: they would not fill a block."""
    machine = scene.machine
    problem = _problem(data, weight, window, groups, scene)

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(
            "conv2d",
            lambda x, w: conv2d(x, w, problem, machine),
            emitter.plain(data),
            emitter.weight(pack_weight(weight, problem, 1, machine)),
        )

    return Lowering(emit, Layout.of(weight.shape[0], machine.lanes, groups))


def _direct(
    data: relax.Expr, weight: NDArray[Any], window: Window, runs: Runs, scene: Scene
) -> Lowering:
    """Read the channels in the order in which they lie."""
    machine, layout = scene.machine, scene.layout_or_new(data)
    problem = _problem(data, weight, window, 1, scene)
    step = runs.step(layout.channels, machine.lanes)

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(
            "conv2d",
            lambda x, w: conv2d(x, w, problem, machine, runs.slot),
            emitter.blocked(data, layout),
            emitter.weight(pack_weight(weight[:, layout.order], problem, step, machine)),
        )

    return Lowering(emit, Layout.of(weight.shape[0], machine.lanes))


def _direct_by_table(
    data: relax.Expr, weight: NDArray[Any], window: Window, groups: int, scene: Scene
) -> Lowering:
    """Look up where each channel lies."""
    lanes = scene.machine.lanes

    def emit(emitter: Emitter) -> relax.Expr:
        return _emit_by_table(data, weight, window, groups, scene, emitter)

    return Lowering(emit, Layout.of(weight.shape[0], lanes, groups))


def _emit_by_table(
    data: relax.Expr,
    weight: NDArray[Any],
    window: Window,
    groups: int,
    scene: Scene,
    emitter: Emitter,
) -> relax.Expr:
    machine, layout = scene.machine, scene.layout_or_new(data)
    problem = _problem(data, weight, window, groups, scene)
    step = math.gcd(weight.shape[1], machine.lanes)
    return emitter.kernel(
        "conv2d",
        lambda x, w, slots: conv2d(x, w, problem, machine, lambda channel: slots[channel]),
        emitter.blocked(data, layout),
        emitter.weight(pack_weight(weight, problem, step, machine)),
        emitter.weight(np.array(layout.slots, np.int32)),
    )


def _problem(
    data: relax.Expr, weight: NDArray[Any], window: Window, groups: int, scene: Scene
) -> Problem:
    batch, channels = shape_of(data)[:2]
    shape = (batch, channels, *plane_of(shape_of(data)))
    return Problem.of(shape, weight.shape[0], groups, window, scene.machine.lanes)


def _depthwise(data: relax.Expr, weight: NDArray[Any], window: Window, scene: Scene) -> Lowering:
    machine, layout = scene.machine, scene.layout_or_new(data)
    packed = layout.pack(weight.transpose(1, 0, 2, 3))[0]

    def emit(emitter: Emitter) -> relax.Expr:
        return emitter.kernel(
            "depthwise_conv2d",
            lambda x, w: depthwise_conv2d(x, w, window, machine),
            emitter.blocked(data, layout),
            emitter.weight(packed),
        )

    return Lowering(emit, layout)


def _winograd_tile(
    data: relax.Expr, weight: NDArray[Any], window: Window, scene: Scene
) -> int | None:
    """The output tile of a Winograd convolution, where that is possible and faster."""
    if (window.kernel, window.strides, window.dilation) != ((3, 3), (1, 1), (1, 1)):
        return None
    height, width = window.output(*plane_of(shape_of(data)))
    layer = Layer(shape_of(data)[0], weight.shape[1], weight.shape[0], height, width)
    return choose_winograd(layer, scene.machine)


def _winograd(
    data: relax.Expr,
    weight: NDArray[Any],
    window: Window,
    tile: int,
    runs: Runs,
    scene: Scene,
) -> Lowering:
    machine, layout = scene.machine, scene.layout_or_new(data)

    def emit(emitter: Emitter) -> relax.Expr:
        packed = pack_winograd_weight(weight[:, layout.order], tile, machine.lanes)
        return emitter.kernel(
            "winograd_conv2d",
            lambda x, w: winograd_conv2d(x, w, window, machine, runs),
            emitter.blocked(data, layout),
            emitter.weight(packed),
        )

    return Lowering(emit, Layout.of(weight.shape[0], machine.lanes))


def _conv2d_transpose(call: relax.Call, scene: Scene) -> Lowering | None:
    data, weight = call.args[0], as_array(call.args[1])
    attrs, machine = call.attrs, scene.machine
    if weight is None or not is_float32(*call.args) or attrs["data_layout"] != "NCHW":
        return None
    if any(int(dilation) > 1 for dilation in attrs["dilation"]):
        return None
    groups, channels = int(attrs["groups"]), shape_of(call)[1]
    transposition = Transposition(
        kernel=weight.shape[2:],
        strides=tuple(int(stride) for stride in attrs["strides"]),
        crop=tuple(int(padding) for padding in attrs["padding"][:2]),
        output=shape_of(call)[2:],
    )
    # Few channels would leave most of a block empty, for every pixel.
    blocked = groups == 1 and 2 * channels > machine.lanes
    if blocked:
        weight = np.pad(weight, ((0, 0), (0, -channels % machine.lanes), (0, 0), (0, 0)))
    phases = phase_weight(weight, groups, transposition)
    window = transposition.window(*shape_of(data)[2:])

    def emit(emitter: Emitter) -> relax.Expr:
        computed = _emit_by_table(data, phases, window, groups, scene, emitter)
        if blocked:
            return emitter.copy(
                "interleave", lambda x: interleave_blocked(x, transposition), computed
            )
        return emitter.copy(
            "interleave", lambda x: interleave(x, groups, channels, transposition), computed
        )

    return Lowering(emit, Layout.of(channels, machine.lanes) if blocked else None)


def make_window(attrs: Any, size: tuple[int, ...]) -> Window:
    """The window of a convolution or a pool, from its attributes and the window's size."""
    height, width = (int(extent) for extent in size)
    top, left, bottom, right = (int(padding) for padding in attrs["padding"])
    down, across = (int(stride) for stride in attrs["strides"])
    apart, beside = (int(dilation) for dilation in attrs["dilation"])
    return Window((height, width), (down, across), (apart, beside), (top, left, bottom, right))


RULES: Mapping[str, Rule] = {
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
}
