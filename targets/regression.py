"""Regression on what was measured: an analytic model for each family, and what it leaves."""
# SciPy and scikit-learn declare their types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from partc.targets.features import BY_FAMILY, COMMON, NEARNESS, Workload
from partc.targets.predictor import Prediction

Matrix = NDArray[np.float64]

FEWEST = 8
"""Samples that a family needs to be predicted from them."""

_MOST = 300
"""Samples that scales are searched on; a step of the search takes the cube of their number."""

_MARGIN = math.log(1.25)
"""How far outside of what was measured an extent may lie."""


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a search has found for one family of layers.

    Args:
        names: The extents that the scales are for.
        rates: Logarithms of milliseconds for each operation, for each byte that is written, or
            read from so near or far, and for a call.
        scales: Logarithms of the Gaussian process's variance, length scales and noise.
    """

    names: tuple[str, ...]
    rates: tuple[float, ...]
    scales: tuple[float, ...]


class Regression:
    """A regression for each family of layers.

    The time of a layer is a sum of what its operations, the bytes it reads and makes, and the call
    take, times a factor that a Gaussian process learns from the logarithms of extents: how
    efficiency falls for narrow tensors, or what caches hold. So few samples are enough, and it
    tells how sure it is: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (MIT
    Press, 2006), algorithm 2.1, with a Matern kernel that has a length scale for each extent.

    Args:
        workloads: What was measured.
        latencies_ms: How long each took, above zero.
        fits: What a search has found before, by family; searched for where there is none.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        latencies_ms: Sequence[float],
        fits: Mapping[str, Fit],
    ) -> None:
        members: dict[str, list[int]] = {}
        for position, workload in enumerate(workloads):
            members.setdefault(workload.family, []).append(position)
        self._families = {
            family: _Family(
                (*BY_FAMILY[family], *COMMON),
                [workloads[position] for position in positions],
                np.array([latencies_ms[position] for position in positions]),
                fits.get(family),
            )
            for family, positions in sorted(members.items())
            if len(positions) >= FEWEST and family in BY_FAMILY
        }

    @property
    def fits(self) -> dict[str, Fit]:
        """What the search has found, by family."""
        return {name: family.fit for name, family in self._families.items()}

    def predict(self, workloads: Sequence[Workload]) -> list[Prediction | None]:
        """Times of layers; None for one of a family that was hardly measured."""
        found: list[Prediction | None] = [None] * len(workloads)
        for name, family in self._families.items():
            positions = [n for n, workload in enumerate(workloads) if workload.family == name]
            if positions:
                predicted = family.predict([workloads[n] for n in positions])
                for position, prediction in zip(positions, predicted, strict=True):
                    found[position] = prediction
        return found


class _Family:
    """The regression of one family."""

    def __init__(
        self,
        names: Sequence[str],
        workloads: Sequence[Workload],
        latencies_ms: Matrix,
        fit: Fit | None,
    ) -> None:
        self._names = tuple(names)
        fit = fit if fit and fit.names == self._names else None
        extents = self._extents(workloads)
        self._low, self._high = extents.min(axis=0), extents.max(axis=0)
        self._mean, self._deviation = extents.mean(axis=0), np.maximum(extents.std(axis=0), 1e-3)
        measured, normal = np.log(latencies_ms), self._normal(extents)
        work = _work(workloads)
        rates = np.array(fit.rates) if fit else _search_rates(work, measured)
        left = measured - _analytic(rates, work)
        scales = np.array(fit.scales) if fit else _search_scales(normal, left)
        self.fit = Fit(self._names, tuple(map(float, rates)), tuple(map(float, scales)))
        self._process = GaussianProcessRegressor(
            _kernel(len(names)).clone_with_theta(scales), optimizer=None
        ).fit(normal, left)

    def predict(self, workloads: Sequence[Workload]) -> list[Prediction]:
        extents = self._extents(workloads)
        strange = (extents < self._low - _MARGIN) | (extents > self._high + _MARGIN)
        means, deviations = self._process.predict(self._normal(extents), return_std=True)
        logarithms = _analytic(np.array(self.fit.rates), _work(workloads)) + means
        return [
            Prediction(float(latency_ms), float(deviation), bool(outside))
            for latency_ms, deviation, outside in zip(
                np.exp(logarithms), deviations, strange.any(axis=1), strict=True
            )
        ]

    def _extents(self, workloads: Sequence[Workload]) -> Matrix:
        return np.array(
            [[workload.features.get(name, 0.0) for name in self._names] for workload in workloads]
        )

    def _normal(self, extents: Matrix) -> Matrix:
        """Of mean 0 and deviation 1 in what was measured."""
        return (extents - self._mean) / self._deviation


# The analytic part -------------------------------------------------------------------------------

_TYPICAL_MS = {
    "flops": 3e-8,
    "written": 5e-8,
    **{f"read, {name}": 2e-8 * 2**step for step, name in enumerate(NEARNESS)},
    **{f"weights, {name}": 2e-8 * 2**step for step, name in enumerate(NEARNESS)},
    **{f"call, {name}": 5e-4 * 2**step for step, name in enumerate(NEARNESS)},
}
"""Milliseconds for an operation, a byte or a call, of which rates are not far without reason."""

_TYPICAL = np.log(list(_TYPICAL_MS.values()))


def _work(workloads: Sequence[Workload]) -> Matrix:
    """How often each rate counts, of shape (workloads, rates)."""
    counts = [
        [workload.features.get(name, -math.inf) for name in _TYPICAL_MS] for workload in workloads
    ]
    return np.exp(counts)


def _analytic(rates: Matrix, work: Matrix) -> Matrix:
    return np.log(work @ np.exp(rates))


def _search_rates(work: Matrix, measured: Matrix) -> Matrix:
    """The rates whose sums are nearest; large deviations count less, as they have other causes."""

    def deviations(rates: Matrix) -> Matrix:
        return np.append(_analytic(rates, work) - measured, 0.1 * (rates - _TYPICAL))

    bounds = (_TYPICAL - 9, _TYPICAL + 9)
    found = [
        least_squares(deviations, _TYPICAL + shift, bounds=bounds, loss="soft_l1", f_scale=0.3)
        for shift in (-2, 0, 2)
    ]
    return min(found, key=lambda result: result.cost).x


# What it leaves ----------------------------------------------------------------------------------


def _kernel(extents: int) -> Any:
    return ConstantKernel(0.3, (1e-3, 1e2)) * Matern(
        np.full(extents, 3.0), (0.1, 1e3), nu=2.5
    ) + WhiteKernel(1e-2, (1e-4, 1.0))


def _search_scales(extents: Matrix, left: Matrix) -> Matrix:
    """The scales under which the samples are the likeliest."""
    chosen = np.random.default_rng(0).permutation(len(left))[:_MOST]
    with warnings.catch_warnings():  # a scale at its bound is an extent that does not matter
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = GaussianProcessRegressor(_kernel(extents.shape[1]), random_state=0).fit(
            extents[chosen], left[chosen]
        )
    return np.array(found.kernel_.theta)
