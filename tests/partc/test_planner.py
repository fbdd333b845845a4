from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from strategies import tiny_graph

from partc import planner
from partc.cost import STAGES
from partc.errors import InfeasibleError, PartcError
from partc.goal import Goal, GoalOptions, make_goal
from partc.graph import PLAIN, Encoding
from partc.passes.limited import Optimum, find_limited_cut
from partc.plan import Objective
from partc.planner import decide, survey, switch
from partc.report.survey import survey_json
from partc.report.switching import describe, switching_json

# Over wifi, 18.88 Mbit/s up, a kilobyte takes 0.42 ms.
CHAIN = tiny_graph(
    {"x": 200, "t": 20, "u": 10, "y": 1},
    {"a": ("x -> t", 10, 1), "b": ("t -> u", 20, 2), "c": ("u -> y", 60, 4)},
    "y",
)
BUSY = CHAIN.with_layers(
    replace(layer, cost=replace(layer.annotated_cost, device_mj=6 * layer.annotated_cost.device_ms))
    for layer in CHAIN.layers
)
"""On a device that draws more while it computes than while it waits."""


def server_layers(**options: Any) -> str:
    (decision,) = decide(BUSY, make_goal("raspberry-pi-4", "native", **options))
    return " ".join(sorted(decision.plan.server_layers))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "b c"),
        ({"objective": "energy"}, "b c"),
        ({"pins": {"kind:toy": "device"}}, ""),
        ({"forbid": {"b": "server"}}, "c"),
        ({"private_until": "b"}, "c"),
        ({"private_until": "a"}, "b c"),
        ({"max_upload_nbytes": 15_000}, "c"),
        ({"max_server_ms": 5.0}, "c"),
        ({"split": False}, ""),
        ({"device_memory_nbytes": 210_000}, "a b c"),
    ],
)
def test_constraints_move_the_cut(options: dict[str, Any], expected: str) -> None:
    assert server_layers(**options) == expected


def test_a_weight_decides_between_time_and_energy() -> None:
    """Of 15.7 ms and 87.5 mJ with b and c on the server, and 31 ms and 62 mJ on the device."""
    graph = tiny_graph(
        {"x": 20, "t": 6, "u": 2, "y": 1},
        {"a": ("x -> t", 3, 1), "b": ("t -> u", 8, 2), "c": ("u -> y", 20, 3)},
        "y",
    )

    def chosen(ms_per_mj: float) -> set[str]:
        options: GoalOptions = {"objective": "weighted", "ms_per_mj": ms_per_mj}
        (decision,) = decide(graph, make_goal("raspberry-pi-4", "native", **options))
        return set(decision.plan.server_layers)

    assert (chosen(0.59), chosen(0.61)) == ({"b", "c"}, set())


def test_a_plan_that_breaks_a_limit_is_marked() -> None:
    (decision,) = decide(BUSY, make_goal("raspberry-pi-4", "native", private_until="b"))
    assert decision.breaking == ("server only",)
    (decision,) = decide(BUSY, make_goal("raspberry-pi-4", "native", split=True))
    assert decision.breaking == ("device only", "server only")
    (decision,) = decide(BUSY, make_goal("raspberry-pi-4", "native"))
    assert decision.breaking == ()


@pytest.mark.parametrize(("max_error", "encoded"), [(0.005, 0), (0.01, 1), (0.013, 2)])
def test_what_encodings_lose_adds_up(max_error: float, encoded: int) -> None:
    graph = tiny_graph(
        {"x": 1, "t": 20, "u": 20, "y": 1},
        {"a": ("x -> t", 1, 1), "b": ("x -> u", 1, 1), "c": ("t u -> y", 9, 1)},
        "y",
    )
    halved = Encoding("float16", 10_000, deviation=0.006)
    ways = {name: (Encoding(PLAIN, 20_000), halved) for name in "tu"}
    pins = {"a": "device", "b": "device", "c": "server"}
    goal = make_goal("raspberry-pi-4", "native", pins=pins, max_error=max_error)
    (decision,) = decide(replace(graph, encodings=ways), goal)
    assert [each.name for each in decision.plan.encodings].count("float16") == encoded
    assert decision.plan.deviation <= max_error
    assert f"--max-error {max_error:g}" in decision.keeping


def test_a_larger_error_may_be_what_it_takes() -> None:
    with pytest.raises(InfeasibleError, match="; or a larger --max-error may allow smaller enc"):
        server_layers(max_upload_nbytes=5_000, split=True, max_error=0.0)


