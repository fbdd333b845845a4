"""The layer graph in Graphviz's language."""

from __future__ import annotations

from partc.graph import LayerGraph
from partc.plan import Cut, Side
from partc.quantities import format_nbytes
from partc.report.drawing import Edge, Node, Role, draw

_FILL = {None: "#eeeeee", Side.DEVICE: "#cfe3f7", Side.SERVER: "#fbdcb8"}


def graph_to_dot(graph: LayerGraph, cut: Cut | None) -> str:
    """The graph as a digraph: layers coloured by side, edges that cross the cut bold."""
    drawn = draw(graph, cut)
    lines = [
        f"digraph {_quote(graph.name)} {{",
        "  node [shape=box, style=filled, fontname=Helvetica];",
        "  edge [fontname=Helvetica, fontsize=10];",
        *(f"  {_node(node)}" for node in drawn.nodes),
        *(f"  {_edge(edge)}" for edge in drawn.edges),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _node(node: Node) -> str:
    shape = "" if node.role is Role.LAYER else ", shape=ellipse"
    label = _quote(node.name, node.caption)
    return f'{node.key} [label={label}, fillcolor="{_FILL[node.side]}"{shape}];'


def _edge(edge: Edge) -> str:
    style = ", style=bold, penwidth=3" if edge.crosses else ""
    label = _quote(str(edge.tensor.type), format_nbytes(edge.tensor.nbytes))
    return f"{edge.source.key} -> {edge.target.key} [label={label}{style}];"


def _quote(*lines: str) -> str:
    r"""A label whose text is shown as it is.

    Graphviz reads escapes such as ``\N`` and HTML entities in labels; control characters, which it
    cannot hold, are spelt out.
    """
    return '"' + r"\n".join("".join(map(_escape, line)) for line in lines) + '"'


def _escape(character: str) -> str:
    special = {'"': r"\"", "\\": r"\\", "&": "&amp;"}
    if character in special:
        return special[character]
    return character if character.isprintable() else f"U+{ord(character):04X}"
