"""The layer graph: what partc partitions.

A :class:`LayerGraph` is a DAG of :class:`Layer` values, edges are :class:`Tensor` values. All of
them are frozen: a pass takes a graph and returns another. A graph that breaks a rule cannot be
built; :func:`check_graph` lists the rules. Nothing here knows torch, ONNX or TVM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from partc.errors import GraphError

ITEM_NBYTES: Mapping[str, int] = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}


@dataclass(frozen=True)
class TensorType:
    """An element type and a fixed shape; a scalar has shape ``()``."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_NBYTES:
            raise GraphError(f"unknown dtype {self.dtype!r}; known are {', '.join(ITEM_NBYTES)}")
        if any(extent < 0 for extent in self.shape):
            raise GraphError(f"negative extent in shape {list(self.shape)}")

    @cached_property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        return self.count * ITEM_NBYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Tensor:
    """An edge of the layer graph: a name, unique in its graph, and a type."""

    name: str
    type: TensorType

    @property
    def nbytes(self) -> int:
        return self.type.nbytes

    def __str__(self) -> str:
        return f"%{self.name}: {self.type}"


PLAIN = "plain"
"""The encoding of a tensor that is sent as it is."""

IMAGE = "image"
"""The encoding of an input that comes as the bytes of an image file, and is sent as these."""


@dataclass(frozen=True)
class Encoding:
    """One way to send a tensor from the device to the server.

    Args:
        name: A number format, what it is compressed with, or both: ``float16``, ``plain+lz4``.
        nbytes: What is sent, on average.
        encode_ms: Time on the device.
        decode_ms: Time on the server, unloaded.
        encode_mj: Energy that the device draws while it encodes.
        deviation: By how much the model's outputs differ at most if the server computes on what it
            decodes, relative to the largest value of each output.
    """

    name: str
    nbytes: int
    encode_ms: float = 0.0
    decode_ms: float = 0.0
    encode_mj: float = 0.0
    deviation: float = 0.0

    def __post_init__(self) -> None:
        costs = (self.nbytes, self.encode_ms, self.decode_ms, self.encode_mj, self.deviation)
        if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
            raise GraphError(f"what an encoding costs must be finite and not negative: {self}")

    @property
    def as_given(self) -> bool:
        """Whether what is sent is what there is without encoding anything."""
        return self.name in (PLAIN, IMAGE)

    @property
    def is_lossless(self) -> bool:
        """Whether what is decoded is what was encoded, whatever that is."""
        return self.as_given or self.name.partition("+")[0] == PLAIN


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs on either side.

    Args:
        device_ms: Time on the device.
        server_ms: Time on the server, unloaded.
        device_mj: Energy that the device draws while it computes the layer.
        device_error: Standard deviation of ``device_ms``, relative to it.
        server_error: The same of ``server_ms``.
        device_extrapolated: The layer is unlike all that were measured on the device.
        server_extrapolated: The same of the server.
    """

    device_ms: float
    server_ms: float
    device_mj: float
    device_error: float = 0.0
    server_error: float = 0.0
    device_extrapolated: bool = False
    server_extrapolated: bool = False

    @property
    def extrapolated(self) -> bool:
        """On one of the sides at least."""
        return self.device_extrapolated or self.server_extrapolated

    def __post_init__(self) -> None:
        costs = (self.device_ms, self.server_ms, self.device_mj)
        costs += (self.device_error, self.server_error)
        if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
            raise GraphError(f"a cost must be finite and not negative: {self}")


@dataclass(frozen=True)
class Layer:
    """One anchor operator with the element-wise work fused behind it.

    Args:
        name: Unique in the graph; what ``--pin`` patterns match.
        kind: The anchor operator, for example ``conv2d``.
        inputs: Tensors read, without weights. No tensor twice.
        outputs: Tensors made.
        ops: Every operator in the layer, in order, the anchor included.
        flops: Floating-point operations, a multiply-add counting as two.
        weight_nbytes: Size of the constants that the layer reads.
        parameters: Numbers of the anchor that its cost depends on, such as ``kernel`` and
            ``stride``; ``passes/parameters.py`` lists them.
        cost: Set by the annotate pass.
        payload: What code generation makes the layer from; opaque to everything else.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    ops: tuple[str, ...] = ()
    flops: int = 0
    weight_nbytes: int = 0
    parameters: Mapping[str, int] = field(default_factory=dict[str, int], hash=False)
    cost: LayerCost | None = None
    payload: object = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.flops < 0 or self.weight_nbytes < 0:
            raise GraphError(f"layer {self.name!r} has negative flops or weight_nbytes")

    @property
    def input_nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.inputs)

    @property
    def output_nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.outputs)

    @property
    def annotated_cost(self) -> LayerCost:
        """The layer's cost.

        Raises:
            GraphError: The layer has not been annotated.
        """
        if self.cost is None:
            raise GraphError(f"layer {self.name!r} has no cost; run the annotate pass first")
        return self.cost


