from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.errors import ModelError
from partc.graph import LayerGraph
from partc.report.text import parse_graph, print_graph


def test_golden(graph: LayerGraph, golden: Callable[[str, str], None]) -> None:
    golden("diamond.graph", print_graph(graph))


@given(data=st.data())
def test_round_trip(graphs: st.SearchStrategy[LayerGraph], data: st.DataObject) -> None:
    graph = data.draw(graphs)
    text = print_graph(graph)
    assert text.isascii()
    assert parse_graph(text) == graph
    assert print_graph(parse_graph(text)) == text


def test_a_payload_is_left_out(graph: LayerGraph) -> None:
    loaded = graph.with_layers(replace(layer, payload=object()) for layer in graph.layers)
    assert print_graph(loaded) == print_graph(graph)
    assert all(layer.payload is None for layer in parse_graph(print_graph(loaded)).layers)


def test_white_space_means_nothing(graph: LayerGraph) -> None:
    assert parse_graph(print_graph(graph).replace("\n", " \t\r\n")) == graph


@pytest.mark.parametrize("errors", [(0.5, 0.0), (0.0, 0.5)])
def test_one_side_may_be_certain(graph: LayerGraph, errors: tuple[float, float]) -> None:
    device, server = errors
    costs = [replace(each.annotated_cost, device_error=device) for each in graph.layers]
    uncertain = graph.with_layers(
        replace(layer, cost=replace(cost, server_error=server))
        for layer, cost in zip(graph.layers, costs, strict=True)
    )
    assert parse_graph(print_graph(uncertain)) == uncertain


def test_what_is_certain_says_nothing_of_it(graph: LayerGraph) -> None:
    (stem, *others) = graph.layers
    cost = replace(stem.annotated_cost, device_error=0.0, server_error=0.0)
    text = print_graph(graph.with_layers([replace(stem, parameters={}, cost=cost), *others]))
    line = next(line for line in text.splitlines() if '"stem"' in line)
    assert line.endswith("device_ms = 12.5, server_ms = 0.75, device_mj = 125.0}")
    assert "parameters" not in line


TEXT = """\
graph "g" (%x: float32[2, 3]) {
  %y: int8[] = relu "l" (%x) {flops = 3, device_ms = 1.0, server_ms = 2e-07, device_mj = 0.5}
  return %y
}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TEXT, "", "line 1, column 1: expected 'graph', found the end"),
        ("return", "retrun", "line 3, column 3: expected '=' or 'return' or a %tensor, found ret"),
        (
            "flops",
            "flop",
            "line 2, column 31: expected 'device_extrapolated' or 'device_ms' or 'err",
        ),
        ("= 3", "= 3.5", "line 2, column 40: expected ',' or '}', found ."),
        ("[2", "[-2", "line 1, column 24: expected ']' or a whole number, found -2"),
        ("relu", '"a\\q"', 'line 2, column 16: expected a "string" or a word, found "'),
        ("(%x)", "(%x", "line 2, column 29: expected ')' or ',', found {"),
        ("%y\n}", "%y", "line 3, column 10: expected ',' or '}', found the end"),
        ("float32", "float31", "line 1, column 12: unknown dtype 'float31'; known are bool"),
        ("(%x)", "(%z)", "line 2, column 26: %z is used before anything defines it"),
        ("%y: int8", "%x: int8", "line 2, column 3: %x is defined twice"),
        ("= 1.0", "= -1.0", "line 2, column 42: a cost must be finite and not negative"),
        ("flops = 3", "flops = 3, flops = 4", "line 2, column 3: layer 'l' has an attribute tw"),
        (
            "flops = 3",
            "parameters = {kernel = 1, groups = 2, kernel = 3}",
            "line 2, column 31: a parameter is given twice: kernel, groups, kernel",
        ),
        (
            "flops = 3",
            "parameters = {kernel = -1}",
            "line 2, column 54: expected a whole number, f",
        ),
        (
            "flops = 3",
            "parameters = {}",
            'line 2, column 45: expected a "string" or a word, found }',
        ),
        ("0.5}", "0.5, errors = [0.1]}", "line 2, column 108: expected ',', found ]"),
        ("0.5}", "0.5, errors = [0.1, -0.2]}", "line 2, column 3: a cost must be finite and not"),
        (
            "flops = 3, device_ms = 1.0, server_ms = 2e-07, device_mj = 0.5",
            "server_extrapolated",
            "line 2, column 3: layer 'l' has no cost that could be uncertain",
        ),
        ("(%x)", "(%x, %x)", "line 1, column 1: layer 'l' lists an input twice"),
        ("%y: int8[] =", "=", "line 3, column 10: %y is used before anything defines it"),
        ("= 3", f"= {'9' * 5000}", "line 2, column 31: Exceeds the limit"),
    ],
)
def test_a_mistake_is_reported_where_it_is(old: str, new: str, message: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    with pytest.raises(ModelError) as caught:
        parse_graph(text)
    assert message in str(caught.value)
