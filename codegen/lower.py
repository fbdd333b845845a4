"""From segments of the layer graph to one Relax module and one set of weights."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.codegen.emitter import Emitter, WeightTable
from partc.codegen.kernels.blocks import blocked_shape, to_blocked, to_plain
from partc.codegen.machine import Machine
from partc.codegen.operators import Lowering, Scene, choose_lowering, plain_lowering
from partc.errors import CompilerError
from partc.graph import LayerGraph
from partc.passes.build import LayerPayload
from partc.passes.expressions import shape_of
from partc.plan import Segment
from partc.runtime.spec import BlockedSpec


@dataclass(frozen=True)
class LoweredSegments:
    """Segments as functions of one module.

    Args:
        module: One function for each segment, under its name. A function takes the segment's
            inputs, then its weights, and returns a tuple of the segment's outputs. Besides, the
            functions that ``blocked`` names, of one tensor each.
        weights: Every weight once, by name, in the order of first use.
        params: The names of each segment's weights, in the order in which its function takes them.
        blocked: The visible tensors that segments take and make in blocked layout.
    """

    module: tvm.IRModule
    weights: Mapping[str, NDArray[np.generic]]
    params: Mapping[str, tuple[str, ...]]
    blocked: tuple[BlockedSpec, ...] = ()


def lower_segments(
    graph: LayerGraph,
    segments: Sequence[Segment],
    machine: Machine | None = None,
    visible: AbstractSet[str] = frozenset(),
) -> LoweredSegments:
    """Turn segments into functions, with weights shared between them as parameters.

    Args:
        graph: The layers, with their payloads.
        segments: The segments, in topological order.
        machine: The CPU whose kernels and layouts to use; without one, all tensors are plain.
        visible: Names of the tensors that others than segments read or make.
    """
    lowerings = _Lowerings(graph, machine)
    builder = relax.BlockBuilder()
    weights = WeightTable()
    params = {
        segment.name: _SegmentLowering(graph, segment, lowerings, builder, weights).emit()
        for segment in segments
    }
    blocked = [
        _emit_conversions(builder, lowerings, position, name, variable)
        for position, (name, variable) in enumerate(_boundary(graph, segments).items())
        if name in visible and variable in lowerings.blocked
    ]
    return LoweredSegments(builder.get(), weights.arrays, params, tuple(blocked))


class _Lowerings:
    """How each call of a graph is lowered, and which variables are in blocked layout.

    That is decided for the whole graph, so that segments agree on the tensors between them.
    """

    def __init__(self, graph: LayerGraph, machine: Machine | None) -> None:
        self.machine = machine
        self.blocked: set[relax.Var] = set()
        self._chosen: dict[relax.Var, Lowering] = {}
        if machine is not None:
            scene = Scene(machine, self.blocked)
            for layer in graph.layers:
                for binding in _payload(graph, layer.name).bindings:
                    self._choose(binding, scene)

    def of(self, binding: relax.VarBinding) -> Lowering:
        return self._chosen.get(binding.var) or plain_lowering(binding.value)

    def _choose(self, binding: relax.VarBinding, scene: Scene) -> None:
        lowering = choose_lowering(binding.value, scene)
        self._chosen[binding.var] = lowering
        if lowering.blocked:
            self.blocked.add(binding.var)

    def type_of(self, variable: relax.Var) -> relax.Type:
        """The type of a variable in the layout that it has."""
        if variable not in self.blocked:
            return variable.ty
        return relax.TensorType(blocked_shape(shape_of(variable), self.machine.lanes), "float32")


class _SegmentLowering:
    """Emits a segment's layers as a function with parameters of its own."""

    def __init__(
        self,
        graph: LayerGraph,
        segment: Segment,
        lowerings: _Lowerings,
        builder: relax.BlockBuilder,
        weights: WeightTable,
    ) -> None:
        self._segment = segment
        self._payloads = [_payload(graph, name) for name in segment.layers]
        self._lowerings = lowerings
        self._builder = builder
        self._emitter = Emitter(builder, lowerings.machine, weights)
        self._variables = _tensor_variables(graph, segment)

    def emit(self) -> tuple[str, ...]:
        """Emit the function, and return the names of the weights that it takes."""
        builder, emitter = self._builder, self._emitter
        with builder.function(self._segment.name):
            with builder.dataflow():
                inputs = [
                    self._define_input(position, self._variables[tensor.name])
                    for position, tensor in enumerate(self._segment.inputs)
                ]
                for payload in self._payloads:
                    for binding in payload.bindings:
                        self._emit(binding)
                outputs = [
                    self._read(self._variables[tensor.name]) for tensor in self._segment.outputs
                ]
                result = builder.emit_output(relax.Tuple(outputs))
            builder.emit_func_output(result, params=[*inputs, *emitter.params.values()])
        return tuple(emitter.params)

    def _define_input(self, position: int, variable: relax.Var) -> relax.Var:
        parameter = relax.Var(f"input_{position}", self._lowerings.type_of(variable))
        self._define(variable, parameter)
        return parameter

    def _emit(self, binding: relax.VarBinding) -> None:
        self._define(binding.var, self._lowerings.of(binding).emit(self._emitter))

    def _define(self, variable: relax.Var, value: relax.Expr) -> None:
        blocked = variable in self._lowerings.blocked
        self._emitter.define(variable, value, blocked=blocked)

    def _read(self, variable: relax.Var) -> relax.Expr:
        blocked = variable in self._lowerings.blocked
        return self._emitter.blocked(variable) if blocked else self._emitter.plain(variable)


