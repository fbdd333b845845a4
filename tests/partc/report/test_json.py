from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.errors import ModelError
from partc.graph import LayerGraph
from partc.report.certainty import plan_error
from partc.report.decision import Decision
from partc.report.json import decision_json, graph_from_json, graph_to_json, plan_report


def test_golden_graph(graph: LayerGraph, golden: Callable[[str, str], None]) -> None:
    golden("diamond.graph.json", graph_to_json(graph))


def test_golden_decision(decision: Decision, golden: Callable[[str, str], None]) -> None:
    golden("diamond.plan.json", decision_json(decision))


@given(data=st.data())
def test_round_trip(graphs: st.SearchStrategy[LayerGraph], data: st.DataObject) -> None:
    graph = data.draw(graphs)
    assert graph_from_json(graph_to_json(graph)) == graph


def test_a_payload_and_what_the_graph_remembers_are_left_out(graph: LayerGraph) -> None:
    loaded = graph.with_layers(replace(layer, payload=object()) for layer in graph.layers)
    assert loaded.consumers
    assert graph_to_json(loaded) == graph_to_json(graph)
    assert "payload" not in graph_to_json(loaded)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{", "[", "graph JSON: Expected `object`, got `array`"),
        ('"dense"', "7", "Expected `str`, got `int` - at `$.layers[3].kind`"),
        ('"kind"', '"sort"', "missing required field `kind` - at `$.layers[0]`"),
        ('"bool"', '"bit"', "unknown dtype 'bit'"),
        ("}\n", "", "graph JSON: "),
    ],
)
def test_a_mistake_is_reported_where_it_is(
    graph: LayerGraph, old: str, new: str, message: str
) -> None:
    text = graph_to_json(graph)
    with pytest.raises(ModelError) as caught:
        graph_from_json(text.replace(old, new, 1) if new != "[" else "[]")
    assert message in str(caught.value)


def test_a_decision_has_exactly_the_published_keys(decision: Decision) -> None:
    found = json.loads(decision_json(decision))
    assert list(found) == [
        *("objective", "link", "latency_ms", "energy_mj", "latency_error", "energy_error"),
        *("slowest_ms", "plan", "device_only", "server_only", "layers"),
    ]
    assert list(found["plan"]) == [
        *("device_layers", "server_layers", "upload", "encodings", "deviation"),
        *("upload_nbytes", "download_nbytes"),
        *("device_ms", "server_ms", "transfer_ms", "device_error", "server_error"),
    ]
    totals = ["latency_ms", "energy_mj", "latency_error", "energy_error", "keeps_limits"]
    assert list(found["device_only"]) == list(found["server_only"]) == totals
    assert list(found["layers"][0]) == [
        *("name", "kind", "side", "device_ms", "server_ms", "device_mj"),
        *("flops", "weight_nbytes", "output_nbytes"),
        *("device_error", "server_error", "device_extrapolated", "server_extrapolated"),
    ]


def test_the_terms_of_a_decision_add_up(decision: Decision) -> None:
    report = plan_report(decision)
    plan = report.plan
    assert plan.device_ms + plan.transfer_ms + plan.server_ms == pytest.approx(report.latency_ms)
    assert report.latency_ms == pytest.approx(decision.plan.latency_ms(decision.conditions))


def test_a_decision_says_how_sure_it_is(doubtful: Decision) -> None:
    report = plan_report(doubtful)
    error = plan_error(doubtful, doubtful.plan)
    assert (report.latency_error, report.energy_error) == (error.latency, error.energy)
    assert (report.plan.device_error, report.plan.server_error) == (error.device, error.server)
    alone = plan_error(doubtful, doubtful.device_only)
    assert report.device_only.latency_error == alone.latency != error.latency
    assert [row.device_error for row in report.layers] == [0.5, 0.25, 0.5, 0.125]
    assert [row.server_error for row in report.layers] == [0.25, 0.5, 0.5, 0.25]
    assert [row.device_extrapolated for row in report.layers] == [False] * 4
    assert [row.server_extrapolated for row in report.layers] == [False, False, True, False]
