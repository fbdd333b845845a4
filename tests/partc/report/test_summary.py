from __future__ import annotations

from dataclasses import replace

import pytest

from partc.plan import Objective
from partc.report.decision import Decision
from partc.report.summary import (
    describe_conditions,
    describe_contest,
    describe_extrapolation,
    describe_load,
    describe_power,
    headline,
    premises,
)


def test_all_layers_on_one_machine_read_so(decision: Decision) -> None:
    server_only = replace(decision, plan=decision.server_only)
    assert headline(server_only).startswith("diamond & co: all 4 layers on x86-64-v3; 136.6 ms")


def test_machines_of_one_name_keep_their_counts(decision: Decision) -> None:
    twins = replace(decision, server="jetson")
    assert "2 layers on jetson and 2 layers on jetson" in headline(twins)


@pytest.mark.parametrize(
    ("busy", "load", "told"),
    [
        (2, 2.125, ("server computing 2 other requests: 2.12 times slower",)),
        (1, 1.5, ("server computing 1 other request: 1.5 times slower",)),
        (0.5, 1, ("server computing 0.5 other requests: no slower",)),
        (0, 1, ()),
    ],
)
def test_a_busy_server_is_mentioned(
    decision: Decision, busy: float, load: float, told: tuple[str, ...]
) -> None:
    conditions = replace(decision.conditions, load=load)
    assert premises(replace(decision, server_busy=busy, conditions=conditions))[1:] == told


def test_whether_a_plan_keeps_up_is_said(decision: Decision) -> None:
    possible = 1e3 / decision.slowest_ms
    assert f"keeps up with {possible / 2:g} requests a second" in premises(
        replace(decision, rate_hz=possible / 2)
    )
    (line,) = (
        line for line in premises(replace(decision, rate_hz=2 * possible)) if "asked for" in line
    )
    assert line.startswith(f"{possible:.4g} requests a second at most, though")


def test_watts_matter_to_energy_alone(decision: Decision) -> None:
    expected = (describe_conditions(decision), *describe_load(decision))
    assert premises(decision) == expected
    frugal = replace(decision, objective=Objective.ENERGY)
    assert premises(frugal)[2:] == describe_power(decision.power)
    assert len(premises(frugal)) == 4


def test_watts_say_where_they_are_from(decision: Decision) -> None:
    power = replace(decision.power, tail_mj=12_270.6, source="RAPL package-0")
    assert describe_power(power) == (
        "device power: 10 W busy, 2 W idle; RAPL package-0",
        "its radio, on top of idling: 1.5 W sending, 1 W receiving, 12.3 J after each request",
    )


def test_a_headline_says_how_sure_it_is(doubtful: Decision) -> None:
    assert headline(doubtful).endswith("; 67.8 ms ±10 %, 300.1 mJ ±21 %")


def test_a_plan_of_exact_times_needs_no_error(doubtful: Decision) -> None:
    layers = (
        replace(layer, cost=replace(layer.annotated_cost, device_error=0.0, server_error=0.0))
        for layer in doubtful.graph.layers
    )
    exact = replace(doubtful, graph=doubtful.graph.with_layers(layers))
    assert headline(exact).endswith("; 67.8 ms, 300.1 mJ")


def test_a_close_call_is_said(doubtful: Decision, close: Decision) -> None:
    assert describe_contest(doubtful) == ()
    assert describe_contest(close) == (
        "close call: device only takes 967.4 us more, give or take 13.7 ms; "
        "profile or --measure to be sure",
    )
    assert premises(close)[2:] == describe_contest(close)


def test_a_close_call_is_in_the_objectives_unit(close: Decision) -> None:
    frugal = replace(close, objective=Objective.ENERGY, plan=close.device_only)
    slow = replace(frugal, conditions=replace(close.conditions, uplink_mbps=13.0))
    assert "mJ more, give or take" in describe_contest(slow)[0]


def test_extrapolated_layers_are_counted(decision: Decision) -> None:
    assert describe_extrapolation(decision.graph) == (
        "* unlike all that was measured (1 of 4 layers): "
        "`partc profile` for longer, or use --measure"
    )


def test_nothing_is_said_where_nothing_is_extrapolated(decision: Decision) -> None:
    stem, *_ = decision.graph.layers
    alone = replace(decision.graph, layers=(stem,), outputs=stem.outputs)
    assert describe_extrapolation(alone) is None
    bare = alone.with_layers([replace(stem, cost=None)])
    assert describe_extrapolation(bare) is None


def test_a_device_on_a_wire_has_no_radio(decision: Decision) -> None:
    wired = replace(decision.power, upload_watts=0.0, download_watts=0.0)
    assert describe_power(wired) == ("device power: 10 W busy, 2 W idle; no source given",)
