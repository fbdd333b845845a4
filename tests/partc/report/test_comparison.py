from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from strategies import tiny_graph

from partc.cost import LATENCY
from partc.graph import LayerCost, LayerGraph
from partc.passes.baselines import PLANNERS, Problem, partc_cut
from partc.plan import Conditions, Cut, EntryCharges, Objective, make_plan
from partc.report.comparison import Comparison, compare, comparison_json, print_comparison
from partc.report.decision import Decision
from partc.report.terminal import report_console

ENTRY = EntryCharges(device_ms=1.5, server_ms=0.25, device_mj=15.0)


def planned(decision: Decision, graph: LayerGraph) -> Decision:
    """The best decision for a graph, with entries charged."""
    best = partc_cut(Problem(graph, LATENCY, decision.conditions, ENTRY))
    return replace(
        decision,
        graph=graph,
        plan=make_plan(graph, best, ENTRY),
        device_only=make_plan(graph, Cut.device_only(), ENTRY),
        server_only=make_plan(graph, Cut.server_only(graph), ENTRY),
    )


@pytest.fixture
def entered(decision: Decision) -> Decision:
    return planned(decision, decision.graph)


@pytest.fixture
def infeasible(decision: Decision) -> Decision:
    """A branch that is far faster on the server, before a head that is slower there."""
    times_ms = {"left/branch [bold]": (900.0, 1.5), "<head>": (88.0, 450.0)}
    layers = (
        replace(layer, cost=LayerCost(*times_ms[layer.name], device_mj=500.0))
        if layer.name in times_ms
        else layer
        for layer in decision.graph.layers
    )
    return planned(decision, decision.graph.with_layers(layers))


def printed(decision: Decision, comparisons: tuple[Comparison, ...]) -> str:
    file = io.StringIO()
    print_comparison(decision, comparisons, report_console(file))
    return file.getvalue()


def by_name(comparisons: tuple[Comparison, ...]) -> dict[str, Comparison]:
    return {each.planner: each for each in comparisons}


def test_golden_table(entered: Decision, golden: Callable[[str, str], None]) -> None:
    golden("diamond.compare.txt", printed(entered, compare(entered, ENTRY)))


def test_golden_table_of_what_cannot_be_run(
    infeasible: Decision, golden: Callable[[str, str], None]
) -> None:
    limited = replace(infeasible, keeping=("--deadline 2000 ms", "the pins"))
    golden("diamond.compare.infeasible.txt", printed(limited, compare(limited, ENTRY)))


def test_golden_json(infeasible: Decision, golden: Callable[[str, str], None]) -> None:
    golden("diamond.compare.json", comparison_json(infeasible, compare(infeasible, ENTRY)))


def test_every_planner_has_a_row(entered: Decision) -> None:
    assert [each.planner for each in compare(entered, ENTRY)] == list(PLANNERS)


def test_rows_are_charged_like_the_decision(entered: Decision) -> None:
    rows = by_name(compare(entered, ENTRY))
    for name, plan in (
        ("partc", entered.plan),
        ("device-only", entered.device_only),
        ("server-only", entered.server_only),
    ):
        rated, cost = rows[name].plan, entered.cost(plan)
        assert rated is not None
        assert rated.server_layers == plan.server_layers
        assert rated.upload_nbytes == plan.upload_nbytes
        assert (rated.latency_ms, rated.energy_mj) == (cost.latency_ms, cost.energy_mj)
        assert rated.value == entered.value(plan)
        assert rated.relative == pytest.approx(entered.value(plan) / entered.value(entered.plan))


@pytest.mark.parametrize("objective", Objective)
def test_the_best_is_one(entered: Decision, objective: Objective) -> None:
    aiming = replace(entered, objective=objective, ms_per_mj=0.5)
    rows = compare(aiming, ENTRY)
    rated = [each.plan for each in rows if each.plan]
    best = min(plan.value for plan in rated)
    assert min(plan.relative or 0.0 for plan in rated) == 1.0
    assert [plan.relative for plan in rated] == [plan.value / best for plan in rated]


def test_planners_are_asked_for_the_objective(entered: Decision) -> None:
    dear = replace(entered, power=replace(entered.power, upload_watts=1e4))
    frugal = replace(dear, objective=Objective.ENERGY)
    chosen = {
        name: row.plan and len(row.plan.server_layers)
        for name, row in by_name(compare(frugal, ENTRY)).items()
    }
    assert chosen["neurosurgeon"] == chosen["dads"] == chosen["maui"] == 0
    fast = by_name(compare(dear, ENTRY))["neurosurgeon"].plan
    assert fast is not None
    assert fast.server_layers


def test_for_throughput_others_but_dads_choose_for_latency(entered: Decision) -> None:
    busy = replace(entered, objective=Objective.THROUGHPUT)
    quick, many = by_name(compare(entered, ENTRY)), by_name(compare(busy, ENTRY))
    for name in ("neurosurgeon", "maui"):
        before, after = quick[name].plan, many[name].plan
        assert before is not None
        assert after is not None
        assert before.server_layers == after.server_layers
    stage_ms = entered.cost(entered.device_only).device_ms
    assert many["device-only"].plan is not None
    assert many["device-only"].plan.value == stage_ms
    assert "only partc and dads aim at it" in printed(busy, tuple(many.values()))


def test_for_throughput_dads_chooses_for_heavy_load(decision: Decision) -> None:
    # At 8 Mbit/s a split takes 12, 12 and 4 ms, which is more than 24 ms on the device in all.
    graph = tiny_graph(
        {"x": 40, "t": 12, "y": 0}, {"a": ("x -> t", 12, 4), "b": ("t -> y", 12, 4)}, "y"
    )
    quick = planned(replace(decision, conditions=Conditions(8, 8, 0)), graph)
    for objective, server_layers in ((Objective.LATENCY, ()), (Objective.THROUGHPUT, ("b",))):
        rated = by_name(compare(replace(quick, objective=objective), EntryCharges()))["dads"].plan
        assert rated is not None
        assert rated.server_layers == server_layers


def test_what_costs_nothing_is_related_to_nothing(entered: Decision) -> None:
    layers = (
        replace(layer, cost=replace(layer.annotated_cost, device_ms=0.0))
        for layer in entered.graph.layers
    )
    graph = entered.graph.with_layers(layers)
    free = replace(entered, graph=graph, plan=make_plan(graph, Cut.device_only()))
    rows = compare(free, EntryCharges())
    assert {each.plan and each.plan.relative for each in rows} == {None}
    assert printed(free, rows).splitlines()[6].split()[-1] == "-"


def test_notes_are_said_only_where_they_matter(entered: Decision) -> None:
    last = printed(entered, compare(entered, ENTRY)).splitlines()[-1]
    assert last.startswith("server-only")


def test_json_says_what_cannot_be_run(infeasible: Decision) -> None:
    found = json.loads(comparison_json(infeasible, compare(infeasible, ENTRY)))
    assert list(found) == ["objective", "link", "planners"]
    plans = {each["planner"]: each["plan"] for each in found["planners"]}
    assert plans["dads"] is None
    assert list(plans["partc"]) == [
        *("server_layers", "upload_nbytes", "latency_ms", "energy_mj", "value", "relative")
    ]
