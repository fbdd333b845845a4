"""A decision in sentences, the same ones on the terminal and on the page."""

from __future__ import annotations

from partc.graph import LayerGraph
from partc.plan import Conditions, DevicePower, Objective, Plan, Side
from partc.quantities import format_error, format_mj, format_ms
from partc.report.certainty import find_contest, plan_error
from partc.report.decision import Decision

EXTRAPOLATED = "*"
"""Marks the time of a layer on a side where it is extrapolated."""


def headline(decision: Decision) -> str:
    """What was chosen, and what it costs, give or take a standard deviation."""
    cost, error = decision.cost(decision.plan), plan_error(decision, decision.plan)
    latency = f"{format_ms(cost.latency_ms)} {format_error(error.latency)}".rstrip()
    energy = f"{format_mj(cost.energy_mj)} {format_error(error.energy)}".rstrip()
    return f"{decision.graph.name}: {_placement(decision)}; {latency}, {energy}"


def premises(decision: Decision) -> tuple[str, ...]:
    """What the decision rests on, and whether that is enough, a sentence a line."""
    draws = any(cost.device_mj for cost in decision.aim.costs)
    power = describe_power(decision.power) if draws else ()
    return (
        describe_conditions(decision),
        *describe_load(decision),
        *power,
        *describe_limits(decision),
        *describe_encodings(decision.plan),
        *describe_contest(decision),
    )


def describe_conditions(decision: Decision) -> str:
    """What is minimised, and what the network is expected to be like."""
    given, aim = decision.conditions, _AIMS[decision.objective]
    worth = f", a mJ taken for {decision.ms_per_mj:g} ms" if decision.ms_per_mj else ""
    return f"{aim}{worth} over {decision.link}: {describe_link(given)}"


def describe_link(conditions: Conditions) -> str:
    """What the network is expected to be like."""
    return (
        f"{conditions.uplink_mbps:g} Mbps up, {conditions.downlink_mbps:g} Mbps down, "
        f"{conditions.round_trip_ms:g} ms round trip"
    )


_AIMS = {
    Objective.LATENCY: "least latency",
    Objective.ENERGY: "least energy",
    Objective.WEIGHTED: "least latency and energy",
    Objective.THROUGHPUT: "highest throughput",
}


def describe_limits(decision: Decision) -> tuple[str, ...]:
    """What the plan had to keep, how many requests it can take, and whether it is the best."""
    lines: list[str] = []
    if decision.keeping:
        lines.append(f"keeping {', '.join(decision.keeping)}")
    if decision.objective is Objective.THROUGHPUT:
        lines.append(
            f"at best a request every {format_ms(decision.slowest_ms)}, one in each of "
            "device, transfer and server at a time"
        )
    if decision.rate_hz:
        lines.append(_describe_rate(decision))
    if decision.gap:
        lines.append(f"not proven to be the best: {decision.gap:.1%} less may be possible")
    return tuple(lines)


def _describe_rate(decision: Decision) -> str:
    """Whether the plan keeps up with what was asked for."""
    wanted, slowest_ms = decision.rate_hz, decision.slowest_ms
    if slowest_ms * wanted < 1e3:
        return f"keeps up with {wanted:g} requests a second"
    return f"{1e3 / slowest_ms:.4g} requests a second at most, though {wanted:g} were asked for"


def describe_encodings(plan: Plan) -> tuple[str, ...]:
    """What encoding tensors takes and does to the outputs, if any are encoded."""
    encodings = [each for each in plan.encodings if not each.as_given]
    if not encodings:
        return ()
    encode_ms, decode_ms = (
        sum(getattr(each, name) for each in encodings) for name in ("encode_ms", "decode_ms")
    )
    took = f"encoding takes {format_ms(encode_ms)}, decoding {format_ms(decode_ms)}"
    if all(each.is_lossless for each in encodings):
        return (f"{took}; outputs stay the same",)
    lost = f"{plan.deviation:.2g} of their largest value" if plan.deviation else "nothing"
    return (f"{took}; outputs deviated by {lost} at most, on what was calibrated on",)


def describe_sent(plan: Plan) -> str:
    """The encodings of what is sent, each once."""
    return ", ".join(dict.fromkeys(encoding.name for encoding in plan.encodings))


def describe_load(decision: Decision) -> tuple[str, ...]:
    """What else the server does, and what that costs, if it does anything else."""
    busy, load = decision.server_busy, decision.conditions.load
    if not busy:
        return ()
    others = "other request" if busy == 1 else "other requests"
    slower = f"{load:.3g} times slower" if load > 1 else "no slower"
    return (f"server computing {busy:g} {others}: {slower}",)


def describe_power(power: DevicePower) -> tuple[str, ...]:
    """What the device draws and where that is known from; and its radio, if it has one."""
    machine = (
        f"device power: {power.busy_watts:g} W busy, {power.idle_watts:g} W idle; {power.source}"
    )
    if not (power.upload_watts or power.download_watts or power.tail_mj):
        return (machine,)
    return (
        machine,
        f"its radio, on top of idling: {power.upload_watts:.3g} W sending, "
        f"{power.download_watts:.3g} W receiving, {format_mj(power.tail_mj)} after each request",
    )


def describe_contest(decision: Decision) -> tuple[str, ...]:
    """A sentence if another plan may well be the better one, for all that is known."""
    contest = find_contest(decision)
    if contest is None or not contest.is_close:
        return ()
    form = format_mj if decision.aim.unit == "mJ" else format_ms
    return (
        f"close call: {contest.title} takes {form(contest.margin)} more, "
        f"give or take {form(contest.error)}; profile or --measure to be sure",
    )


def describe_extrapolation(graph: LayerGraph) -> str | None:
    """What the mark :data:`EXTRAPOLATED` says of a layer; None if no layer has it."""
    costs = [layer.cost for layer in graph.layers]
    count = sum(cost is not None and cost.extrapolated for cost in costs)
    if not count:
        return None
    return (
        f"{EXTRAPOLATED} unlike all that was measured ({count} of {len(costs)} layers): "
        "`partc profile` for longer, or use --measure"
    )


def _placement(decision: Decision) -> str:
    counts = (
        (decision.machine(Side.DEVICE), len(decision.plan.device_layers)),
        (decision.machine(Side.SERVER), len(decision.plan.server_layers)),
    )
    total = len(decision.graph.layers)
    for machine, count in counts:
        if count == total:
            return f"all {total} layers on {machine}"
    return " and ".join(f"{count} layers on {machine}" for machine, count in counts)
