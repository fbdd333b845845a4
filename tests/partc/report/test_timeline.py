from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import all_cuts, any_costs, conditions, layer_graphs, tiny_graph

from partc.cost import LATENCY
from partc.errors import PartcError
from partc.graph import LayerGraph
from partc.passes.cut import find_cut
from partc.passes.limited import Limits
from partc.passes.overlap import find_overlapped_cut
from partc.passes.price import price
from partc.passes.schedule import Activity, Resource, Schedule, schedule
from partc.plan import Conditions, Cut, EntryCharges, make_plan
from partc.report.terminal import report_console
from partc.report.timeline import (
    Timeline,
    describe,
    draw_bars,
    find_runs,
    print_timeline,
    save_timeline,
    timeline_json,
)

ENTRY = EntryCharges(device_ms=1, server_ms=0.5)
LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=4)
BRANCHES = tiny_graph(
    {"x": 4, "t": 3, "s": 9, "u": 2, "v": 1, "w": 4, "z": 4, "y": 5},
    {
        "stem": ("x -> t", 2, 1),
        "left": ("t -> s", 3, 4),
        "wide": ("s -> u", 6, 7),
        "right": ("t -> v", 9, 4),
        "join": ("u v -> w", 9, 3),
        "neck": ("w -> z", 2, 1),
        "head": ("z -> y", 9, 3),
    },
    "y",
)


@pytest.fixture
def timeline() -> Timeline:
    """The tensor that both branches read is sent while the device computes the left one."""
    cut = find_overlapped_cut(BRANCHES, LINK, Limits(), ENTRY).cut
    in_turn = find_cut(BRANCHES, price(BRANCHES, LATENCY, LINK, ENTRY))
    return Timeline(
        model="branches",
        target="raspberry-pi-4",
        server="native",
        link="wifi",
        conditions=LINK,
        plan=make_plan(BRANCHES, cut, ENTRY),
        in_turn=make_plan(BRANCHES, in_turn, ENTRY),
        schedule=schedule(BRANCHES, cut, LINK, ENTRY),
        gap=0.0125,
        keeping=("--max-upload 6 kB",),
    )


def text(timeline: Timeline) -> str:
    file = io.StringIO()
    print_timeline(timeline, report_console(file))
    return file.getvalue()


def test_as_text(timeline: Timeline, golden: Callable[[str, str], None]) -> None:
    printed = text(timeline)
    assert max(map(len, printed.splitlines())) <= 100
    golden("timeline.txt", printed)


def test_as_json(timeline: Timeline, golden: Callable[[str, str], None]) -> None:
    golden("timeline.json", timeline_json(timeline))


def test_of_the_plan_that_is_best_without_overlap_there_is_one_saving(timeline: Timeline) -> None:
    told = list(describe(replace(timeline, in_turn=timeline.plan, gap=0, keeping=())))
    assert len(told) == 3
    assert told[2].startswith("overlap saves 7.5 ms (20.0%): without it, ")


def test_on_a_chain_nothing_overlaps(timeline: Timeline) -> None:
    cut = Cut.device_only()
    plan, alone = make_plan(BRANCHES, cut, ENTRY), schedule(BRANCHES, cut, LINK, ENTRY)
    told = list(describe(replace(timeline, plan=plan, in_turn=plan, schedule=alone)))
    assert told[0].startswith("branches: 7 layers on raspberry-pi-4, 0 layers on native; 41.0 ms")
    assert told[-1] == "nothing overlaps: one step after the other, it takes as long"


def test_what_runs_on_in_long_networks_is_one_row() -> None:
    activities = tuple(
        Activity(f"layer{n}", Resource.DEVICE, float(n), float(n + 1)) for n in range(50)
    )
    later = Activity("late", Resource.DEVICE, 60.0, 61.0)
    runs = find_runs(Schedule((*activities, later), 61.0))
    assert runs == (activities, (later,))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    graph: LayerGraph = draw(layer_graphs(any_costs, max_layers=6))
    cut = draw(st.sampled_from(list(all_cuts(graph))))
    return schedule(graph, cut, draw(conditions(any_costs)))


@given(schedules(), st.integers(40, 120))
def test_bars_are_filled_where_something_happens(found: Schedule, width: int) -> None:
    _, *lines = draw_bars(found, width)
    assert [line.split()[0] for line in lines] == [resource.value for resource in Resource]
    for line, resource in zip(lines, Resource, strict=True):
        bar = line[10:]
        assert len(line) == width
        assert ("█" in bar) == (found.busy_ms(resource) > 0)
        # A cell may be filled although the activity takes little of it, at both ends of a run.
        filled_ms = bar.count("█") * found.latency_ms / len(bar)
        assert filled_ms >= found.busy_ms(resource) - found.latency_ms / len(bar)


@given(schedules())
def test_runs_hold_every_activity_once(found: Schedule) -> None:
    runs = find_runs(found)
    assert sorted(map(repr, found.activities)) == sorted(repr(e) for run in runs for e in run)
    assert [run[0].start_ms for run in runs] == sorted(run[0].start_ms for run in runs)


def test_a_drawing_names_all_and_is_the_same_twice(timeline: Timeline, tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    save_timeline(timeline, first)
    save_timeline(timeline, second)
    assert first.read_bytes() == second.read_bytes()
    for name in ("device", "uplink", "server", "downlink", "right", "head"):
        assert f">{name}<" in first.read_text()


@pytest.mark.parametrize("name", ["no/where.svg", "a.txt"])
def test_a_drawing_that_cannot_be_written(timeline: Timeline, tmp_path: Path, name: str) -> None:
    with pytest.raises(PartcError, match=f"the plot .*{name} cannot be written: "):
        save_timeline(timeline, tmp_path / name)


def test_nothing_happens() -> None:
    nothing = Schedule((), 0.0)
    assert len(list(draw_bars(nothing, 80))) == 5
    assert find_runs(nothing) == ()
