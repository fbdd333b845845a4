"""What happens when in a request whose steps overlap: as bars, as a table, as JSON and drawn."""
# Matplotlib declares its types only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.text import Text

from partc.passes.schedule import ENTRY, Activity, Resource, Schedule
from partc.plan import Conditions, Plan
from partc.quantities import format_ms
from partc.report.json import indented
from partc.report.summary import describe_link
from partc.report.terminal import make_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLOSE = 1e-9  # relative; sums of the same times in another order differ by less
_WIDTH = 100  # in characters, or what the terminal has if that is less
_FIGURE_WIDTH, _FIGURE_HEIGHT = 8.0, 2.5  # in inches
_CHARACTER = 0.011  # of the figure's width, about
_COLORS: Mapping[Resource, str] = {
    Resource.DEVICE: "lightskyblue",
    Resource.UPLINK: "lightgray",
    Resource.SERVER: "sandybrown",
    Resource.DOWNLINK: "lightgray",
}


@dataclass(frozen=True)
class Timeline:
    """The plan with the shortest schedule.

    Args:
        model: The model's name.
        target: The device's name.
        server: The server's name.
        link: The link's name.
        conditions: What the link and the server are expected to be like.
        plan: The plan.
        in_turn: The plan that is best if nothing overlaps.
        schedule: What happens when in a request that runs by the plan.
        gap: How much shorter another plan's schedule may be, relative to it, if the planner could
            not prove that none is.
        keeping: What the plan had to keep, as a user says it.
    """

    model: str
    target: str
    server: str
    link: str
    conditions: Conditions
    plan: Plan
    in_turn: Plan
    schedule: Schedule
    gap: float = 0.0
    keeping: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> float:
        """With overlap."""
        return self.schedule.latency_ms

    @property
    def sum_ms(self) -> float:
        """Of the same plan, one step after the other."""
        return self.plan.latency_ms(self.conditions)

    @property
    def in_turn_ms(self) -> float:
        """The least that any plan takes, one step after the other."""
        return self.in_turn.latency_ms(self.conditions)


class ActivityRow(msgspec.Struct, frozen=True):
    """An activity in the JSON form."""

    what: str
    where: Resource
    start_ms: float
    end_ms: float


class TimelineReport(msgspec.Struct, frozen=True):
    """What ``partc plan --overlap --json`` prints."""

    target: str
    server: str
    link: str
    latency_ms: float
    sum_ms: float
    in_turn_ms: float
    gap: float
    device_layers: tuple[str, ...]
    server_layers: tuple[str, ...]
    activities: tuple[ActivityRow, ...]


def timeline_json(timeline: Timeline) -> str:
    """The output of ``partc plan --overlap --json``."""
    report = TimelineReport(
        target=timeline.target,
        server=timeline.server,
        link=timeline.link,
        latency_ms=float(timeline.latency_ms),
        sum_ms=float(timeline.sum_ms),
        in_turn_ms=float(timeline.in_turn_ms),
        gap=float(timeline.gap),
        device_layers=timeline.plan.device_layers,
        server_layers=timeline.plan.server_layers,
        activities=tuple(
            ActivityRow(each.what, each.where, float(each.start_ms), float(each.end_ms))
            for each in timeline.schedule.activities
        ),
    )
    return indented(report)


def print_timeline(timeline: Timeline, console: Console) -> None:
    """Print what overlap saves, a bar for each resource, and what each does when."""
    headline, *lines = describe(timeline)
    console.print(Text(headline, style="bold"))
    for line in lines:
        console.print(Text(line))
    width = min(_WIDTH, console.width)
    console.print()
    for line in draw_bars(timeline.schedule, width):
        console.print(Text(line, no_wrap=True))
    console.print()
    table = make_table(None, ">start ms", ">end ms", "where", "what")
    for run in find_runs(timeline.schedule):
        first, last = run[0], run[-1]
        times = (f"{first.start_ms:,.3f}", f"{last.end_ms:,.3f}")
        table.add_row(*times, first.where.value, Text(_describe_run(run)))
    console.print(table, width=width)


