"""A plan on a chain of machines: as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from partc.passes.chain import TierPlan
from partc.plan import Objective
from partc.quantities import format_mj, format_ms
from partc.report.json import indented
from partc.report.summary import describe_link, describe_power
from partc.report.terminal import make_table, thousands


@dataclass(frozen=True)
class Tiering:
    """A plan on a chain of machines, and what fewer of them could do.

    Args:
        model: The model's name.
        objective: What the plans are best at.
        links: Names of the links.
        plan: The best plan.
        others: The best plans of some of the machines only, with titles.
        ms_per_mj: What a weighted objective takes a millijoule to be worth.
    """

    model: str
    objective: Objective
    links: tuple[str, ...]
    plan: TierPlan
    others: tuple[tuple[str, TierPlan], ...]
    ms_per_mj: float = 0.0

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(tier.name for tier in self.plan.chain.tiers)

    def value(self, plan: TierPlan) -> float:
        """What the objective makes of a plan, in ms or, for energy, in mJ."""
        if self.objective is Objective.LATENCY:
            return plan.latency_ms
        if self.objective is Objective.ENERGY:
            return plan.energy_mj
        return plan.latency_ms + self.ms_per_mj * plan.energy_mj


class TierRow(msgspec.Struct, frozen=True):
    """A machine and what it does in the chosen plan; names of layers, times as loaded as it is."""

    machine: str
    layers: tuple[str, ...]
    compute_ms: float


class LinkRow(msgspec.Struct, frozen=True):
    """A link and the tensors that it carries in the chosen plan, away from the device and back.

    ``transfer_ms`` includes the round trip.
    """

    link: str
    up: tuple[str, ...]
    up_nbytes: int
    down: tuple[str, ...]
    down_nbytes: int
    transfer_ms: float


class OtherRow(msgspec.Struct, frozen=True):
    """The best plan of some of the machines; how many layers each of all machines has."""

    name: str
    layers: tuple[int, ...]
    latency_ms: float
    energy_mj: float


class TieringReport(msgspec.Struct, frozen=True):
    """What ``partc plan --tiers … --json`` prints."""

    objective: Objective
    latency_ms: float
    energy_mj: float
    tiers: tuple[TierRow, ...]
    links: tuple[LinkRow, ...]
    others: tuple[OtherRow, ...]


def tiers_json(tiering: Tiering) -> str:
    """The output of ``partc plan --tiers … --json``."""
    plan = tiering.plan
    report = TieringReport(
        objective=tiering.objective,
        latency_ms=float(plan.latency_ms),
        energy_mj=float(plan.energy_mj),
        tiers=tuple(map(TierRow, tiering.machines, plan.layers, map(float, plan.compute_ms))),
        links=tuple(_link_rows(tiering)),
        others=tuple(
            OtherRow(title, _counts(other), float(other.latency_ms), float(other.energy_mj))
            for title, other in tiering.others
        ),
    )
    return indented(report)


def _link_rows(tiering: Tiering) -> Iterator[LinkRow]:
    plan = tiering.plan
    for index, link in enumerate(tiering.links):
        yield LinkRow(
            link=link,
            up=tuple(tensor.name for tensor in plan.up[index]),
            up_nbytes=plan.up_nbytes[index],
            down=tuple(tensor.name for tensor in plan.down[index]),
            down_nbytes=plan.down_nbytes[index],
            transfer_ms=float(plan.transfers_ms[index]),
        )


def print_tiers(tiering: Tiering, console: Console) -> None:
    """Print what was chosen, what it rests on, and what fewer machines could do."""
    for part in tiers_table(tiering):
        console.print(part)


def tiers_table(tiering: Tiering) -> tuple[RenderableType, ...]:
    """A headline, its premises, a row for each machine, and a row for each other plan."""
    return (
        Text(_headline(tiering), style="bold"),
        *map(Text, _premises(tiering)),
        "",
        _tier_table(tiering),
        "",
        _plan_table(tiering),
    )


def _headline(tiering: Tiering) -> str:
    plan = tiering.plan
    costs = f"{format_ms(plan.latency_ms)}, {format_mj(plan.energy_mj)}"
    return f"{tiering.model}: {_placement(tiering)}; {costs}"


def _placement(tiering: Tiering) -> str:
    counts = _counts(tiering.plan)
    used = [(name, count) for name, count in zip(tiering.machines, counts, strict=True) if count]
    if len(used) == 1:
        return f"all {used[0][1]} layers on {used[0][0]}"
    *first, last = (f"{count} layers on {name}" for name, count in used)
    return f"{', '.join(first)} and {last}"


def _premises(tiering: Tiering) -> Iterator[str]:
    """What the plan rests on, a sentence a line."""
    weighted = tiering.objective is Objective.WEIGHTED
    worth = f"latency and energy, a mJ taken for {tiering.ms_per_mj:g} ms"
    yield f"least {worth if weighted else tiering.objective.value}"
    machines, chain = tiering.machines, tiering.plan.chain
    hops = zip(tiering.links, chain.links, machines, machines[1:], strict=False)
    for name, given, near, far in hops:
        yield f"over {name} from {near} to {far}: {describe_link(given)}"
    if tiering.objective is not Objective.LATENCY:
        yield from describe_power(chain.power)
    yield "shown only, neither compiled nor run: a bundle is for a device and one server"


def _tier_table(tiering: Tiering) -> Table:
    plan = tiering.plan
    carried = (">kB up", ">kB down", ">transfer ms")
    table = make_table(None, "machine", ">layers", ">compute ms", "link to the next", *carried)
    links = [*_link_rows(tiering), None]
    machines = zip(tiering.machines, _counts(plan), plan.compute_ms, links, strict=True)
    for name, layers, compute_ms, link in machines:
        table.add_row(Text(name), str(layers), f"{compute_ms:,.3f}", *_link_cells(link))
    return table


def _link_cells(link: LinkRow | None) -> tuple[str | Text, ...]:
    if link is None:
        return ("-",) * 4
    nbytes = (link.up_nbytes, link.down_nbytes)
    return (Text(link.link), *map(thousands, nbytes), f"{link.transfer_ms:,.3f}")


def _plan_table(tiering: Tiering) -> Table:
    machines = (f">{escape(name)}" for name in tiering.machines)
    costs = (">latency ms", ">energy mJ", f">{tiering.objective.value} / chosen")
    table = make_table("layers on each machine, and what they cost", "plan", *machines, *costs)
    best = tiering.value(tiering.plan)
    for title, plan in (("chosen", tiering.plan), *tiering.others):
        table.add_row(
            Text(title),
            *map(str, _counts(plan)),
            f"{plan.latency_ms:,.3f}",
            f"{plan.energy_mj:,.3f}",
            f"{tiering.value(plan) / best:.2f}" if best else "-",
        )
    return table


def _counts(plan: TierPlan) -> tuple[int, ...]:
    return tuple(map(len, plan.layers))