@dataclass(frozen=True)
class LayerGraph:
    """A model as a DAG of layers, in topological order.

    Args:
        name: The model's name.
        inputs: The tensors that a caller gives, in the order of the model's signature.
        layers: In topological order.
        outputs: The tensors that a caller gets; each is an input or made by a layer.
        encodings: How a tensor may be sent, by its name, as it is given first; set by the encode
            pass. A tensor that is not listed is sent plain.

    Raises:
        GraphError: A rule of :func:`check_graph` is broken.
    """

    name: str
    inputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[Tensor, ...]
    encodings: Mapping[str, tuple[Encoding, ...]] = field(
        default_factory=dict[str, tuple[Encoding, ...]], hash=False
    )

    def __post_init__(self) -> None:
        check_graph(self)

    @cached_property
    def by_name(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def producers(self) -> Mapping[str, Layer]:
        """The layer that makes each tensor; inputs of the model have none."""
        return {tensor.name: layer for layer in self.layers for tensor in layer.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Layer, ...]]:
        """The layers that read each tensor, for every tensor of the graph."""
        found: dict[str, list[Layer]] = {tensor.name: [] for tensor in self.tensors}
        for layer in self.layers:
            for tensor in layer.inputs:
                found[tensor.name].append(layer)
        return {name: tuple(layers) for name, layers in found.items()}

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor: the inputs, then each layer's outputs."""
        made = (tensor for layer in self.layers for tensor in layer.outputs)
        return (*self.inputs, *made)

    def encodings_of(self, tensor: Tensor) -> tuple[Encoding, ...]:
        """How a tensor may be sent; the first is how it is unless another is chosen."""
        return self.encodings.get(tensor.name) or (Encoding(PLAIN, tensor.nbytes),)

    def as_given(self) -> LayerGraph:
        """The same graph with no choice of encodings."""
        return replace(self, encodings={name: each[:1] for name, each in self.encodings.items()})

    def with_layers(self, layers: Iterable[Layer]) -> LayerGraph:
        """The same graph with other layers; payloads and costs travel with them."""
        return replace(self, layers=tuple(layers))


def check_graph(graph: LayerGraph) -> None:
    """Refuse a graph that is not a DAG in order with one producer for every tensor.

    Raises:
        GraphError: Names the rule, the layer, and the layers around it.
    """
    _check_unique("input", [tensor.name for tensor in graph.inputs], graph.name)
    _check_unique("layer", [layer.name for layer in graph.layers], graph.name)
    known = {tensor.name: tensor for tensor in graph.inputs}
    for position, layer in enumerate(graph.layers):
        problem = _layer_problem(layer, known)
        if problem:
            raise GraphError(f"{problem}\n{_neighbourhood(graph, position)}")
        known.update((tensor.name, tensor) for tensor in layer.outputs)
    for tensor in graph.outputs:
        if known.get(tensor.name) != tensor:
            raise GraphError(
                f"graph {graph.name!r} returns {tensor}, but "
                + (
                    f"it is made as {known[tensor.name]}"
                    if tensor.name in known
                    else "no layer makes it"
                )
            )
    for name, encodings in graph.encodings.items():
        if name not in known or not encodings:
            raise GraphError(f"graph {graph.name!r} lists encodings of %{name}: {encodings}")
        _check_unique(f"encoding of %{name}", [each.name for each in encodings], graph.name)


def _layer_problem(layer: Layer, known: Mapping[str, Tensor]) -> str | None:
    """The rule that a layer breaks, given the tensors made before it."""
    read = [tensor.name for tensor in layer.inputs]
    made = [tensor.name for tensor in layer.outputs]
    if not layer.outputs:
        return f"layer {layer.name!r} makes no tensor"
    if len(set(read)) < len(read):
        return f"layer {layer.name!r} lists an input twice: {', '.join(read)}"
    for tensor in layer.inputs:
        if tensor.name not in known:
            return f"layer {layer.name!r} reads %{tensor.name}, which nothing before it makes"
        if known[tensor.name] != tensor:
            return f"layer {layer.name!r} reads {tensor}, which is made as {known[tensor.name]}"
    for index, name in enumerate(made):
        if name in known or name in made[:index]:
            return f"layer {layer.name!r} makes %{name}, which is made before it"
    return None


def _check_unique(what: str, names: list[str], graph_name: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise GraphError(f"graph {graph_name!r} has two {what}s named {name!r}")
        seen.add(name)


def _neighbourhood(graph: LayerGraph, position: int, reach: int = 5) -> str:
    """The layers around a position, the one there marked; never the whole graph."""
    start = max(0, position - reach)
    around = graph.layers[start : position + reach + 1]
    return "\n".join(
        f"{'>' if start + offset == position else ' '} {describe_layer(layer)}"
        for offset, layer in enumerate(around)
    )


def describe_layer(layer: Layer) -> str:
    """One line: what a layer makes, from what."""
    outputs = ", ".join(str(tensor) for tensor in layer.outputs)
    inputs = ", ".join(f"%{tensor.name}" for tensor in layer.inputs)
    return f"{outputs} = {layer.kind} {layer.name!r} ({inputs})"
