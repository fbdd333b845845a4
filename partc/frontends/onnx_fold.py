# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# onnxslim ships no types
"""Folding of what depends on shapes and constants alone in an ONNX model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import onnx.helper
import onnxslim
from onnx import ModelProto, TensorProto

from partc.errors import CompilerError, ModelError
from partc.frontends.onnx_messages import reason

# Only constants are folded: all else onnxslim does loses the names of nodes or drops nodes without
# a look at their attributes.
_SKIPPED_OPTIMIZATIONS = (
    "graph_fusion",
    "dead_node_elimination",
    "subexpression_elimination",
    "weight_tying",
)
# No shape, axis, scale or other constant that shape inference reads is nearly as large.
_WEIGHT_ELEMENTS = 16384


def fold(model: ModelProto, title: str) -> ModelProto:
    """Fold constants and shape arithmetic; inputs and outputs stay what they are.

    Shape inference copies the whole model for every node, so it runs while weights are set aside.

    Args:
        model: A model whose inputs have fixed shapes; it is not changed.
        title: What messages call the model.

    Raises:
        ModelError: onnxslim fails.
        CompilerError: onnxslim changed the model's outputs.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    folded = _slim(copy, title, infer_shapes=False)
    weights = _set_weights_aside(folded)
    folded = _slim(folded, title, infer_shapes=True)
    folded.graph.initializer.extend(weights)
    _restore_inputs(folded, model)
    folded = _slim(folded, title, infer_shapes=False)
    _restore_inputs(folded, model)
    if _output_names(folded) != _output_names(model):
        raise CompilerError(f"folding constants changed the outputs of {title}")
    return folded


def _slim(model: ModelProto, title: str, *, infer_shapes: bool) -> ModelProto:
    """Run onnxslim, which may change the model that it is given, too."""
    slim = cast("Callable[..., ModelProto]", onnxslim.slim)  # its annotations are wrong
    try:
        return slim(
            model, no_shape_infer=not infer_shapes, skip_optimizations=list(_SKIPPED_OPTIMIZATIONS)
        )
    except Exception as error:
        # onnxslim promises no kind of error, and passes on those of ONNX Runtime.
        raise ModelError(f"constants in {title} cannot be folded: {reason(error)}") from error


def _restore_inputs(model: ModelProto, original: ModelProto) -> None:
    """Weights set aside are no inputs; inputs that nothing reads, which onnxslim drops, are."""
    del model.graph.input[:]
    model.graph.input.extend(original.graph.input)


def _set_weights_aside(model: ModelProto) -> list[TensorProto]:
    """Turn large constants into inputs, in place."""
    graph = model.graph
    weights = [tensor for tensor in graph.initializer if math.prod(tensor.dims) >= _WEIGHT_ELEMENTS]
    others = [tensor for tensor in graph.initializer if math.prod(tensor.dims) < _WEIGHT_ELEMENTS]
    del graph.initializer[:]
    graph.initializer.extend(others)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        for weight in weights
    )
    return weights


def _output_names(model: ModelProto) -> list[str]:
    return [output.name for output in model.graph.output]
