"""A layer graph as boxes and arrows: what the DOT and the SVG view both draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from partc.graph import LayerGraph, Tensor
from partc.plan import Cut, Side


class Role(str, Enum):
    """What a node stands for."""

    INPUT = "input"
    LAYER = "layer"
    OUTPUT = "output"


@dataclass(frozen=True)
class Node:
    """A box: a layer, or an input or output of the model.

    Args:
        key: Made of letters, digits and ``_``; unique in the drawing.
        role: What the node stands for.
        name: The layer's or the tensor's name.
        caption: A second line: a layer's kind, a tensor's type.
        side: Where it lies; none without a cut.
    """

    key: str
    role: Role
    name: str
    caption: str
    side: Side | None


@dataclass(frozen=True)
class Edge:
    """An arrow: a tensor on its way to one reader; ``crosses`` if it travels over the link."""

    source: Node
    target: Node
    tensor: Tensor
    crosses: bool


@dataclass(frozen=True)
class Drawing:
    """Nodes in topological order, and the edges between them in the order of their readers."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def draw(graph: LayerGraph, cut: Cut | None) -> Drawing:
    """The nodes and edges of a graph; inputs and outputs of the model lie on the device."""
    home = None if cut is None else Side.DEVICE
    inputs = [
        Node(f"input_{index}", Role.INPUT, tensor.name, str(tensor.type), home)
        for index, tensor in enumerate(graph.inputs)
    ]
    layers = [
        Node(f"layer_{index}", Role.LAYER, layer.name, layer.kind, cut and cut.side(layer))
        for index, layer in enumerate(graph.layers)
    ]
    outputs = [
        Node(f"output_{index}", Role.OUTPUT, tensor.name, str(tensor.type), home)
        for index, tensor in enumerate(graph.outputs)
    ]
    makers = {tensor.name: node for tensor, node in zip(graph.inputs, inputs, strict=True)}
    for layer, node in zip(graph.layers, layers, strict=True):
        makers.update((tensor.name, node) for tensor in layer.outputs)
    edges = [
        Edge(makers[tensor.name], reader, tensor, makers[tensor.name].side is not reader.side)
        for reader, tensor in _readings(graph, layers, outputs)
    ]
    return Drawing((*inputs, *layers, *outputs), tuple(edges))


def _readings(
    graph: LayerGraph, layers: list[Node], outputs: list[Node]
) -> Iterator[tuple[Node, Tensor]]:
    """Every node that reads a tensor, with that tensor."""
    for layer, node in zip(graph.layers, layers, strict=True):
        yield from ((node, tensor) for tensor in layer.inputs)
    yield from zip(outputs, graph.outputs, strict=True)
