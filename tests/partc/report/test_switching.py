from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

from strategies import tiny_graph

from partc.goal import make_goal
from partc.graph import LayerGraph
from partc.planner import switch
from partc.report.switching import Switching, print_switching, switching_json
from partc.report.terminal import report_console

# Narrow inside and wide outside; then a layer that is best left alone.
AUTOENCODER = tiny_graph(
    {"x": 200, "t": 10, "u": 10, "y": 200},
    {"encode": ("x -> t", 3, 1), "middle": ("t -> u", 500, 50), "decode": ("u -> y", 4, 1)},
    "y",
)
ALONE = tiny_graph({"x": 200, "y": 200}, {"only": ("x -> y", 1, 1)}, "y")


def found(graph: LayerGraph, objective: str = "latency") -> Switching:
    goal = make_goal("raspberry-pi-4", "native", objective=objective)
    return switch(graph, goal, goal.links[0], 2)


def text(switching: Switching) -> str:
    file = io.StringIO()
    print_switching(switching, report_console(file))
    return file.getvalue()


def test_as_text(golden: Callable[[str, str], None]) -> None:
    golden("switching.txt", text(found(AUTOENCODER)))
    golden("switching.none.txt", text(found(ALONE, "energy")))


def test_what_a_bundle_can_be_is_not_said_to_be_shown_only() -> None:
    assert "shown only" in text(found(AUTOENCODER))
    narrow = {"x": 200, "t": 10, "y": 0}
    graph = tiny_graph(narrow, {"a": ("x -> t", 3, 1), "b": ("t -> y", 500, 50)}, "y")
    switching = found(graph)
    assert switching.placement.used == (0, 1)
    assert "shown only" not in text(switching)


def test_what_is_not_proven_says_how_much_less_may_be_possible() -> None:
    best = found(AUTOENCODER)
    assert "not proven" not in text(best)
    unproven = text(replace(best, bound=best.cost * 0.875))
    assert "\nnot proven to be the best: 12.5% less may be possible\n" in unproven
    assert replace(best, cost=0.0, bound=0.0).gap == 0


def test_as_json() -> None:
    switching = found(AUTOENCODER)
    report = json.loads(switching_json(switching))
    assert [(phase["side"], phase["layers"]) for phase in report["phases"]] == [
        ("device", ["encode"]),
        ("server", ["middle"]),
        ("device", ["decode"]),
    ]
    assert (report["upload"], report["download"]) == (["t"], ["u"])
    assert report["cost"] == report["bound"] < report["one_switch_cost"]
