"""What rearranges channels."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from partc.codegen.emitter import Emitter
from partc.codegen.layout import Layout
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.passes.expressions import as_array, shape_of

_CHANNELS = 1


def _concat(call: relax.Call, scene: Scene) -> Lowering | None:
    """Put the blocks of one tensor behind those of another."""
    parts = call.args[0].fields
    if int(call.attrs["axis"]) != _CHANNELS or not is_float32(*parts):
        return None
    if not any(scene.layout(part) for part in parts):
        return None
    layouts = [scene.layout_or_new(part) for part in parts]

    def emit(emitter: Emitter) -> relax.Expr:
        blocked = map(emitter.blocked, parts, layouts)
        return emitter.call(relax.op.concat(list(blocked), axis=_CHANNELS))

    return Lowering(emit, Layout.concatenate(layouts))


def _take(call: relax.Call, scene: Scene) -> Lowering | None:
    """Only say where the taken channels are."""
    data, indices = call.args[0], as_array(call.args[1])
    layout = scene.layout(data)
    if layout is None or indices is None or indices.ndim != 1 or call.attrs["mode"] != "clip":
        return None
    if call.attrs["axis"] is None or int(call.attrs["axis"]) != _CHANNELS:
        return None
    channels = [int(index) for index in indices.clip(0, shape_of(data)[_CHANNELS] - 1)]
    if len(set(channels)) < len(channels):  # two channels in one place could not be told apart
        return None
    return Lowering(lambda emitter: emitter.own(data), layout.take(channels))


RULES: Mapping[str, Rule] = {"concat": _concat, "take": _take}
