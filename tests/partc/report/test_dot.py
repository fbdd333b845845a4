from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from partc.graph import LayerGraph
from partc.plan import Cut
from partc.report.dot import graph_to_dot

STATEMENT = re.compile(r'  (node|edge|\w+|\w+ -> \w+) \[((\w+=("([^"\\]|\\.)*"|\w+))(, )?)+\];')


def test_a_graph_with_a_cut(
    graph: LayerGraph, cut: Cut, golden: Callable[[str, str], None]
) -> None:
    golden("diamond.dot", graph_to_dot(graph, cut))


def test_a_graph_without_a_cut_has_one_colour(graph: LayerGraph) -> None:
    text = graph_to_dot(graph, None)
    assert set(re.findall(r"fillcolor=(\S+?)[\],]", text)) == {'"#eeeeee"'}
    assert "bold]" not in text.replace("[bold]", "")


def test_any_name_is_shown_as_it_is(graph: LayerGraph) -> None:
    first, *rest = graph.layers
    named = graph.with_layers([replace(first, name='a"b\\N&lt;\n\0}'), *rest])
    _, *statements, _ = graph_to_dot(named, None).splitlines()
    assert all(STATEMENT.fullmatch(statement) for statement in statements)
    assert r'label="a\"b\\N&amp;lt;U+000AU+0000}\nconv2d"' in "\n".join(statements)
