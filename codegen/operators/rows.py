"""What reduces or normalises rows of elements."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from partc.codegen.kernels import normalise, pool, reduce
from partc.codegen.operators.lowering import Lowering, Rule, Scene, is_float32
from partc.codegen.operators.planes import pool_channels
from partc.passes.expressions import shape_of

_PLANE = (2, 3)


def _softmax(call: relax.Call, scene: Scene) -> Lowering | None:
    axis, machine = int(call.attrs["axis"]), scene.machine
    return _on_plain(call, "softmax", lambda x: normalise.softmax(x, axis, machine))


def _log_softmax(call: relax.Call, scene: Scene) -> Lowering | None:
    axis, machine = int(call.attrs["axis"]), scene.machine
    return _on_plain(call, "log_softmax", lambda x: normalise.log_softmax(x, axis, machine))


def _layer_norm(call: relax.Call, scene: Scene) -> Lowering | None:
    attrs, machine = call.attrs, scene.machine
    axes, epsilon = [int(axis) for axis in attrs["axes"]], float(attrs["epsilon"])
    return _on_plain(
        call,
        "layer_norm",
        lambda x, gamma, beta: normalise.layer_norm(x, gamma, beta, axes, epsilon, machine),
    )


def _instance_norm(call: relax.Call, scene: Scene) -> Lowering | None:
    attrs, machine, rank = call.attrs, scene.machine, len(shape_of(call))
    axes, epsilon = sorted(int(axis) % rank for axis in attrs["axes"]), float(attrs["epsilon"])
    if shape_of(call)[0] == 1 and axes[:1] == [0]:
        axes = axes[1:]
    if int(attrs["channel_axis"]) != 1 or axes != list(range(2, rank)):
        return None
    if not attrs["center"] or not attrs["scale"]:
        return None
    return _on_plain(
        call,
        "instance_norm",
        lambda x, gamma, beta: normalise.instance_norm(x, gamma, beta, epsilon, machine),
    )


def _rms_norm(call: relax.Call, scene: Scene) -> Lowering | None:
    attrs, machine = call.attrs, scene.machine
    axes, epsilon = [int(axis) for axis in attrs["axes"]], float(attrs["epsilon"])
    return _on_plain(
        call, "rms_norm", lambda x, weight: normalise.rms_norm(x, weight, axes, epsilon, machine)
    )


def _reduction(kind: str) -> Rule:
    def choose(call: relax.Call, scene: Scene) -> Lowering | None:
        data, machine = call.args[0], scene.machine
        keepdims = bool(call.attrs["keepdims"])
        axes = _axes(call)
        if not axes:
            return None
        if scene.layout(data) and axes == _PLANE and keepdims and kind in _GLOBAL_POOLS:
            return pool_channels(call, scene, lambda x: _GLOBAL_POOLS[kind](x, machine))
        return _on_plain(call, kind, lambda x: reduce.reduce(kind, x, axes, keepdims, machine))

    return choose


_GLOBAL_POOLS = {"mean": pool.global_avg_pool2d, "max": pool.global_max_pool2d}


def _axes(call: relax.Call) -> tuple[int, ...]:
    """The axes that are reduced, in order."""
    rank, axes = len(shape_of(call.args[0])), call.attrs["axis"]
    if axes is None:
        return tuple(range(rank))
    listed = [axes] if isinstance(axes, int) else axes
    return tuple(sorted(int(axis) % rank for axis in listed))


def _on_plain(call: relax.Call, name: str, compute: object) -> Lowering | None:
    if not is_float32(*call.args):
        return None
    return Lowering(lambda emitter: emitter.kernel(name, compute, *map(emitter.plain, call.args)))


_REDUCTIONS = ("argmax", "argmin", "max", "mean", "min", "prod", "std", "sum", "variance")

RULES: Mapping[str, Rule] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    **{kind: _reduction(kind) for kind in _REDUCTIONS},
}
