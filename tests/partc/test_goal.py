from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from partc.errors import PartcError, TargetError
from partc.goal import make_goal
from partc.plan import Objective, Side
from partc.targets.load import LoadCurve
from partc.targets.target import load_target, write_target


def test_names_are_looked_up() -> None:
    goal = make_goal(
        "jetson", "x86-64", link=["lte", "wifi"], objective="energy", pins={"stem*": "device"}
    )
    assert (goal.target.name, goal.server.name) == ("jetson-agx-orin", "x86-64")
    assert [link.name for link in goal.links] == ["lte", "wifi"]
    assert goal.objective is Objective.ENERGY
    assert goal.constraints.pins == (("stem*", Side.DEVICE),)
    assert isinstance(goal.constraints.pins[0][1], Side)


def test_defaults_are_those_of_the_command_line() -> None:
    goal = make_goal("native")
    assert (goal.server.name, goal.links[0].name) == ("x86-64-v3", "wifi")
    assert (goal.objective, goal.constraints.pins) == (Objective.LATENCY, ())


def test_a_link_named_twice_counts_once() -> None:
    assert len(make_goal("native", link=["wifi", "lte", "wifi"]).links) == 2


def test_files_are_read(tmp_path: Path) -> None:
    link = tmp_path / "own.toml"
    link.write_text(
        'name = "own"\ndescription = "mine"\n'
        "uplink_mbps = 1\ndownlink_mbps = 2\nround_trip_ms = 3\n"
    )
    assert make_goal("native", link=str(link)).links[0].name == "own"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": "abacus"}, TargetError, "no target is called 'abacus'"),
        ({"server": "jetsn"}, TargetError, "did you mean 'jetson'"),
        ({"link": "string"}, TargetError, "no link is called 'string'"),
        ({"link": []}, PartcError, "needs at least one link; `partc links` lists them"),
        (
            {"objective": "beauty"},
            PartcError,
            "objective is one of latency, energy, weighted, throughput, not 'beauty'",
        ),
        (
            {"pins": {"stem*": "moon"}},
            PartcError,
            r"pinned to the device or the server; pin 'stem\*' says 'moon'",
        ),
    ],
)
def test_mistakes_are_named(
    arguments: dict[str, object], error: type[PartcError], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_goal(**{"target": "native", **arguments})  # pyright: ignore[reportArgumentType]  wrong on purpose


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline": 10.0}, "there is no option 'deadline'; did you mean 'deadline_ms'?"),
        ({"max_upload": "1kB"}, "did you mean 'max_upload_nbytes'?"),
        ({"pin": {}}, "did you mean 'pins'?"),
        ({"quickly": True}, "there is no option 'quickly'; the options are link, objective"),
        ({"pins": ["stem=device"]}, "pins are patterns with sides, as in {'stem*': 'device'}, not"),
        ({"objective": "energy", "rate_hz": 3.0}, "goes with --objective latency, not energy"),
        ({"input_nbytes": {"image": "15"}}, "--input-nbytes is a size such as 150kB"),
    ],
)
def test_what_would_be_ignored_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PartcError) as caught:
        make_goal("native", **options)
    assert message in str(caught.value)


def test_a_size_may_be_written_as_on_the_command_line() -> None:
    goal = make_goal("native", input_nbytes={"image": "15kB"})
    assert goal.image_nbytes == (("image", 15_000),)


class TestServerLoad:
    def test_a_server_that_does_nothing_else_is_as_fast_as_it_is(self) -> None:
        goal = make_goal("native")
        assert goal.conditions(goal.links[0]) == goal.links[0].conditions

    def test_a_busy_server_is_as_slow_as_was_measured_on_it(self, tmp_path: Path) -> None:
        measured = tmp_path / "measured.toml"
        curve = LoadCurve((0, 1, 3), (1, 1.25, 4.25))
        write_target(replace(load_target("native"), load=curve), measured)
        goal = make_goal("native", str(measured), server_busy=2)
        assert goal.conditions(goal.links[0]).load == pytest.approx(2.75)

    def test_a_server_that_was_not_measured_shares_its_cores(self) -> None:
        goal = make_goal("native", "raspberry-pi-4", server_busy=3)
        threads = goal.server.threads
        assert goal.conditions(goal.links[0]).load == pytest.approx(4 * threads / 4)

    @pytest.mark.parametrize("busy", [-1, math.inf, math.nan])
    def test_what_no_server_can_be(self, busy: float) -> None:
        with pytest.raises(PartcError, match=f"--server-busy is how many .*, not {busy}$"):
            make_goal("native", server_busy=busy)

    def test_a_server_gets_busier_from_less_to_more(self) -> None:
        assert make_goal("native", server_busy=(0, 6)).server_busy == (0, 6)
        wrong = r"^--server-busy goes from less to more, not 6\.\.0$"
        with pytest.raises(PartcError, match=wrong):
            make_goal("native", server_busy=(6, 0))
