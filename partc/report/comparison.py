"""What other planners would have chosen, beside the decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from partc.cost import LATENCY
from partc.passes.baselines import BASELINES, Problem
from partc.plan import EntryCharges, Objective, Plan, make_plan
from partc.report.decision import Decision
from partc.report.json import indented
from partc.report.summary import headline, premises
from partc.report.terminal import make_table, thousands


class RatedPlan(msgspec.Struct, frozen=True):
    """What a planner chose, and all that it costs, whatever the planner knew of it.

    Args:
        server_layers: In the graph's order.
        upload_nbytes: What the device sends.
        latency_ms: How long a request takes.
        energy_mj: What a request draws from the device.
        value: What the decision's objective makes of it, in its unit.
        relative: The value over the best planner's; None if that is zero.
    """

    server_layers: tuple[str, ...]
    upload_nbytes: int
    latency_ms: float
    energy_mj: float
    value: float
    relative: float | None


class Comparison(msgspec.Struct, frozen=True):
    """A planner by its name, and its plan, or None if what it chose cannot be run."""

    planner: str
    plan: RatedPlan | None


class ComparisonReport(msgspec.Struct, frozen=True):
    """What ``partc plan --compare --json`` prints."""

    objective: Objective
    link: str
    planners: tuple[Comparison, ...]


def compare(decision: Decision, entry: EntryCharges) -> tuple[Comparison, ...]:
    """Ask every planner what was decided, and charge all of them alike.

    If the decision is about throughput, the others are asked for latency under heavy load, for
    which DADS alone has a mode. They keep no limits.

    Args:
        decision: Its plan is what partc has chosen, with all limits kept.
        entry: What each side pays that has layers, as in the decision's plans.
    """
    plans = {"partc": decision.plan, **_baselines(decision, entry)}
    values = {name: decision.value(plan) for name, plan in plans.items() if plan}
    best = min(values.values())
    return tuple(
        Comparison(name, plan and _rate(decision, plan, best)) for name, plan in plans.items()
    )


def _baselines(decision: Decision, entry: EntryCharges) -> dict[str, Plan | None]:
    costs = decision.aim.costs
    cost = costs[0] if len(costs) == 1 else LATENCY
    heavy_load = decision.objective is Objective.THROUGHPUT
    problem = Problem(decision.graph, cost, decision.conditions, entry, heavy_load)
    cuts = {name: planner(problem) for name, planner in BASELINES.items()}
    return {name: cut and make_plan(decision.graph, cut, entry) for name, cut in cuts.items()}


def _rate(decision: Decision, plan: Plan, best: float) -> RatedPlan:
    cost, value = decision.cost(plan), decision.value(plan)
    return RatedPlan(
        server_layers=plan.server_layers,
        upload_nbytes=plan.upload_nbytes,
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        value=value,
        relative=value / best if best else None,
    )


def print_comparison(
    decision: Decision, comparisons: Sequence[Comparison], console: Console
) -> None:
    """Print what was chosen, and what others would have."""
    for part in comparison_table(decision, comparisons):
        console.print(part)


def comparison_table(
    decision: Decision, comparisons: Sequence[Comparison]
) -> tuple[RenderableType, ...]:
    """A headline, its premises, a row for each planner, and what has to be known to read it."""
    notes = tuple(_notes(decision, comparisons))
    return (
        Text(headline(decision), style="bold"),
        *map(Text, premises(decision)),
        "",
        _planner_table(comparisons),
        *(("", *map(Text, notes)) if notes else ()),
    )


def comparison_json(decision: Decision, comparisons: Iterable[Comparison]) -> str:
    """The output of ``partc plan --compare --json``."""
    report = ComparisonReport(decision.objective, decision.link, tuple(comparisons))
    return indented(report)


def _planner_table(comparisons: Iterable[Comparison]) -> Table:
    numbers = (">server layers", ">upload kB", ">latency ms", ">energy mJ", ">relative")
    table = make_table(None, "planner", *numbers)
    for each in comparisons:
        table.add_row(each.planner, *_cells(each.plan))
    return table


def _cells(plan: RatedPlan | None) -> tuple[str, ...]:
    if plan is None:
        return ("infeasible", *4 * ("-",))
    return (
        str(len(plan.server_layers)),
        thousands(plan.upload_nbytes),
        f"{plan.latency_ms:,.3f}",
        f"{plan.energy_mj:,.3f}",
        "-" if plan.relative is None else f"{plan.relative:.2f}",
    )


def _notes(decision: Decision, comparisons: Iterable[Comparison]) -> Iterator[str]:
    if any(each.plan is None for each in comparisons):
        yield "infeasible: a layer on the device would read what the server made"
    if decision.objective is Objective.THROUGHPUT:
        yield "relative: the slowest of device, transfer and server; only partc and dads aim at it"
    if decision.keeping:
        yield f"only partc is bound to keep {', '.join(decision.keeping)}"