def _tensor_variables(graph: LayerGraph, segment: Segment) -> dict[str, relax.Var]:
    """Each tensor that a segment's layers touch, with its variable in the source."""
    found: dict[str, relax.Var] = {}
    for name in segment.layers:
        layer, payload = graph.by_name[name], _payload(graph, name)
        tensors, variables = layer.inputs + layer.outputs, payload.inputs + payload.outputs
        found.update(zip((tensor.name for tensor in tensors), variables, strict=True))
    return found


def _boundary(graph: LayerGraph, segments: Sequence[Segment]) -> dict[str, relax.Var]:
    """The tensors that segments take and make, with their variables in the source."""
    return {
        tensor.name: variables[tensor.name]
        for segment in segments
        for variables in (_tensor_variables(graph, segment),)
        for tensor in (*segment.inputs, *segment.outputs)
    }


def _emit_conversions(
    builder: relax.BlockBuilder,
    lowerings: _Lowerings,
    position: int,
    name: str,
    variable: relax.Var,
) -> BlockedSpec:
    """Emit the functions that change a tensor's layout."""
    machine, channels = lowerings.machine, shape_of(variable)[1]
    spec = BlockedSpec(name, f"to_plain_{position}", f"to_blocked_{position}")
    blocked = lowerings.type_of(variable)
    _emit_conversion(builder, spec.to_plain, blocked, lambda x: to_plain(x, channels, machine))
    _emit_conversion(builder, spec.to_blocked, variable.ty, lambda x: to_blocked(x, machine))
    return spec


def _emit_conversion(builder: Any, name: str, type_: Any, compute: Any) -> None:
    tensor = relax.Var("tensor", type_)
    with builder.function(name):
        with builder.dataflow():
            converted = builder.emit_te(compute, tensor, primfunc_name_hint=name.rpartition("_")[0])
            result = builder.emit_output(relax.Tuple([converted]))
        builder.emit_func_output(result, params=[tensor])


def _payload(graph: LayerGraph, layer_name: str) -> LayerPayload:
    payload = graph.by_name[layer_name].payload
    if not isinstance(payload, LayerPayload):
        raise CompilerError(f"lower: layer {layer_name!r} carries nothing to compile")
    return payload
