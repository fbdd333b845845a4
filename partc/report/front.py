"""The trade between latency and energy: as a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.text import Text

from partc.passes.pareto import MOST
from partc.plan import Conditions, DevicePower, Plan
from partc.report.json import indented
from partc.report.summary import describe_link, describe_sent
from partc.report.terminal import make_table, thousands


@dataclass(frozen=True)
class Front:
    """The plans of which none is quicker without taking more energy.

    Args:
        model: The model's name.
        target: The device's name.
        server: The server's name.
        link: The link's name.
        conditions: What the link and the server are expected to be like.
        power: What the device draws.
        plans: From the quickest to the one that takes least energy.
        gap: How much less than one of them another plan may cost, relative to it, if the planner
            could not prove that none does.
        keeping: What they had to keep, as a user says it.
    """

    model: str
    target: str
    server: str
    link: str
    conditions: Conditions
    power: DevicePower
    plans: tuple[Plan, ...]
    gap: float = 0.0
    keeping: tuple[str, ...] = ()


class FrontRow(msgspec.Struct, frozen=True):
    """A plan in the JSON form."""

    latency_ms: float
    energy_mj: float
    device_layers: tuple[str, ...]
    server_layers: tuple[str, ...]
    upload: tuple[str, ...]
    encodings: tuple[str, ...]
    deviation: float
    upload_nbytes: int
    download_nbytes: int
    device_ms: float
    server_ms: float


class FrontReport(msgspec.Struct, frozen=True):
    """What ``partc plan --pareto --json`` prints."""

    target: str
    server: str
    link: str
    gap: float
    plans: tuple[FrontRow, ...]


def front_json(front: Front) -> str:
    """The output of ``partc plan --pareto --json``."""
    rows = tuple(
        FrontRow(
            latency_ms=float(plan.latency_ms(front.conditions)),
            energy_mj=float(plan.energy_mj(front.conditions, front.power)),
            device_layers=plan.device_layers,
            server_layers=plan.server_layers,
            upload=tuple(tensor.name for tensor in plan.upload),
            encodings=tuple(encoding.name for encoding in plan.encodings),
            deviation=plan.deviation,
            upload_nbytes=plan.upload_nbytes,
            download_nbytes=plan.download_nbytes,
            device_ms=float(plan.device_ms),
            server_ms=float(plan.server_ms),
        )
        for plan in front.plans
    )
    report = FrontReport(front.target, front.server, front.link, front.gap, rows)
    return indented(report)


def print_front(front: Front, console: Console) -> None:
    """Print a line for each plan, from the quickest to the one that takes least energy."""
    given = front.conditions
    console.print(Text(f"{front.model}: {_describe_count(front)}", style="bold"))
    console.print(
        Text(f"on {front.target} and {front.server} over {front.link}: {describe_link(given)}")
    )
    if front.keeping:
        console.print(Text(f"keeping {', '.join(front.keeping)}"))
    if front.gap:
        console.print(Text(f"not proven to be the best: {front.gap:.1%} less may be possible"))
    console.print()
    encoded = any(plan.cut.encodings for plan in front.plans)
    sent = ("sent as",) if encoded else ()
    sizes = (">device layers", ">server layers", *sent, ">upload kB", ">device ms", ">server ms")
    table = make_table(None, ">latency ms", ">energy mJ", *sizes)
    for plan in front.plans:
        table.add_row(
            f"{plan.latency_ms(given):,.3f}",
            f"{plan.energy_mj(given, front.power):,.3f}",
            str(len(plan.device_layers)),
            str(len(plan.server_layers)),
            *((describe_sent(plan),) if encoded else ()),
            thousands(plan.upload_nbytes),
            f"{plan.device_ms:.2f}",
            f"{plan.server_ms:.2f}",
        )
    console.print(table)


def _describe_count(front: Front) -> str:
    count = len(front.plans)
    if count == 1:
        return "one plan is best at both latency and energy"
    first = "the first " if count == MOST else ""
    return f"{first}{count} plans trade latency for energy"
