"""From segments of the layer graph to one Relax module and one set of weights."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.errors import CompilerError
from partc.graph import LayerGraph
from partc.passes.build import LayerPayload
from partc.passes.expressions import as_array, map_leaves
from partc.plan import Segment

INLINE_NBYTES = 16
"""Constants up to this size stay in the code, where kernels can fold them."""


@dataclass(frozen=True)
class LoweredSegments:
    """Segments as functions of one module.

    Args:
        module: One function for each segment, under its name. A function takes the segment's
            inputs, then its weights, and returns a tuple of the segment's outputs.
        weights: Every weight once, by name, in the order of first use.
        params: The names of each segment's weights, in the order in which its function takes them.
    """

    module: tvm.IRModule
    weights: Mapping[str, NDArray[np.generic]]
    params: Mapping[str, tuple[str, ...]]


def lower_segments(graph: LayerGraph, segments: Sequence[Segment]) -> LoweredSegments:
    """Turn segments into functions, with weights shared between them as parameters."""
    weights = _WeightTable()
    functions: dict[str, relax.Function] = {}
    params: dict[str, tuple[str, ...]] = {}
    for segment in segments:
        lowering = _SegmentLowering(graph, segment, weights)
        functions[segment.name] = lowering.function()
        params[segment.name] = tuple(lowering.params)
    module = relax.transform.Normalize()(tvm.IRModule(functions))
    return LoweredSegments(module, weights.arrays, params)


class _WeightTable:
    """Names weights by content: equal arrays are stored once."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.generic]] = {}
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, array: NDArray[np.generic]) -> str:
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (array.dtype.str, array.shape, digest)
        if key not in self._names:
            self._names[key] = f"weight_{len(self._names)}"
            self.arrays[self._names[key]] = array
        return self._names[key]


class _SegmentLowering:
    """Copies the bindings of a segment's layers into a function with parameters of its own."""

    def __init__(self, graph: LayerGraph, segment: Segment, weights: _WeightTable) -> None:
        self.params: dict[str, relax.Var] = {}
        self._segment = segment
        self._payloads = [_payload(graph, name) for name in segment.layers]
        self._weights = weights
        self._variables = dict(self._tensor_variables(graph))
        self._inputs = {
            self._variables[tensor.name]: relax.Var(
                f"input_{index}", self._variables[tensor.name].ty
            )
            for index, tensor in enumerate(segment.inputs)
        }

    def function(self) -> relax.Function:
        bindings = [
            relax.VarBinding(binding.var, map_leaves(binding.value, self._replace))
            for payload in self._payloads
            for binding in payload.bindings
        ]
        outputs = [self._variables[tensor.name] for tensor in self._segment.outputs]
        body = relax.SeqExpr([relax.BindingBlock(bindings)], relax.Tuple(outputs))
        returned = relax.TupleType([output.ty for output in outputs])
        params = [*self._inputs.values(), *self.params.values()]
        function = relax.Function(params, body, returned)
        return function.with_attr("global_symbol", self._segment.name)

    def _tensor_variables(self, graph: LayerGraph) -> Iterator[tuple[str, relax.Var]]:
        """Each tensor that the segment's layers touch, with its variable in the source."""
        for name, payload in zip(self._segment.layers, self._payloads, strict=True):
            layer = graph.by_name[name]
            for tensors, variables in (
                (layer.inputs, payload.inputs),
                (layer.outputs, payload.outputs),
            ):
                names = (tensor.name for tensor in tensors)
                yield from zip(names, variables, strict=True)

    def _replace(self, leaf: relax.Expr) -> relax.Expr:
        if isinstance(leaf, relax.Var):
            return self._inputs.get(leaf, leaf)
        array = as_array(leaf)
        if array is None or array.nbytes <= INLINE_NBYTES:
            return leaf
        name = self._weights.name(array)
        return self.params.setdefault(name, relax.Var(name, leaf.ty))


def _payload(graph: LayerGraph, layer_name: str) -> LayerPayload:
    payload = graph.by_name[layer_name].payload
    if not isinstance(payload, LayerPayload):
        raise CompilerError(f"lower: layer {layer_name!r} carries nothing to compile")
    return payload
