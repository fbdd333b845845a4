from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from partc.graph import LayerGraph
from partc.plan import Cut, Objective
from partc.report.decision import Decision
from partc.report.terminal import decision_table, layer_table, print_decision, report_console


def _least_energy(decision: Decision) -> Decision:
    power = replace(decision.power, tail_mj=250.0, source="INA3221 VDD_IN [bold]")
    return replace(decision, objective=Objective.ENERGY, power=power)


def plain(*parts: RenderableType) -> str:
    file = io.StringIO()
    console = report_console(file)
    for part in parts:
        console.print(part)
    return file.getvalue()


def test_plan(decision: Decision, golden: Callable[[str, str], None]) -> None:
    file = io.StringIO()
    print_decision(decision, report_console(file))
    golden("diamond.plan.txt", file.getvalue())


def test_a_plan_that_is_unsure(close: Decision, golden: Callable[[str, str], None]) -> None:
    golden("diamond.close.txt", plain(*decision_table(close)))


def test_tables_of_a_plan_fit_into_100_columns(close: Decision) -> None:
    file = io.StringIO()
    console = Console(file=file, width=160, color_system=None)
    for part in decision_table(close):
        console.print(part)
    rows = [line.rstrip() for line in file.getvalue().splitlines()]
    assert max(map(len, rows)) <= 100


def test_extrapolated_layers_are_marked_and_explained_once(close: Decision) -> None:
    rows = plain(*decision_table(close)).splitlines()
    assert [row.split()[0] for row in rows if " * 0.000 " in row] == ["right\\branch"]
    assert [row[:16] for row in rows if row.startswith("*")] == ["* unlike all tha"]
    layers = (
        replace(layer, cost=replace(layer.annotated_cost, server_extrapolated=False))
        for layer in close.graph.layers
    )
    known = replace(close, graph=close.graph.with_layers(layers))
    assert "*" not in plain(*decision_table(known))


def test_an_energy_plan_says_where_watts_are_from(
    decision: Decision, golden: Callable[[str, str], None]
) -> None:
    golden("diamond.energy.txt", plain(*decision_table(_least_energy(decision))))


def test_inspect(graph: LayerGraph, golden: Callable[[str, str], None]) -> None:
    golden("diamond.layers.txt", plain(layer_table(graph, None)))


def test_inspect_shows_the_side(graph: LayerGraph, cut: Cut) -> None:
    rows = plain(layer_table(graph, cut)).splitlines()
    assert "side" in rows[0]
    assert [" server " in row for row in rows if "float32" in row] == [False, True, False, True]


def test_costs_that_are_not_known_are_dashes(graph: LayerGraph) -> None:
    bare = graph.with_layers(replace(layer, cost=None) for layer in graph.layers)
    assert plain(layer_table(bare, None)).split().count("-") == 2 * len(graph.layers)


def test_a_plan_without_a_server_has_nothing_that_travels(decision: Decision) -> None:
    text = plain(*decision_table(replace(decision, plan=decision.device_only)))
    assert text.startswith("diamond & co: all 4 layers on jetson; 132.2 ms ±1 %, 1.3 J ±1 %\n")
    assert "travel" not in text


def test_the_piped_form_depends_on_no_environment(
    decision: Decision, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = plain(*decision_table(decision))
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert plain(*decision_table(decision)) == wanted


def test_a_long_name_is_never_cut_off(graph: LayerGraph) -> None:
    long = graph.with_layers(replace(layer, name=layer.name + "x" * 300) for layer in graph.layers)
    assert plain(layer_table(long, None)).count("x") >= 300 * len(graph.layers)


def test_names_are_no_markup(graph: LayerGraph) -> None:
    assert "left/branch [bold]" in plain(layer_table(graph, None))


def test_sides_have_colours_on_a_terminal(graph: LayerGraph, cut: Cut) -> None:
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=160).print(layer_table(graph, cut))
    assert "\x1b[" in file.getvalue()
