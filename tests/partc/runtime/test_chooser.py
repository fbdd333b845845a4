from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from strategies import any_costs, conditions, graphs_and_cuts, thorough

from partc.codegen.glue import model_spec
from partc.graph import LayerGraph
from partc.passes.segment import build_plan_table
from partc.plan import Conditions, Cut
from partc.runtime.chooser import Chooser
from partc.runtime.errors import InputError
from partc.runtime.spec import PlanSpec, SentSpec, TensorSpec

IMAGE = TensorSpec("image", "float32", (1, 250))  # a kilobyte
SENT = SentSpec("image", "float32", (1, 250), "plain", 1000)
PLANS = (
    PlanSpec("server-only", 0, (), ("s",), (SENT,), (IMAGE,), 0.0, 1.0),
    PlanSpec("device-only", 1, ("s",), (), (), (), 20.0, 0.0),
)


@thorough
@given(graphs_and_cuts(), conditions(any_costs))
def test_it_is_the_plan_that_takes_least(
    case: tuple[LayerGraph, list[Cut]], at: Conditions
) -> None:
    graph, cuts = case
    if not graph.layers:
        return
    table = build_plan_table(graph, cuts)
    spec = model_spec(graph, table, "device-only", ())
    name = Chooser(spec.plans).choose(
        at.uplink_mbps, at.downlink_mbps, at.round_trip_ms, server_slowdown=at.load
    )
    latencies = {named.name: named.plan.latency_ms(at) for named in table.plans}
    assert latencies[name] == pytest.approx(min(latencies.values()), abs=1e-9)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ((8.0, 8.0, 0.0), "server-only"),  # 1 + 1 + 1 ms
        ((0.5, 8.0, 0.0), "server-only"),  # 16 + 1 + 1 ms
        ((0.4, 8.0, 0.0), "device-only"),  # 20 + 1 + 1 ms
        ((8.0, 0.4, 0.0), "device-only"),
        ((8.0, 8.0, 18.0), "device-only"),
        ((8.0, 8.0, 0.0, 19.0), "device-only"),
        ((0.4, 8.0, 0.0, 1.0, 2.0), "server-only"),
    ],
)
def test_by_hand(given_: tuple[float, ...], expected: str) -> None:
    assert Chooser(PLANS).choose(*given_) == expected


def test_what_is_sent_in_fewer_bytes_arrives_sooner() -> None:
    narrow = replace(PLANS[0], upload=(replace(SENT, encoding="uint8+lz4", nbytes=200),))
    assert Chooser((narrow, PLANS[1])).choose(0.1, 8.0, 0.0) == "server-only"  # 16 + 1 + 1 ms
    assert Chooser((narrow, PLANS[1])).choose(0.08, 8.0, 0.0) == "device-only"  # 20 + 1 + 1 ms


def test_what_is_not_eligible_is_not_chosen() -> None:
    barred = (replace(PLANS[0], eligible=False), PLANS[1])
    assert Chooser(PLANS).choose(8.0, 8.0, 0.0) == "server-only"
    assert Chooser(barred).choose(8.0, 8.0, 0.0) == "device-only"


@pytest.mark.parametrize(
    "wrong",
    [
        (0.0, 1.0, 1.0),
        (1.0, -1.0, 1.0),
        (1.0, 1.0, -1.0),
        (1.0, 1.0, math.nan),
        (math.inf, 1.0, 1.0),
    ],
)
def test_what_no_network_is(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="rates must be above zero"):
        Chooser(PLANS).choose(*wrong)
