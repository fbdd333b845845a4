"""What is minimised or limited: sums of the terms that a plan costs."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from partc.plan import Conditions, DevicePower, Objective, Plan


@dataclass(frozen=True)
class Cost:
    """A cost of plans, linear in their terms: how much one unit of each adds.

    Whatever is linear can be minimised as a minimum cut, limited, and added up with others. Times
    are in ms, energies in mJ.

    Args:
        device_ms: Computing on the device.
        device_mj: What the device draws meanwhile.
        upload_ms: Sending to the server.
        upload_nbytes: What is sent.
        server_ms: Computing on the server, as loaded as it is.
        download_ms: Sending back.
        round_trip_ms: Waiting for messages to arrive, if the server is asked.
        asking: Asking the server at all.
        deviation: What encodings do to the outputs.
    """

    device_ms: float = 0.0
    device_mj: float = 0.0
    upload_ms: float = 0.0
    upload_nbytes: float = 0.0
    server_ms: float = 0.0
    download_ms: float = 0.0
    round_trip_ms: float = 0.0
    asking: float = 0.0
    deviation: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(factor * each for each in astuple(self)))

    def of(self, plan: Plan, conditions: Conditions) -> float:
        """What a plan costs under given conditions."""
        asked = bool(plan.server_layers)
        return (
            self.device_ms * plan.device_ms
            + self.device_mj * plan.device_mj
            + self.upload_ms * plan.upload_ms(conditions)
            + self.upload_nbytes * plan.upload_nbytes
            + self.server_ms * plan.server_ms * conditions.load
            + self.download_ms * plan.download_ms(conditions)
            + asked * (self.round_trip_ms * conditions.round_trip_ms + self.asking)
            + self.deviation * plan.deviation
        )


LATENCY = Cost(device_ms=1, upload_ms=1, server_ms=1, download_ms=1, round_trip_ms=1)
"""How long a request takes, in ms."""

DEVICE_TIME = Cost(device_ms=1)
TRANSFER_TIME = Cost(upload_ms=1, download_ms=1)
SERVER_TIME = Cost(server_ms=1)
STAGES = (DEVICE_TIME, TRANSFER_TIME, SERVER_TIME)
"""What requests that follow each other pass through, each of them taken by one at a time."""

UPLOAD_NBYTES = Cost(upload_nbytes=1)
DEVIATION = Cost(deviation=1)


def energy(power: DevicePower) -> Cost:
    """What a request draws from the device, in mJ: computing, the radio, and idling meanwhile."""
    idle = power.idle_watts
    return Cost(
        device_mj=1,
        upload_ms=power.upload_watts + idle,
        server_ms=idle,
        download_ms=power.download_watts + idle,
        round_trip_ms=idle,
        asking=power.tail_mj,
    )


@dataclass(frozen=True)
class Aim:
    """What an objective minimises: the largest of some costs, of which there may be one only.

    Args:
        costs: In the same unit.
        unit: ``ms`` or ``mJ``.
    """

    costs: tuple[Cost, ...]
    unit: str

    def largest(self, plan: Plan, conditions: Conditions) -> Cost:
        """The cost that decides for a plan."""
        return max(self.costs, key=lambda cost: cost.of(plan, conditions))

    def of(self, plan: Plan, conditions: Conditions) -> float:
        return self.largest(plan, conditions).of(plan, conditions)


def aim_of(objective: Objective, power: DevicePower, ms_per_mj: float = 0.0) -> Aim:
    """What an objective minimises.

    Args:
        objective: What plans are to be best at.
        power: What the device draws.
        ms_per_mj: What a weighted objective takes a millijoule to be worth.
    """
    if objective is Objective.LATENCY:
        return Aim((LATENCY,), "ms")
    if objective is Objective.ENERGY:
        return Aim((energy(power),), "mJ")
    if objective is Objective.WEIGHTED:
        return Aim((LATENCY + energy(power) * ms_per_mj,), "ms")
    return Aim(STAGES, "ms")
