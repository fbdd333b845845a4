"""A range of conditions and the plans that win in it: as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.text import Text

from partc.graph import LayerGraph
from partc.passes.envelope import Envelope, Winner
from partc.plan import CONDITION_NAMES, ConditionRange, Cut, Interval, Objective
from partc.report.json import indented
from partc.report.summary import describe_sent
from partc.report.terminal import make_table, thousands

TITLES = {
    "uplink_mbps": "uplink Mbps",
    "downlink_mbps": "downlink Mbps",
    "round_trip_ms": "round trip ms",
    "load": "slowdown",
}


@dataclass(frozen=True)
class Survey:
    """Every plan that wins somewhere.

    Args:
        graph: Annotated.
        objective: What the plans are best at.
        target: The device's name.
        server: The server's name.
        link: The link's name.
        envelope: The plans, and where they win.
        gap: How much less than one of them another plan may cost somewhere, relative to it, if the
            planner could not prove that none does.
    """

    graph: LayerGraph
    objective: Objective
    target: str
    server: str
    link: str
    envelope: Envelope
    gap: float = 0.0

    @property
    def range(self) -> ConditionRange:
        """Of conditions."""
        return self.envelope.range

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the conditions that vary."""
        return tuple(CONDITION_NAMES[axis] for axis in self.range.varying)

    @property
    def winners(self) -> Mapping[str, Winner]:
        """The plans by name, the more layers on the server the earlier."""
        total = len(self.graph.layers)
        fixed: dict[int | None, str] = {total: "server-only", 0: "device-only"}
        ordered = sorted(self.envelope.winners, key=lambda each: -len(each.plan.server_layers))
        names: dict[str, Winner] = {}
        for winner in ordered:
            cuts = len(names) - ("server-only" in names)
            count = None if winner.plan.cut.encodings else len(winner.plan.server_layers)
            names[fixed.get(count, f"cut-{cuts + 1}")] = winner
        return names

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Of the plans, in the same order."""
        return tuple(winner.plan.cut for winner in self.winners.values())


class PlanRow(msgspec.Struct, frozen=True):
    """A plan in the JSON form; ``wins`` holds from what to what each varying condition goes."""

    name: str
    device_layers: tuple[str, ...]
    server_layers: tuple[str, ...]
    upload: tuple[str, ...]
    encodings: tuple[str, ...]
    deviation: float
    upload_nbytes: int
    download_nbytes: int
    device_ms: float
    server_ms: float
    device_mj: float
    share: float
    wins: Mapping[str, Interval]


class SurveyReport(msgspec.Struct, frozen=True):
    """What ``partc plan --json`` prints for a range of conditions."""

    objective: Objective
    target: str
    server: str
    link: str
    range: Mapping[str, Interval]
    solves: int
    gap: float
    plans: tuple[PlanRow, ...]


def survey_json(survey: Survey) -> str:
    """The output of ``partc plan --json`` for a range of conditions."""
    report = SurveyReport(
        objective=survey.objective,
        target=survey.target,
        server=survey.server,
        link=survey.link,
        range=dict(zip(CONDITION_NAMES, survey.range.intervals, strict=True)),
        solves=survey.envelope.solves,
        gap=survey.gap,
        plans=tuple(_row(survey, name, winner) for name, winner in survey.winners.items()),
    )
    return indented(report)


def _row(survey: Survey, name: str, winner: Winner) -> PlanRow:
    plan = winner.plan
    return PlanRow(
        name=name,
        device_layers=plan.device_layers,
        server_layers=plan.server_layers,
        upload=tuple(tensor.name for tensor in plan.upload),
        encodings=tuple(encoding.name for encoding in plan.encodings),
        deviation=plan.deviation,
        upload_nbytes=plan.upload_nbytes,
        download_nbytes=plan.download_nbytes,
        device_ms=float(plan.device_ms),
        server_ms=float(plan.server_ms),
        device_mj=float(plan.device_mj),
        share=winner.share,
        wins={condition: _rounded(winner.interval(condition)) for condition in survey.varying},
    )


def _rounded(interval: Interval) -> Interval:
    """To what depends on no processor's last digits."""
    low, high = (float(f"{end:.9g}") for end in interval)
    return low, high


def print_survey(survey: Survey, console: Console) -> None:
    """Print the range, and a line for each plan that wins in it."""
    count = len(survey.winners)
    plans = "1 plan wins" if count == 1 else f"{count} plans win"
    console.print(Text(f"{survey.graph.name}: {plans} somewhere", style="bold"))
    console.print(Text(f"least {survey.objective.value} on {survey.target} and {survey.server}"))
    console.print(Text(f"over {survey.link}: {describe_range(survey.range)}"))
    if survey.gap:
        console.print(Text(f"not proven to be the best: {survey.gap:.1%} less may be possible"))
    console.print()
    places = [f">{TITLES[name]}" for name in survey.varying]
    wins = [f">wins at {places[0][1:]}", *places[1:]] if places else []
    encoded = any(winner.plan.cut.encodings for winner in survey.winners.values())
    sent = ("sent as",) if encoded else ()
    numbers = (*sent, ">upload kB", ">download kB", ">device ms", ">server ms")
    table = make_table(None, "plan", ">device layers", ">server layers", *numbers, *wins)
    for name, winner in survey.winners.items():
        plan = winner.plan
        table.add_row(
            name,
            str(len(plan.device_layers)),
            str(len(plan.server_layers)),
            *((describe_sent(plan),) if encoded else ()),
            thousands(plan.upload_nbytes),
            thousands(plan.download_nbytes),
            f"{plan.device_ms:.2f}",
            f"{plan.server_ms:.2f}",
            *(describe_interval(winner.interval(condition)) for condition in survey.varying),
        )
    console.print(table)


def describe_range(conditions: ConditionRange) -> str:
    """From what to what each condition goes."""
    pairs = zip(CONDITION_NAMES, conditions.intervals, strict=True)
    return ", ".join(f"{TITLES[name]} {describe_interval(interval)}" for name, interval in pairs)


def describe_interval(interval: Interval) -> str:
    """A number, or from what to what."""
    low, high = interval
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
