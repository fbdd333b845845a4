"""Graphs and decisions as JSON: the same value gives the same bytes, fields in a fixed order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from partc.errors import ModelError
from partc.graph import Layer, LayerGraph
from partc.plan import Cut, Objective, Side
from partc.report.certainty import plan_error
from partc.report.decision import Decision


class PlanSummary(msgspec.Struct, frozen=True):
    """The chosen plan: names of layers and tensors, sizes, and the terms of its latency.

    ``encodings`` says how each tensor of ``upload`` is sent, and ``deviation`` by how much outputs
    differ at most for it, relative to the largest value of each.
    ``server_ms`` is the time on the loaded server; ``transfer_ms`` includes the round trip. Errors
    are standard deviations, relative to the time.
    """

    device_layers: tuple[str, ...]
    server_layers: tuple[str, ...]
    upload: tuple[str, ...]
    encodings: tuple[str, ...]
    deviation: float
    upload_nbytes: int
    download_nbytes: int
    device_ms: float
    server_ms: float
    transfer_ms: float
    device_error: float
    server_error: float


class PlanTotals(msgspec.Struct, frozen=True):
    """What another plan would cost; errors are standard deviations, relative to the cost.

    ``keeps_limits`` says whether it keeps what the chosen plan has to.
    """

    latency_ms: float
    energy_mj: float
    latency_error: float
    energy_error: float
    keeps_limits: bool


class LayerRow(msgspec.Struct, frozen=True):
    """A layer, where the chosen plan runs it, and what it costs; ``server_ms`` without load.

    Errors are standard deviations, relative to the time. An extrapolated layer is unlike all that
    were measured on that side.
    """

    name: str
    kind: str
    side: Side
    device_ms: float
    server_ms: float
    device_mj: float
    flops: int
    weight_nbytes: int
    output_nbytes: int
    device_error: float
    server_error: float
    device_extrapolated: bool
    server_extrapolated: bool


class PlanReport(msgspec.Struct, frozen=True):
    """What ``partc plan --json`` prints; errors are standard deviations, relative to the cost.

    ``slowest_ms`` is the time of the slowest of device, transfer and server.
    """

    objective: Objective
    link: str
    latency_ms: float
    energy_mj: float
    latency_error: float
    energy_error: float
    slowest_ms: float
    plan: PlanSummary
    device_only: PlanTotals
    server_only: PlanTotals
    layers: tuple[LayerRow, ...]


def graph_to_json(graph: LayerGraph) -> str:
    """The graph as indented JSON; payloads are left out."""
    document: dict[str, Any] = msgspec.to_builtins(_without_payloads(graph))
    for layer in document["layers"]:
        del layer["payload"]
    return indented(document)


def graph_from_json(text: str) -> LayerGraph:
    """The graph that :func:`graph_to_json` wrote.

    Raises:
        ModelError: The text is no JSON, or describes no valid graph; says where.
    """
    try:
        return msgspec.json.decode(text, type=LayerGraph)
    except msgspec.DecodeError as error:
        raise ModelError(f"graph JSON: {error}") from error


def plan_report(decision: Decision) -> PlanReport:
    """What there is to say about a decision in numbers."""
    chosen = _totals(decision, "chosen")
    cut = decision.plan.cut
    return PlanReport(
        objective=decision.objective,
        link=decision.link,
        latency_ms=chosen.latency_ms,
        energy_mj=chosen.energy_mj,
        latency_error=chosen.latency_error,
        energy_error=chosen.energy_error,
        slowest_ms=decision.slowest_ms,
        plan=_summary(decision),
        device_only=_totals(decision, "device only"),
        server_only=_totals(decision, "server only"),
        layers=tuple(_row(layer, cut) for layer in decision.graph.layers),
    )


def decision_json(decision: Decision) -> str:
    """The output of ``partc plan --json``."""
    return indented(plan_report(decision))


def _summary(decision: Decision) -> PlanSummary:
    plan, cost = decision.plan, decision.cost(decision.plan)
    error = plan_error(decision, plan)
    return PlanSummary(
        device_layers=plan.device_layers,
        server_layers=plan.server_layers,
        upload=tuple(tensor.name for tensor in plan.upload),
        encodings=tuple(encoding.name for encoding in plan.encodings),
        deviation=plan.deviation,
        upload_nbytes=plan.upload_nbytes,
        download_nbytes=plan.download_nbytes,
        device_ms=cost.device_ms,
        server_ms=cost.server_ms,
        transfer_ms=cost.transfer_ms,
        device_error=error.device,
        server_error=error.server,
    )


def _totals(decision: Decision, title: str) -> PlanTotals:
    plan = decision.plans[title]
    cost, error = decision.cost(plan), plan_error(decision, plan)
    return PlanTotals(
        latency_ms=cost.latency_ms,
        energy_mj=cost.energy_mj,
        latency_error=error.latency,
        energy_error=error.energy,
        keeps_limits=title not in decision.breaking,
    )


def _row(layer: Layer, cut: Cut) -> LayerRow:
    cost = layer.annotated_cost
    return LayerRow(
        name=layer.name,
        kind=layer.kind,
        side=cut.side(layer),
        device_ms=cost.device_ms,
        server_ms=cost.server_ms,
        device_mj=cost.device_mj,
        flops=layer.flops,
        weight_nbytes=layer.weight_nbytes,
        output_nbytes=layer.output_nbytes,
        device_error=cost.device_error,
        server_error=cost.server_error,
        device_extrapolated=cost.device_extrapolated,
        server_extrapolated=cost.server_extrapolated,
    )


def _without_payloads(graph: LayerGraph) -> LayerGraph:
    return graph.with_layers(replace(layer, payload=None) for layer in graph.layers)


def indented(document: object) -> str:
    """A document as indented JSON text."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