def describe(timeline: Timeline) -> Iterator[str]:
    """What was chosen, for what, and what overlap saves, a sentence a line."""
    plan = timeline.plan
    yield (
        f"{timeline.model}: {_count(plan.device_layers)} on {timeline.target}, "
        f"{_count(plan.server_layers)} on {timeline.server}; "
        f"{format_ms(timeline.latency_ms)} if whatever can overlaps"
    )
    yield f"shortest schedule over {timeline.link}: {describe_link(timeline.conditions)}"
    if timeline.keeping:
        yield f"keeping {', '.join(timeline.keeping)}"
    if timeline.gap:
        yield f"not proven to be the shortest: {timeline.gap:.1%} less may be possible"
    if timeline.sum_ms <= timeline.latency_ms * (1 + _CLOSE):
        yield "nothing overlaps: one step after the other, it takes as long"
        return
    yield (
        f"overlap saves {_saving(timeline.sum_ms, timeline.latency_ms)}: without it, as bundles "
        f"run today, this plan takes {format_ms(timeline.sum_ms)}"
    )
    if timeline.in_turn.cut != plan.cut:
        yield (
            f"the plan that is best without it takes {format_ms(timeline.in_turn_ms)}; of these, "
            f"{_saving(timeline.in_turn_ms, timeline.latency_ms)} are saved"
        )


def _count(layers: Sequence[str]) -> str:
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"


def _saving(before_ms: float, after_ms: float) -> str:
    saved_ms = max(0.0, before_ms - after_ms)
    return f"{format_ms(saved_ms)} ({saved_ms / before_ms:.1%})"


def draw_bars(schedule: Schedule, width: int) -> Iterator[str]:
    """A bar for each resource, filled where it is taken, under the ends of the time.

    Args:
        schedule: What happens when.
        width: Of each line, in characters.
    """
    label = max(len(resource.value) for resource in Resource) + 2
    cells = width - label
    end = format_ms(schedule.latency_ms)
    yield f"{'':{label}}{0:<{cells - len(end)}}{end}"
    scale = cells / schedule.latency_ms if schedule.latency_ms else 0.0
    for resource in Resource:
        bar = ["·"] * cells
        for each in schedule.on(resource):
            if each.end_ms > each.start_ms:
                first = min(int(each.start_ms * scale), cells - 1)
                behind = max(first + 1, round(each.end_ms * scale))
                bar[first:behind] = "█" * (behind - first)
        yield f"{resource.value:{label}}{''.join(bar)}"


def find_runs(schedule: Schedule) -> tuple[tuple[Activity, ...], ...]:
    """Activities that follow each other on a resource without a pause, by when they start."""
    runs: list[list[Activity]] = []
    for each in schedule.activities:
        before = runs[-1][-1] if runs else None
        if before and (before.where, before.end_ms) == (each.where, each.start_ms):
            runs[-1].append(each)
        else:
            runs.append([each])
    return tuple(map(tuple, sorted(runs, key=lambda run: run[0].start_ms)))


def _describe_run(run: Sequence[Activity]) -> str:
    """Its first and last, and how many there are."""
    names = [each.what for each in run if each.what != ENTRY]
    if len(names) < 3:
        return ", ".join(names) or ENTRY
    return f"{names[0]} … {names[-1]} ({len(names)})"


def save_timeline(timeline: Timeline, path: Path) -> None:
    """Draw a timeline into a file, ``.svg``, ``.pdf`` or ``.png``.

    Raises:
        PartcError: The file cannot be written.
    """
    # Matplotlib takes a while to load, and only a drawing needs it.
    from matplotlib.figure import Figure

    from partc.report.figure import save_figure

    figure = Figure(figsize=(_FIGURE_WIDTH, _FIGURE_HEIGHT), layout="constrained")
    axes: Axes = figure.add_subplot()
    _draw_activities(timeline.schedule, axes)
    axes.axvline(timeline.latency_ms, color="black", linewidth=1)
    axes.axvline(timeline.sum_ms, color="black", linewidth=1, linestyle="dotted")
    ends = f"{format_ms(timeline.latency_ms)}, dotted: {format_ms(timeline.sum_ms)} without overlap"
    machines = f"{timeline.target} and {timeline.server} over {timeline.link}"
    axes.set(xlim=(0, None), xlabel=f"ms; {ends}", title=f"{timeline.model} on {machines}")
    save_figure(figure, path)


def _draw_activities(schedule: Schedule, axes: Axes) -> None:
    """A row for each resource, the device's at the top."""
    for row, resource in enumerate(Resource):
        activities = schedule.on(resource)
        spans = [(each.start_ms, each.end_ms - each.start_ms) for each in activities]
        axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=_COLORS[resource], edgecolor="white")
        for each in activities:
            if _has_room(each, schedule.latency_ms):
                middle_ms = (each.start_ms + each.end_ms) / 2
                axes.text(middle_ms, row, each.what, ha="center", va="center", fontsize="x-small")
    axes.set_yticks(range(len(Resource)), [resource.value for resource in Resource])
    axes.invert_yaxis()


def _has_room(activity: Activity, latency_ms: float) -> bool:
    """Whether a bar is as wide as its name."""
    width_ms = activity.end_ms - activity.start_ms
    return width_ms > latency_ms * _CHARACTER * len(activity.what)
