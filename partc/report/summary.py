"""A decision in sentences, the same ones on the terminal and on the page."""

from __future__ import annotations

from partc.plan import DevicePower, Objective, Side
from partc.report.decision import Decision
from partc.report.units import format_mj, format_ms


def headline(decision: Decision) -> str:
    """What was chosen, for what, and what it costs."""
    cost = decision.cost(decision.plan)
    return (
        f"{decision.graph.name}: {_placement(decision)}; "
        f"{format_ms(cost.latency_ms)}, {format_mj(cost.energy_mj)}"
    )


def premises(decision: Decision) -> tuple[str, ...]:
    """What the decision rests on, a sentence a line."""
    if decision.objective is Objective.ENERGY:
        return (describe_conditions(decision), *describe_power(decision.power))
    return (describe_conditions(decision),)


def describe_conditions(decision: Decision) -> str:
    """What the network and the server are expected to be like."""
    given = decision.conditions
    load = "" if given.load == 1 else f", server {given.load:g} times slower"
    return (
        f"least {decision.objective.value} over {decision.link}: "
        f"{given.uplink_mbps:g} Mbps up, {given.downlink_mbps:g} Mbps down, "
        f"{given.round_trip_ms:g} ms round trip{load}"
    )


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
