from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from strategies import tiny_graph

from partc.goal import make_goal
from partc.planner import trade
from partc.report import front as front_report
from partc.report.front import Front, front_json, print_front
from partc.report.terminal import report_console

CHAIN = tiny_graph(
    {"x": 20, "t": 6, "u": 2, "y": 1},
    {"a": ("x -> t", 3, 1), "b": ("t -> u", 8, 2), "c": ("u -> y", 20, 3)},
    "y",
)


@pytest.fixture(scope="module")
def front() -> Front:
    """On a Raspberry Pi, which draws 3 W while it waits and, for these layers, 2 W else."""
    goal = make_goal("raspberry-pi-4", "native", max_upload_nbytes=100_000)
    return trade(CHAIN, goal, goal.links[0])


def text(front: Front) -> str:
    file = io.StringIO()
    print_front(front, report_console(file))
    return file.getvalue()


def test_as_text(front: Front, golden: Callable[[str, str], None]) -> None:
    golden("front.txt", text(front))


def test_as_json(front: Front) -> None:
    report = json.loads(front_json(front))
    assert (report["target"], report["link"]) == ("raspberry-pi-4", "wifi")
    costs = [(plan["latency_ms"], plan["energy_mj"]) for plan in report["plans"]]
    assert len(costs) > 1
    assert costs == sorted(costs)
    assert [energy for _, energy in costs] == sorted((e for _, e in costs), reverse=True)
    for row, plan in zip(report["plans"], front.plans, strict=True):
        assert tuple(row["server_layers"]) == plan.server_layers


def test_one_plan_is_best_at_both(front: Front) -> None:
    one = replace(front, plans=front.plans[:1])
    assert text(one).startswith("tiny: one plan is best at both latency and energy\n")


def test_a_front_that_goes_on(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_report, "MOST", len(front.plans))
    assert text(front).startswith(f"tiny: the first {len(front.plans)} plans trade")
