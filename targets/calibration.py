"""Fit an analytic target to measurements of a few layers."""
# SciPy declares its types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.optimize import least_squares

from partc.targets.features import Workload, count_work
from partc.targets.predictor import Roofline
from partc.targets.target import Target

FIGURES = ("achieved_fraction", "memory_bandwidth_gb_s", "launch_overhead_us")
"""What is fitted."""

_LOW, _HIGH = np.log([[0.01, 0.1, 0.01], [1.0, 10_000.0, 1000.0]])


def calibrate(
    target: Target, workloads: Sequence[Workload], latencies_ms: Sequence[float]
) -> Target:
    """The target with the share of its peak, the bandwidth and the launch overhead that fit best.

    Least squares of the logarithms, so that small layers count as much as large ones; differences
    above a factor of 1.5 count less, as they are of layers that no roofline describes.

    Args:
        target: The figures to begin with.
        workloads: What was measured, a dozen layers or more.
        latencies_ms: How long each took.
    """
    work = [count_work(workload) for workload in workloads]
    measured = np.log(np.maximum(latencies_ms, 1e-6))

    def deviations(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        roofline = Roofline(_with_figures(target, logarithms))
        return np.log([roofline.latency_ms(*each) for each in work]) - measured

    start = np.log([max(getattr(target, name), 0.01) for name in FIGURES])
    found = least_squares(
        deviations,
        np.clip(start, _LOW, _HIGH),
        bounds=(_LOW, _HIGH),
        loss="soft_l1",
        f_scale=np.log(1.5),
    )
    return _with_figures(target, found.x)


def _with_figures(target: Target, logarithms: NDArray[np.float64]) -> Target:
    figures = map(float, np.exp(logarithms))
    return replace(target, **dict(zip(FIGURES, figures, strict=True)))
