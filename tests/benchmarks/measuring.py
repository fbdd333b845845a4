"""Times that can be compared: engines take turns, and what one leaves running has ended.

ONNX Runtime's threads spin for up to 100 ms after a run, and would halve what is timed next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from engines import Arrays, Engine

from partc.codegen.verify import FLOOR, TOLERANCE

_PAUSE_S = 0.1
_ROUNDS = 12
_FEWEST_ROUNDS = 3
_LARGEST_BATCH = 10
PERCENTILE = 20


@dataclass(frozen=True)
class Times:
    """How long runs took: the least, which others on the machine disturb least, and a percentile.

    They are far apart where something else was running.
    """

    least_ms: float
    percentile_ms: float

    def __str__(self) -> str:
        return f"{self.least_ms:.3f} ({self.percentile_ms:.3f})"


class Neighbours:
    """What other processes do to this machine from now on."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._busy_s = _busy_elsewhere_s()

    def count_cores(self) -> float:
        """How many cores they kept busy, on average."""
        return (_busy_elsewhere_s() - self._busy_s) / (time.perf_counter() - self._started_s)


def _busy_elsewhere_s() -> float:
    """CPU seconds of all processes but this one; ``man proc_stat`` lists the columns."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def alternate(engines: Mapping[str, Engine], budget_s: float) -> dict[str, Times]:
    """Time engines in turns: 120 runs of each, fewer where that takes longer than the budget."""
    seconds = {name: _time_alone(engine, 1) for name, engine in engines.items()}
    share_s = budget_s / _ROUNDS / len(engines)
    batches = {
        name: int(np.clip(share_s / first, 1, _LARGEST_BATCH)) for name, (first,) in seconds.items()
    }
    deadline = time.perf_counter() + budget_s
    for number in range(_ROUNDS):
        if number >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        for name, engine in engines.items():
            seconds[name] += _time_alone(engine, batches[name])
    return {name: _summarize(each) for name, each in seconds.items()}


def _time_alone(engine: Engine, repeats: int) -> list[float]:
    time.sleep(_PAUSE_S)
    return engine.time(repeats)


def _summarize(seconds: list[float]) -> Times:
    return Times(min(seconds) * 1e3, float(np.percentile(seconds, PERCENTILE)) * 1e3)


def count_busy_cores(engine: Engine) -> float:
    """How many threads of this process compute while an engine runs."""
    time.sleep(_PAUSE_S)
    wall_s, busy_s = time.perf_counter(), time.process_time()
    engine.time(_LARGEST_BATCH)
    return (time.process_time() - busy_s) / (time.perf_counter() - wall_s)


def deviation(found: Arrays, expected: Arrays) -> float:
    """The largest difference, relative to the largest value of its output; worst of all outputs.

    What is always allowed is no more of an output that is small all over than of a larger one.
    """
    smallest = FLOOR / TOLERANCE
    deviations = [
        np.abs(found[name] - array).max() / max(np.abs(array).max(), smallest)
        for name, array in expected.items()
    ]
    return float(np.max(deviations))  # which is NaN if any is


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios."""
    return float(np.exp(np.mean(np.log(values))))
