"""How many queries a datacenter can answer: a queueing simulation, and formulas to check it by.

Queries arrive one by one and wait in one line for the next of several alike machines, first come,
first served. As BigHouse does (Meisner, Wu and Wenisch, ISPASS 2012), a simulation goes on until
what it estimates is known well enough: by batch means, with Student's confidence interval.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import simpy
from numpy.typing import NDArray
from scipy.stats import t as student

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
"""So many times of service, in ms."""

CONFIDENCE = 0.95
PRECISION = 0.02
_BATCH = 5_000
_FEWEST_BATCHES, _MOST_BATCHES = 8, 400
_DRAWN_AT_ONCE = 1_000
_STEPS = 8
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over batches, and half the width of its confidence interval."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}"

    @property
    def precise(self) -> bool:
        return self.half_width <= PRECISION * abs(self.mean)


@dataclass(frozen=True)
class Datacenter:
    """Machines that queries wait for in one line.

    Args:
        draw: The times of service.
        servers: How many machines.
    """

    draw: Draw
    servers: int

    def times(self, arrivals_per_ms: float) -> Iterator[tuple[float, float]]:
        """Of one query after the other, in the order of arrival: waiting and service, in ms."""
        random = np.random.default_rng(_SEED)
        environment = simpy.Environment()
        line: deque[tuple[float, float]] = deque()
        answered: deque[tuple[float, float]] = deque()
        idle = self.servers

        def arrive() -> Generator[simpy.Event]:
            while True:
                gaps_ms = random.exponential(1 / arrivals_per_ms, _DRAWN_AT_ONCE)
                services_ms = self.draw(random, _DRAWN_AT_ONCE)
                for gap_ms, service_ms in zip(gaps_ms.tolist(), services_ms.tolist(), strict=True):
                    yield environment.timeout(gap_ms)
                    line.append((environment.now, service_ms))
                    serve()

        def serve() -> None:
            nonlocal idle
            if not idle or not line:
                return
            idle -= 1
            arrived_ms, service_ms = line.popleft()
            answered.append((environment.now - arrived_ms, service_ms))
            environment.timeout(service_ms).callbacks.append(serve_next)

        def serve_next(_: simpy.Event) -> None:
            nonlocal idle
            idle += 1
            serve()

        environment.process(arrive())
        while True:
            environment.step()
            while answered:
                yield answered.popleft()

    def estimate(
        self,
        arrivals_per_ms: float,
        statistic: Callable[[Array], float],
        enough: Callable[[Estimate], bool] = lambda _: False,
    ) -> Estimate:
        """A statistic of the times of queries, known to :data:`PRECISION`.

        Warns if as many batches as there is time for do not tell.

        Args:
            arrivals_per_ms: Queries; fewer than the machines can answer.
            statistic: Of the times of a batch of queries: waiting and service, in ms, by column.
            enough: Whether an estimate that is not as precise will do.
        """
        times = self.times(arrivals_per_ms)
        _take_batch(times)  # while the line fills up
        batches: list[float] = []
        while True:
            batches.append(statistic(_take_batch(times)))
            if len(batches) < _FEWEST_BATCHES:
                continue
            found = _interval(batches)
            if found.precise or enough(found):
                return found
            if len(batches) == _MOST_BATCHES:
                warnings.warn(
                    f"{_MOST_BATCHES} batches of {_BATCH:,} queries, {arrivals_per_ms:.4g} a ms, "
                    f"leave {found} ms, expected to know it to {PRECISION:.0%}",
                    stacklevel=2,
                )
                return found

    def capacity(
        self, mean_service_ms: float, statistic: Callable[[Array], float], limit: float
    ) -> float:
        """Queries a ms of which a statistic is at a limit, as far as it can be told.

        By bisection between an idle and a full datacenter. Far from the limit, the statistic is
        known well enough as soon as the limit is outside of its confidence interval.
        """
        full_per_ms = self.servers / mean_service_ms

        def clear(found: Estimate) -> bool:
            return abs(found.mean - limit) > found.half_width

        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            found = self.estimate(middle * full_per_ms, statistic, clear)
            if not clear(found):
                return middle * full_per_ms
            low, high = (middle, high) if found.mean < limit else (low, middle)
        return (low + high) / 2 * full_per_ms


def _take_batch(times: Iterator[tuple[float, float]]) -> Array:
    return np.array(list(islice(times, _BATCH)))


def _interval(batches: list[float]) -> Estimate:
    spread = float(np.std(batches, ddof=1)) / math.sqrt(len(batches))
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(batches) - 1))
    return Estimate(float(np.mean(batches)), quantile * spread)


def mean_wait_ms(times: Array) -> float:
    return float(times[:, 0].mean())


def percentile_ms(share: float, times: Array) -> float:
    """What a share of the queries needs at most, waiting and service together."""
    return float(np.quantile(times.sum(axis=1), share))


# Checks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A queue for which a formula is known: the mean wait by both, in ms."""

    title: str
    simulated: Estimate
    expected_ms: float

    @property
    def holds(self) -> bool:
        """Within what is left unknown, doubled, as one interval in twenty misses."""
        return abs(self.simulated.mean - self.expected_ms) <= 2 * self.simulated.half_width


def check_queues(utilisation: float = 0.7) -> Iterator[Check]:
    """Queues whose mean wait has a formula, at services of 1 ms on average.

    Erlang's, and Pollaczek and Khinchine's (Kleinrock, "Queueing Systems, Volume 1: Theory",
    Wiley 1975).
    """
    exponential: Draw = lambda random, count: random.exponential(1.0, count)  # noqa: E731
    constant: Draw = lambda _, count: np.ones(count)  # noqa: E731
    alone = utilisation / (1 - utilisation)
    cases = (
        ("M/M/1", exponential, 1, alone),
        ("M/D/1", constant, 1, alone / 2),
        ("M/M/4", exponential, 4, _erlang_wait_ms(4, utilisation)),
    )
    for title, draw, servers, expected_ms in cases:
        found = Datacenter(draw, servers).estimate(utilisation * servers, mean_wait_ms)
        yield Check(f"{title} at {utilisation:.0%}", found, expected_ms)


def _erlang_wait_ms(servers: int, utilisation: float) -> float:
    """The mean wait of an M/M/c queue, by the recursion of Erlang's B and from it his C."""
    offered, blocked = servers * utilisation, 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    waiting = blocked / (1 - utilisation * (1 - blocked))
    return waiting / (servers * (1 - utilisation))
