# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportPrivateUsage=false
# TVM ships no types, and has no public list of its converters
"""Which ONNX operators cannot be compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from partc.errors import ModelError
from partc.frontends.onnx_messages import describe_node
from partc.frontends.onnx_relax import is_standard

_CONVERTERS = frozenset[str](_get_convert_map())
_MADE_FROM_SHAPES = frozenset({"Shape", "Size"})


def check_operators(model: ModelProto, title: str, *, folded: bool) -> None:
    """Refuse a model with operators that cannot be compiled.

    Args:
        model: The model.
        title: What messages call the model.
        folded: Whether shape arithmetic is folded. Where it is not, a node that folding may remove
            is not held against the model, nor what only shapes can tell.

    Raises:
        ModelError: Lists every such operator with the name of its node.
    """
    facts = _Facts(model.graph)
    nodes = enumerate(model.graph.node) if folded else _lasting_nodes(model.graph)
    problems = [
        f"{describe_node(node, index)}: {problem}"
        for index, node in nodes
        for problem in _problems(node, facts)
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise ModelError(f"{title} holds operators that cannot be compiled:\n  {listing}")


@dataclass(frozen=True)
class _Facts:
    """What rules ask about the graph around a node."""

    graph: GraphProto

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        return {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*self.graph.value_info, *self.graph.input)
            if value.type.tensor_type.HasField("shape")
        }

    @cached_property
    def read(self) -> frozenset[str]:
        """Every value that something uses."""
        inputs = (name for node in self.graph.node for name in node.input)
        return frozenset((*inputs, *(output.name for output in self.graph.output)))

    def constant(self, name: str) -> NDArray[np.generic] | None:
        found = (tensor for tensor in self.graph.initializer if tensor.name == name)
        tensor = next(found, None)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def _problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    if not is_standard(node.domain):
        yield "only ONNX's own operators have converters"
    elif node.op_type in _REFUSED:
        yield _REFUSED[node.op_type]
    elif node.op_type not in _CONVERTERS:
        yield "TVM has no converter for it"
    elif node.op_type in _RULES:
        yield from filter(None, (_RULES[node.op_type](node, facts),))


def _lasting_nodes(graph: GraphProto) -> Iterable[tuple[int, NodeProto]]:
    """The nodes that no folding can remove: they read inputs, and outputs depend on them."""
    needed = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    variable = {value.name for value in graph.input}
    for index, node in enumerate(graph.node):
        varies = variable.intersection(node.input) and node.op_type not in _MADE_FROM_SHAPES
        if varies or node.op_type in _RANDOM:
            variable.update(filter(None, node.output))
            if needed.intersection(node.output):
                yield index, node


def _attribute(node: NodeProto, name: str, default: object) -> object:
    found = (attribute for attribute in node.attribute if attribute.name == name)
    attribute = next(found, None)
    return default if attribute is None else onnx.helper.get_attribute_value(attribute)


def _reads_later_outputs(node: NodeProto, facts: _Facts) -> bool:
    return any(output in facts.read for output in node.output[1:] if output)


def _batch_normalization(node: NodeProto, facts: _Facts) -> str | None:
    if _attribute(node, "training_mode", 0) or _reads_later_outputs(node, facts):
        return "it is in training mode; export the model for inference"
    return None


def _dropout(node: NodeProto, facts: _Facts) -> str | None:
    mode = node.input[2] if len(node.input) > 2 else ""
    training = facts.constant(mode)
    if mode and (training is None or training.any()):
        return "it is in training mode; export the model for inference"
    if _reads_later_outputs(node, facts):
        return "its mask is used"
    return None


def _layer_normalization(node: NodeProto, facts: _Facts) -> str | None:
    axis = _attribute(node, "axis", -1)
    rank = facts.ranks.get(node.input[0])
    if axis != -1 and rank is not None and axis != rank - 1:
        return f"TVM normalises wrongly over axis {axis} and those after it"
    if _reads_later_outputs(node, facts):
        return "TVM computes neither its mean nor its deviation"
    return None


def _rms_normalization(node: NodeProto, facts: _Facts) -> str | None:
    axis = _attribute(node, "axis", -1)
    rank = facts.ranks.get(node.input[0])
    if rank is not None and axis in (0, -rank):
        return "TVM cannot normalise over all axes at once"
    return None


def _conv_transpose(node: NodeProto, _: _Facts) -> str | None:
    if _attribute(node, "output_shape", None) is not None:
        return "TVM ignores output_shape; export it with pads and output_padding"
    return None


def _is_inf(node: NodeProto, _: _Facts) -> str | None:
    both = _attribute(node, "detect_negative", 1) and _attribute(node, "detect_positive", 1)
    return None if both else "TVM cannot tell one infinity from the other"


def _space_to_depth(node: NodeProto, _: _Facts) -> str | None:
    return "TVM ignores mode CRD" if _attribute(node, "mode", b"DCR") == b"CRD" else None


def _roi_align(node: NodeProto, _: _Facts) -> str | None:
    return "TVM computes mode max wrongly" if _attribute(node, "mode", b"avg") == b"max" else None


_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_RANDOM, "random numbers cannot be reproduced"),
    **dict.fromkeys(("If", "Loop", "Scan"), "control flow that depends on the inputs"),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        ),
        "only tensors can be compiled, no sequences or optional values",
    ),
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "MatMulInteger"),
        "dynamic quantisation; quantise statically (QDQ) or export in floating point",
    ),
    "Attention": "TVM has no converter for it; export with operator set 22 or earlier",
    "NonMaxSuppression": "TVM computes it wrongly; cut it off and run it on the outputs",
}
_RULES: Mapping[str, Callable[[NodeProto, _Facts], str | None]] = {
    "BatchNormalization": _batch_normalization,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "IsInf": _is_inf,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "RoiAlign": _roi_align,
    "SpaceToDepth": _space_to_depth,
}
