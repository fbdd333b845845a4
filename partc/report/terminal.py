"""Graphs and decisions as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from partc.graph import PLAIN, Layer, LayerCost, LayerGraph
from partc.plan import Cut, Objective, Side
from partc.quantities import format_error
from partc.report.certainty import plan_error
from partc.report.decision import LATENCY_TERMS, Decision
from partc.report.summary import EXTRAPOLATED, describe_extrapolation, headline, premises

_PIPED_WIDTH = 160
_STYLE = {Side.DEVICE: "blue", Side.SERVER: "dark_orange"}


def report_console(file: TextIO) -> Console:
    """A console on a stream; into a pipe or a file it writes plain text of one fixed width."""
    if file.isatty():
        return Console(file=file, highlight=False)
    return Console(
        file=file,
        width=_PIPED_WIDTH,
        color_system=None,
        force_terminal=False,
        highlight=False,
        legacy_windows=False,
    )


def print_decision(decision: Decision, console: Console) -> None:
    """Print what was chosen and why."""
    for part in decision_table(decision):
        console.print(part)


def decision_table(decision: Decision) -> tuple[RenderableType, ...]:
    """A headline, its premises, the plans side by side, what travels, and the layers at the cut."""
    parts: list[RenderableType] = [
        Text(headline(decision), style="bold"),
        *map(Text, premises(decision)),
        "",
        _plan_table(decision),
    ]
    if decision.crossings:
        parts += ["", _crossing_table(decision), "", _cut_table(decision)]
    note = describe_extrapolation(decision.graph)
    return (*parts, *(("", Text(note)) if note else ()))


def layer_table(graph: LayerGraph, cut: Cut | None) -> Table:
    """Every layer of a graph, a row each; a cost that is not known yet is a dash."""
    side = () if cut is None else ("side",)
    numbers = (">output kB", ">MFLOP", ">weights kB", ">device ms", ">server ms")
    table = make_table(None, "layer", "kind", *side, "output", *numbers)
    for layer in graph.layers:
        cells = [*_place(layer, cut), *_work(layer)]
        table.add_row(*cells, style=cut and _STYLE[cut.side(layer)])
    return table


def _plan_table(decision: Decision) -> Table:
    plans = decision.plans.values()
    costs = [decision.cost(plan) for plan in plans]
    errors = [plan_error(decision, plan) for plan in plans]
    best = [decision.value(plan) for plan in plans]
    titles = ((f">{title}", ">error") for title in decision.plans)
    table = make_table(None, "plan", *chain.from_iterable(titles))
    table.add_row("device layers", *_sure(str(len(plan.device_layers)) for plan in plans))
    table.add_row("server layers", *_sure(str(len(plan.server_layers)) for plan in plans))
    table.add_row("upload kB", *_sure(thousands(plan.upload_nbytes) for plan in plans))
    table.add_row("download kB", *_sure(thousands(plan.download_nbytes) for plan in plans))
    table.add_section()
    for title, term in LATENCY_TERMS.items():
        shares = (error.of_term(title) for error in errors)
        table.add_row(f"{title} ms", *_unsure(map(term, costs), shares))
    table.add_section()
    latencies = _unsure((cost.latency_ms for cost in costs), (error.latency for error in errors))
    table.add_row("total ms", *latencies, style="bold")
    energies = _unsure((cost.energy_mj for cost in costs), (error.energy for error in errors))
    table.add_row("energy mJ", *energies)
    ratios = _sure(f"{value / best[0]:.2f}" if best[0] else "-" for value in best)
    slowest = decision.objective is Objective.THROUGHPUT
    aim = "slowest stage" if slowest else decision.objective.value
    table.add_row(f"{aim} / chosen", *ratios)
    if decision.keeping:
        kept = ("no" if title in decision.breaking else "yes" for title in decision.plans)
        table.add_row("keeps all limits", *_sure(kept))
    return table


def _sure(cells: Iterable[str]) -> Iterator[str]:
    """A cell for each plan, with nothing in the columns of errors."""
    return chain.from_iterable((cell, "") for cell in cells)


def _unsure(values: Iterable[float], errors: Iterable[float]) -> Iterator[str]:
    """A value and its error for each plan."""
    pairs = zip(values, errors, strict=True)
    return chain.from_iterable((_fixed(value), format_error(error)) for value, error in pairs)


def _crossing_table(decision: Decision) -> Table:
    encoded = any(crossing.encoding.name != PLAIN for crossing in decision.crossings)
    sent = ("sent as",) if encoded else ()
    columns = ("way", "tensor", "type", *sent, ">kB", "made by", "read by")
    table = make_table("tensors that travel", *columns)
    for crossing in decision.crossings:
        table.add_row(
            "upload" if crossing.upload else "download",
            Text(crossing.tensor.name),
            Text(str(crossing.tensor.type)),
            *((crossing.encoding.name,) if encoded else ()),
            thousands(crossing.encoding.nbytes),
            Text(crossing.made_by or "(input)"),
            Text(", ".join(crossing.read_by) or "(output)"),
        )
    return table


def _cut_table(decision: Decision) -> Table:
    times = (">device ms", ">error", ">server ms", ">error")
    table = make_table("layers at the cut", "layer", "kind", "side", *times)
    cut = decision.plan.cut
    for layer in decision.layers_at_the_cut:
        cells = [*_place(layer, cut), *_times(layer.annotated_cost)]
        table.add_row(*cells, style=_STYLE[cut.side(layer)])
    return table


def _place(layer: Layer, cut: Cut | None) -> list[RenderableType]:
    side = [] if cut is None else [cut.side(layer).value]
    return [Text(layer.name), Text(layer.kind), *side]


def _work(layer: Layer) -> list[RenderableType]:
    cost = layer.cost
    return [
        Text(", ".join(str(tensor.type) for tensor in layer.outputs)),
        thousands(layer.output_nbytes),
        _fixed(layer.flops / 1e6),
        thousands(layer.weight_nbytes),
        "-" if cost is None else _fixed(cost.device_ms),
        "-" if cost is None else _fixed(cost.server_ms),
    ]


def _times(cost: LayerCost) -> list[str]:
    return [
        _marked(cost.device_ms, cost.device_extrapolated),
        format_error(cost.device_error),
        _marked(cost.server_ms, cost.server_extrapolated),
        format_error(cost.server_error),
    ]


def _marked(time_ms: float, extrapolated: bool) -> str:
    """A time, with the mark before it, so that digits stay in line."""
    return f"{EXTRAPOLATED} {_fixed(time_ms)}" if extrapolated else _fixed(time_ms)


def make_table(title: str | None, *columns: str) -> Table:
    """A table with a rule under its header; columns whose title starts with ``>`` hold numbers."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number,
        )
    return table


def _fixed(value: float) -> str:
    return f"{value:,.3f}"


def thousands(nbytes: int) -> str:
    """A size in kB."""
    return f"{nbytes / 1e3:,.1f}"
