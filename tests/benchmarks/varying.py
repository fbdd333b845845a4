"""Networks and servers that change while requests are made, and planners that follow them.

A planner decides by what was last measured or polled; what it decided is worth what it costs under
the conditions as they are. The oracle knows these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cases import Case
from numpy.typing import NDArray

from partc.cost import LATENCY
from partc.plan import Conditions, Plan
from partc.targets.link import load_link

STEP_S = 2
_STEPS = 150
_POLLED_STEPS = 5
_SEED = 2017
_MEMORY_S = 20
_SPREAD = 0.8
_BUSIEST = 0.98


@dataclass(frozen=True)
class Course:
    """What conditions are, step by step, and what is known of them at each step."""

    title: str
    link: str
    actual: Sequence[Conditions]
    known: Sequence[Conditions]


def bandwidth_course() -> Course:
    """LTE whose rates come and go; a device knows them as they were a step before.

    No trace of the paper's is public. The logarithm of the rate is a Gauss-Markov process around
    the link's, as shadow fading is modelled (Gudmundson, "Correlation Model for Shadow Fading in
    Mobile Radio Systems", Electronics Letters 1991): a standard deviation of a factor of 2.2, and
    a memory of 20 s. Both directions share it.
    """
    conditions = load_link("lte").conditions
    random, kept = np.random.default_rng(_SEED), math.exp(-STEP_S / _MEMORY_S)
    level, actual = 0.0, list[Conditions]()
    for shock in random.normal(0, _SPREAD * math.sqrt(1 - kept**2), _STEPS):
        level = kept * level + float(shock)
        up_mbps, down_mbps = conditions.uplink_mbps, conditions.downlink_mbps
        times = math.exp(level)
        actual.append(Conditions(times * up_mbps, times * down_mbps, conditions.round_trip_ms))
    title = f"LTE, {_range([each.uplink_mbps for each in actual])} Mbit/s up, known {STEP_S} s late"
    return Course(title, "lte", actual, [conditions, *actual[:-1]])


def load_course() -> Course:
    """Wi-Fi to a server that fills up; a device polls it from time to time, as in the paper.

    Utilisation rises steadily, and a request takes 1 / (1 - utilisation) times as long, as with
    processor sharing (Kleinrock, "Queueing Systems, Volume 2", Wiley 1976, chapter 4).
    """
    conditions = load_link("wifi").conditions
    loads = [1 / (1 - _BUSIEST * step / (_STEPS - 1)) for step in range(_STEPS)]
    actual = [replace(conditions, load=load) for load in loads]
    known = [actual[step - step % _POLLED_STEPS] for step in range(_STEPS)]
    polled_s = _POLLED_STEPS * STEP_S
    title = f"Wi-Fi, the server {_range(loads)} times slower, polled each {polled_s} s"
    return Course(title, "wifi", actual, known)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


@dataclass(frozen=True)
class Followed:
    """What planners chose at each step of a course, and how long requests then took, in ms."""

    plans: Mapping[str, Sequence[Plan]]
    latencies_ms: Mapping[str, NDArray[np.float64]]

    @property
    def best_plans(self) -> int:
        """How many different plans were the best at some step."""
        return len({plan.cut for plan in self.plans["oracle"]})


def follow(case: Case, course: Course) -> Followed:
    """Let planners follow a course. The fixed split is the best for the link as described."""
    count = len(course.actual)
    plans: dict[str, Sequence[Plan]] = {
        "cloud-only": [case.cloud_only] * count,
        "fixed split": [case.best(LATENCY)] * count,
        "Neurosurgeon": [_scan(case, known) for known in course.known],
        "partc": [case.best(LATENCY, known) for known in course.known],
        "oracle": [case.best(LATENCY, actual) for actual in course.actual],
    }
    return Followed(
        plans,
        {
            name: np.array(
                [
                    plan.latency_ms(actual)
                    for plan, actual in zip(chosen, course.actual, strict=True)
                ]
            )
            for name, chosen in plans.items()
        },
    )


def _scan(case: Case, known: Conditions) -> Plan:
    chosen = case.choose("neurosurgeon", LATENCY, known)
    assert chosen is not None
    return chosen
