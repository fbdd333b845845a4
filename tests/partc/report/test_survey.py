from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from strategies import tiny_graph

from partc.errors import PartcError
from partc.goal import make_goal
from partc.planner import survey
from partc.report.plot import save_plot
from partc.report.survey import Survey, print_survey, survey_json
from partc.report.terminal import report_console

CHAIN = tiny_graph(
    {"x": 200, "t": 20, "u": 10, "y": 1},
    {"a": ("x -> t", 10, 1), "b": ("t -> u", 20, 2), "c": ("u -> y", 60, 4)},
    "y",
)


def over(**ranges: tuple[float, float]) -> Survey:
    goal = make_goal("raspberry-pi-4", "native", **ranges)  # type: ignore[arg-type]
    return survey(CHAIN, goal, goal.links[0])


RATES = (0.1, 1000.0)


def text(found: Survey) -> str:
    file = io.StringIO()
    print_survey(found, report_console(file))
    return file.getvalue()


def test_as_text(golden: Callable[[str, str], None]) -> None:
    golden("survey.uplink.txt", text(over(uplink_mbps=RATES)))
    golden(
        "survey.all.txt",
        text(over(uplink_mbps=RATES, round_trip_ms=(1.0, 200.0), server_busy=(0.0, 3.0))),
    )


def test_as_json(golden: Callable[[str, str], None]) -> None:
    golden("survey.uplink.json", survey_json(over(uplink_mbps=RATES)))


def test_json_of_several_ranges() -> None:
    report = json.loads(survey_json(over(uplink_mbps=RATES, round_trip_ms=(1.0, 200.0))))
    assert report["range"]["round_trip_ms"] == [1.0, 200.0]
    for plan in report["plans"]:
        assert plan["wins"].keys() == {"uplink_mbps", "round_trip_ms"}
    assert sum(plan["share"] for plan in report["plans"]) == pytest.approx(1)


def test_one_plan_is_one() -> None:
    assert "tiny: 1 plan wins somewhere" in text(over(uplink_mbps=(0.1, 0.2)))


@pytest.mark.parametrize("ranges", [("uplink_mbps",), ("uplink_mbps", "round_trip_ms")])
def test_a_plot_names_all_plans_and_is_the_same_twice(
    tmp_path: Path, ranges: tuple[str, ...]
) -> None:
    found = over(**dict.fromkeys(ranges, RATES))
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    save_plot(found, first)
    save_plot(found, second)
    assert first.read_bytes() == second.read_bytes()
    for name in found.winners:
        assert f">{name}<" in first.read_text()


def test_a_plot_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(PartcError, match="--plot draws a range of conditions"):
        save_plot(over(), tmp_path / "a.svg")


@pytest.mark.parametrize("name", ["no/where.svg", "a.txt"])
def test_a_plot_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(PartcError, match=f"the plot .*{name} cannot be written: "):
        save_plot(over(uplink_mbps=RATES), tmp_path / name)
