"""Which plan is the fastest, for what is known of the network and the server at the moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from .errors import InputError
from .spec import PlanSpec, TensorSpec


class Chooser:
    """The plans of a bundle, to be compared under any conditions.

    What a plan takes is linear in the slowdown of either side, the reciprocals of the rates and the
    round trip, so comparing all of them is one product of a matrix and a vector.

    Args:
        plans: With what they are predicted to take; those that are not eligible are never chosen.
    """

    def __init__(self, plans: Sequence[PlanSpec]) -> None:
        eligible = [plan for plan in plans if plan.eligible]
        self._names = tuple(plan.name for plan in eligible)
        self._costs = np.array([_coefficients(plan) for plan in eligible])

    def choose(
        self,
        uplink_mbps: float,
        downlink_mbps: float,
        round_trip_ms: float,
        server_slowdown: float = 1.0,
        device_slowdown: float = 1.0,
    ) -> str:
        """The name of the plan that answers soonest; of equals the first.

        Args:
            uplink_mbps: Rate to the server, in 10^6 bits a second.
            downlink_mbps: Rate back.
            round_trip_ms: Of an empty message.
            server_slowdown: How many times longer than predicted the server takes.
            device_slowdown: How many times longer than predicted the device takes.

        Raises:
            InputError: A rate is not above zero, or another number is negative or not finite.
        """
        rates = (uplink_mbps, downlink_mbps)
        others = (round_trip_ms, server_slowdown, device_slowdown)
        if not (min(rates) > 0 and min(others) >= 0 and math.isfinite(sum(rates + others))):
            raise InputError(
                "rates must be above zero, the round trip and slowdowns not below, all finite; got "
                f"{uplink_mbps:g} and {downlink_mbps:g} Mbps, {round_trip_ms:g} ms, "
                f"{server_slowdown:g} and {device_slowdown:g}"
            )
        conditions = (
            device_slowdown,
            1 / uplink_mbps,
            server_slowdown,
            1 / downlink_mbps,
            round_trip_ms,
        )
        return self._names[int((self._costs @ conditions).argmin())]


def _coefficients(plan: PlanSpec) -> tuple[float, ...]:
    """What a plan's latency in ms is a sum of, in the order of the conditions."""
    return (
        plan.device_ms,
        _kilobits(sent.nbytes for sent in plan.upload),
        plan.server_ms,
        _kilobits(map(_plain_nbytes, plan.download)),
        float(bool(plan.server_segments)),
    )


def _plain_nbytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _kilobits(nbytes: Iterable[int]) -> float:
    return sum(nbytes) * 8 / 1e3
