"""From segments of the layer graph to one Relax module and one set of weights."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.codegen.emitter import Emitter, WeightTable
from partc.codegen.layout import Layout
from partc.codegen.machine import Machine
from partc.codegen.operators import choose_lowering
from partc.codegen.operators.lowering import Lowering, Scene, plain_lowering
from partc.errors import CompilerError
from partc.graph import LayerGraph
from partc.passes.build import LayerPayload
from partc.passes.expressions import dtype_of, shape_of
from partc.plan import Segment
from partc.runtime.spec import BlockedSpec, SegmentSpec


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
        without_rule: The layers that no rule for kernels fits.
    """

    module: tvm.IRModule
    weights: Mapping[str, NDArray[np.generic]]
    params: Mapping[str, tuple[str, ...]]
    blocked: tuple[BlockedSpec, ...] = ()
    without_rule: tuple[str, ...] = ()

    def describe(self, segment: Segment) -> SegmentSpec:
        """What the function of a segment takes and returns."""
        return SegmentSpec(
            name=segment.name,
            inputs=tuple(tensor.name for tensor in segment.inputs),
            params=self.params[segment.name],
            outputs=tuple(tensor.name for tensor in segment.outputs),
        )


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
        _emit_conversions(builder, lowerings, weights, position, name, variable)
        for position, (name, variable) in enumerate(_boundary(graph, segments).items())
        if name in visible and variable in lowerings.layouts
    ]
    unruled = lowerings.without_rule(_outputs(graph, segments))
    layers = (name for segment in segments for name in segment.layers)
    without_rule = (
        name
        for name in layers
        if any(binding.var in unruled for binding in _payload(graph, name).bindings)
    )
    return LoweredSegments(
        builder.get(), weights.arrays, params, tuple(blocked), tuple(without_rule)
    )


class _Lowerings:
    """How each call of a graph is lowered, and which variables are in blocked layout.

    That is decided for the whole graph, so that segments agree on the tensors between them.
    """

    def __init__(self, graph: LayerGraph, machine: Machine | None) -> None:
        self.machine = machine
        self.layouts: dict[relax.Var, Layout] = {}
        self._chosen: dict[relax.Var, Lowering] = {}
        self._bindings: list[relax.VarBinding] = []
        if machine is not None:
            payloads = [_payload(graph, layer.name) for layer in graph.layers]
            self._bindings = [binding for payload in payloads for binding in payload.bindings]
            definitions = {binding.var: binding.value for binding in self._bindings}
            scene = Scene(machine, self.layouts, definitions)
            for binding in self._bindings:
                self._choose(binding, scene)

    def without_rule(self, outputs: AbstractSet[relax.Var]) -> AbstractSet[relax.Var]:
        """What outputs are computed from and no rule schedules; on a GPU TVM's own rules do."""
        needed, found = set(outputs), set[relax.Var]()
        for binding in reversed(self._bindings):
            if binding.var in needed:
                lowering = self.of(binding)
                reads = lowering.reads or relax.analysis.free_vars(binding.value)
                needed.update(reads)
                found.update(() if lowering.has_rule else (binding.var,))
        return found

    def of(self, binding: relax.VarBinding) -> Lowering:
        return self._chosen.get(binding.var) or plain_lowering(binding.value)

    def _choose(self, binding: relax.VarBinding, scene: Scene) -> None:
        lowering = choose_lowering(binding.value, scene)
        self._chosen[binding.var] = lowering
        if lowering.layout:
            self.layouts[binding.var] = lowering.layout

    def type_of(self, variable: relax.Var) -> relax.Type:
        """The type of a variable in the layout that it has."""
        layout = self.layouts.get(variable)
        if layout is None:
            return variable.ty
        return relax.TensorType(layout.shape(shape_of(variable)), "float32")


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
        with builder.function(self._segment.name, attrs=_num_input(len(self._segment.inputs))):
            with builder.dataflow():
                inputs = [
                    self._define_input(position, self._variables[tensor.name])
                    for position, tensor in enumerate(self._segment.inputs)
                ]
                for payload in self._payloads:
                    for binding in payload.bindings:
                        self._emit(binding)
                outputs = [
                    emitter.own(self._variables[tensor.name]) for tensor in self._segment.outputs
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
        self._emitter.define(variable, value, self._lowerings.layouts.get(variable))


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


def _outputs(graph: LayerGraph, segments: Sequence[Segment]) -> frozenset[relax.Var]:
    """The variables of the source that segments return."""
    return frozenset(
        variables[tensor.name]
        for segment in segments
        for variables in (_tensor_variables(graph, segment),)
        for tensor in segment.outputs
    )


def _emit_conversions(
    builder: relax.BlockBuilder,
    lowerings: _Lowerings,
    weights: WeightTable,
    position: int,
    name: str,
    variable: relax.Var,
) -> BlockedSpec:
    """Emit the functions that take a tensor out of its layout and into it."""
    layout = lowerings.layouts[variable]

    def emit(function: str, source: Layout | None, target: Layout | None) -> SegmentSpec:
        emitter = Emitter(builder, lowerings.machine, weights)
        shape = shape_of(variable)
        type_ = relax.TensorType(source.shape(shape) if source else shape, dtype_of(variable))
        tensor = relax.Var("tensor", type_)
        with builder.function(function, attrs=_num_input(1)):
            with builder.dataflow():
                emitter.define(variable, tensor, source)
                value = emitter.blocked(variable, target) if target else emitter.plain(variable)
                result = builder.emit_output(relax.Tuple([value]))
            builder.emit_func_output(result, params=[tensor, *emitter.params.values()])
        return SegmentSpec(function, (name,), tuple(emitter.params), (name,))

    return BlockedSpec(
        name,
        to_plain=emit(f"to_plain_{position}", layout, None),
        to_blocked=emit(f"to_blocked_{position}", None, layout),
    )


def _num_input(count: int) -> dict[str, int]:
    """Have TVM check the shapes of inputs at run time, and not those of the weights behind them.

    Weights come from a file whose hash is checked.
    """
    return {"num_input": count}


def _payload(graph: LayerGraph, layer_name: str) -> LayerPayload:
    payload = graph.by_name[layer_name].payload
    if not isinstance(payload, LayerPayload):
        raise CompilerError(f"lower: layer {layer_name!r} carries nothing to compile")
    return payload