def test_a_placement_may_be_where_no_plan_can_be() -> None:
    goal = make_goal("raspberry-pi-4", "native", pins={"a": "server", "c": "device"})
    found = switch(BUSY, goal, goal.links[0], 2)
    assert found.cut_cost is None
    told = list(describe(found))
    assert "no plan that goes to the server once has all layers where they have to be" in told[1]
    assert json.loads(switching_json(found))["one_switch_cost"] is None


def test_what_is_not_proven_over_a_range_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_proven(*arguments: Any) -> Optimum:
        found = find_limited_cut(*arguments)
        return replace(found, bound=found.cost / 2)

    goal = make_goal("raspberry-pi-4", "native", uplink_mbps=(1.0, 100.0))
    assert survey(BUSY, goal, goal.links[0]).gap == 0
    monkeypatch.setattr(planner, "find_limited_cut", half_proven)
    found = survey(BUSY, goal, goal.links[0])
    assert found.gap == 0.5
    assert json.loads(survey_json(found))["gap"] == 0.5


def test_what_cannot_be_kept_is_said() -> None:
    with pytest.raises(InfeasibleError) as caught:
        server_layers(deadline_ms=30.0, max_upload_nbytes=5_000)
    assert str(caught.value).startswith(
        "no plan keeps --deadline 30 ms and --max-upload 5.0 kB together; --deadline 30 ms would "
    )


def test_a_rate_that_the_fastest_plan_cannot_keep_up_with() -> None:
    """It takes 20 ms on the device: the others take less at their slowest."""
    graph = tiny_graph(
        {"x": 5, "t": 1, "u": 1, "y": 1},
        {"a": ("x -> t", 9, 20), "b": ("t -> u", 9, 20), "c": ("u -> y", 3, 20)},
        "y",
    )

    def decision(**options: Any) -> Any:
        (found,) = decide(graph, make_goal("native", "native", **options))
        return found

    slow, fast = decision(rate_hz=40.0), decision(rate_hz=100.0, link="ethernet")
    assert (slow.objective, slow.plan.server_layers) == (Objective.LATENCY, ())
    assert fast.objective is Objective.THROUGHPUT
    stages_ms = [stage.of(fast.plan, fast.conditions) for stage in STAGES]
    assert fast.value(fast.plan) == max(stages_ms) < 21
    assert decision(objective="throughput", link="ethernet").plan == fast.plan


def _ranges(**options: Any) -> Goal:
    return make_goal("raspberry-pi-4", "native", uplink_mbps=(0.1, 1000.0), **options)


def test_plans_of_a_range_are_best_where_they_are_said_to_be() -> None:
    goal = _ranges()
    found = survey(CHAIN, goal, goal.links[0])
    assert list(found.winners) == ["server-only", "cut-1", "cut-2", "device-only"]
    for winner in found.winners.values():
        low, high = winner.interval("uplink_mbps")
        (decision,) = decide(
            CHAIN, make_goal("raspberry-pi-4", "native", uplink_mbps=(low * high) ** 0.5)
        )
        assert decision.plan == winner.plan


def test_energy_over_a_range_counts_what_the_radio_draws_at_each_rate() -> None:
    goal = _ranges(objective="energy")
    found = survey(BUSY, goal, goal.links[0])
    assert len(found.winners) > 1
    for winner in found.winners.values():
        low, high = winner.interval("uplink_mbps")
        middle = make_goal(
            "raspberry-pi-4",
            "native",
            objective="energy",
            uplink_mbps=(low * high) ** 0.5,
        )
        (decision,) = decide(BUSY, middle)
        assert decision.plan == winner.plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "throughput"}, "not for throughput; give one value for each condition"),
        ({"rate_hz": 3.0}, "not for throughput"),
        (
            {"deadline_ms": 5.0, "max_server_ms": 2.0},
            "what --deadline and --max-server-time allows",
        ),
    ],
)
def test_what_a_range_is_no_use_for(options: dict[str, Any], message: str) -> None:
    goal = _ranges(**options)
    with pytest.raises(PartcError, match=message):
        survey(BUSY, goal, goal.links[0])


def test_limits_that_do_not_depend_on_conditions_hold_over_a_range() -> None:
    goal = _ranges(max_upload_nbytes=15_000)
    assert list(survey(BUSY, goal, goal.links[0]).winners) == ["cut-1", "device-only"]
