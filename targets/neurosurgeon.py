"""Neurosurgeon's predictor: one regression for each type of layer; the baseline to beat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partc.targets.features import Workload

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class _Line:
    """A regression of time on some quantities, or on their logarithms."""

    logarithmic: bool
    weights: tuple[float, ...]
    least_ms: float

    def latency_ms(self, quantities: Sequence[float]) -> float:
        row = _row(quantities, self.logarithmic)
        return max(self.least_ms, float(np.dot(row, self.weights)))


class Neurosurgeon:
    """A logarithmic or linear regression for each type of layer, whichever fits its samples better.

    From Kang et al., "Neurosurgeon: Collaborative Intelligence Between the Cloud and Mobile Edge"
    (ASPLOS 2017), with the quantities that they name. Times are never below the least of a type
    that was measured: a line has no such bound, and would fall below zero.

    Args:
        workloads: What was measured.
        latencies_ms: How long each took.
    """

    def __init__(self, workloads: Sequence[Workload], latencies_ms: Sequence[float]) -> None:
        by_type: dict[str, tuple[list[Sequence[float]], list[float]]] = {}
        for workload, latency_ms in zip(workloads, latencies_ms, strict=True):
            rows, times = by_type.setdefault(_type_of(workload), ([], []))
            rows.append(_quantities(workload))
            times.append(latency_ms)
        self._lines = {name: _fit(rows, times) for name, (rows, times) in by_type.items()}

    def latency_ms(self, workload: Workload) -> float | None:
        """What a layer takes; None if no layer of its type was measured."""
        line = self._lines.get(_type_of(workload))
        return None if line is None else line.latency_ms(_quantities(workload))


_TYPES: Mapping[str, str] = {
    "pointwise convolution": "convolution",
    "3x3 convolution": "convolution",
    "convolution": "convolution",
    "grouped convolution": "convolution",
    "depthwise convolution": "convolution",
    "transposed convolution": "convolution",
    "matrix product": "fully connected",
    "vector product": "fully connected",
    "batched matrix product": "fully connected",
    "pooling": "pooling",
    "global pooling": "pooling",
    "reduction": "fully connected",
}


def _type_of(workload: Workload) -> str:
    return _TYPES.get(workload.family, workload.family)


def _quantities(workload: Workload) -> Sequence[float]:
    """What the time of a layer of this type is regressed on."""

    def count(name: str) -> float:
        return math.exp(workload.features.get(name, 0.0))

    kind = _type_of(workload)
    if kind == "convolution":
        filters = count("kernel") / count("stride") * count("channels out")
        return count("channels in") * count("groups"), filters
    if kind in ("fully connected", "pooling"):
        return count("read"), count("written")
    return (count("written"),)


def _row(quantities: Sequence[float], logarithmic: bool) -> Sequence[float]:
    return [*(map(math.log, quantities) if logarithmic else quantities), 1.0]


def _fit(rows: Sequence[Sequence[float]], times_ms: Sequence[float]) -> _Line:
    measured = np.array(times_ms)
    found: list[tuple[float, _Line]] = []
    for logarithmic in (True, False):
        matrix = np.array([_row(row, logarithmic) for row in rows])
        weights = np.linalg.lstsq(matrix, measured, rcond=None)[0]
        error = float(np.sum((matrix @ weights - measured) ** 2))
        line = _Line(logarithmic, tuple(map(float, weights)), float(measured.min()))
        found.append((error, line))
    return min(found, key=lambda pair: pair[0])[1]
