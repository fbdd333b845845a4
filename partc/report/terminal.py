"""Graphs and decisions as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from partc.graph import Layer, LayerGraph
from partc.plan import Cut, Side
from partc.report.decision import LATENCY_TERMS, Decision
from partc.report.summary import headline, premises

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
        layers = _layer_table("layers at the cut", decision.layers_at_the_cut, decision.plan.cut)
        parts += ["", _crossing_table(decision), "", layers]
    return tuple(parts)


def layer_table(graph: LayerGraph, cut: Cut | None) -> Table:
    """Every layer of a graph, a row each; a cost that is not known yet is a dash."""
    return _layer_table(None, graph.layers, cut)


def _plan_table(decision: Decision) -> Table:
    plans = decision.plans.values()
    costs = [decision.cost(plan) for plan in plans]
    best = [cost.value(decision.objective) for cost in costs]
    table = _table(None, "plan", *(f">{title}" for title in decision.plans))
    table.add_row("device layers", *(str(len(plan.device_layers)) for plan in plans))
    table.add_row("server layers", *(str(len(plan.server_layers)) for plan in plans))
    table.add_row("upload kB", *(_thousands(plan.upload_nbytes) for plan in plans))
    table.add_row("download kB", *(_thousands(plan.download_nbytes) for plan in plans))
    table.add_section()
    for title, term in LATENCY_TERMS.items():
        table.add_row(f"{title} ms", *(_fixed(term(cost)) for cost in costs))
    table.add_section()
    table.add_row("total ms", *(_fixed(cost.latency_ms) for cost in costs), style="bold")
    table.add_row("energy mJ", *(_fixed(cost.energy_mj) for cost in costs))
    ratios = (f"{value / best[0]:.2f}" if best[0] else "-" for value in best)
    table.add_row(f"{decision.objective.value} / chosen", *ratios)
    return table


def _crossing_table(decision: Decision) -> Table:
    table = _table("tensors that travel", "way", "tensor", "type", ">kB", "made by", "read by")
    for crossing in decision.crossings:
        table.add_row(
            "upload" if crossing.upload else "download",
            Text(crossing.tensor.name),
            Text(str(crossing.tensor.type)),
            _thousands(crossing.tensor.nbytes),
            Text(crossing.made_by or "(input)"),
            Text(", ".join(crossing.read_by) or "(output)"),
        )
    return table


def _layer_table(title: str | None, layers: Sequence[Layer], cut: Cut | None) -> Table:
    side = () if cut is None else ("side",)
    numbers = (">output kB", ">MFLOP", ">weights kB", ">device ms", ">server ms")
    table = _table(title, "layer", "kind", *side, "output", *numbers)
    for layer in layers:
        table.add_row(*_layer_cells(layer, cut), style=cut and _STYLE[cut.side(layer)])
    return table


def _layer_cells(layer: Layer, cut: Cut | None) -> list[RenderableType]:
    cost = layer.cost
    return [
        Text(layer.name),
        Text(layer.kind),
        *([] if cut is None else [cut.side(layer).value]),
        Text(", ".join(str(tensor.type) for tensor in layer.outputs)),
        _thousands(layer.output_nbytes),
        _fixed(layer.flops / 1e6),
        _thousands(layer.weight_nbytes),
        "-" if cost is None else _fixed(cost.device_ms),
        "-" if cost is None else _fixed(cost.server_ms),
    ]


def _table(title: str | None, *columns: str) -> Table:
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


def _thousands(nbytes: int) -> str:
    return f"{nbytes / 1e3:,.1f}"
