# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# SciPy ships no types.
"""Measure what a sum of layers leaves out: a request finds a machine that has waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from partc.profiler.drawn import DrawnNetwork
from partc.profiler.stopwatch import PASSES, RUNS, Board, LoadedNetwork

ENTRY_NETWORKS = (29, 11, 35, 28, 6, 15)
"""Drawn networks of which each computes two or three times as much as the one before."""

PAUSE_S = 0.05
"""Waiting for a server behind a radio takes as long."""

_RUNS = 5
_NOISE = 0.02
"""How far from the model, relative to a request, is still noise and not a disturbance."""


@dataclass(frozen=True)
class Entry:
    """What a request takes beside the times of its layers when they run back to back.

    Args:
        entry_ms: However little it computes: the call, and waking those who compute.
        cold_share: Relative to the layers: they find caches that others have used, or nobody.
    """

    entry_ms: float
    cold_share: float


def measure_entry(drawn: Sequence[DrawnNetwork], board: Board) -> Entry:
    """Run networks back to back and after pauses, and fit what the pauses cost.

    Args:
        drawn: Networks, some that take long and some that do not.
        board: Where to measure.
    """
    networks = [board.load(each.network, each.inputs) for each in drawn]
    passes = [[_time(network) for network in networks] for _ in range(PASSES)]
    layers_ms, whole_ms = np.min(passes, axis=0).T
    return fit_entry(layers_ms, whole_ms)


def fit_entry(layers_ms: NDArray[np.float64], whole_ms: NDArray[np.float64]) -> Entry:
    """Fit ``whole_ms = entry_ms + (1 + cold_share) * layers_ms``, neither being negative.

    Errors count relative to the whole, and large ones only as much as their size and not its
    square: a network that something disturbed while it was measured does not decide.

    Args:
        layers_ms: Sums over the layers of networks, run back to back, of shape (networks,).
        whole_ms: The same networks after a pause.
    """

    def errors(model: NDArray[np.float64]) -> NDArray[np.float64]:
        return (model[0] + (1 + model[1]) * layers_ms) / whole_ms - 1

    found = least_squares(
        errors, (0.1, 0.1), bounds=(0, np.inf), x_scale="jac", loss="soft_l1", f_scale=_NOISE
    )
    entry_ms, cold_share = (round(float(value), 4) for value in found.x)
    return Entry(entry_ms, cold_share)


def _time(network: LoadedNetwork) -> tuple[float, float]:
    """Milliseconds of the layers and of the whole, at the same time, as a machine drifts."""
    layers_ms = np.percentile(network.time_layers(RUNS), 20, axis=0).sum()
    return float(layers_ms), float(np.percentile(network.time_whole(_RUNS, PAUSE_S), 20))
