"""Regression on what was measured: an analytic model for each family, and what it leaves."""
# SciPy and scikit-learn declare their types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from partc.targets.families import BY_FAMILY
from partc.targets.features import Workload
from partc.targets.predictor import Prediction
from partc.targets.surroundings import AGES

Matrix = NDArray[np.float64]

COMMON = ("footprint", "reads blocks", "makes blocks")
"""What the efficiency of any layer may depend on, besides its family's extents."""

FEWEST = 8
"""Samples that a family needs to be predicted from them."""

_MOST = 300
"""Samples that scales are searched on; a step of the search takes the cube of their number."""

_PARTS = 5
"""Into which samples are divided, to leave out one after the other."""

_MARGIN = math.log(1.25)
"""How far outside of what was measured an extent may lie."""


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a search has found for one family of layers.

    Args:
        rates: Natural logarithms of milliseconds for one of what a layer's work is counted in.
        names: The extents that the scales are for.
        scales: Logarithms of the Gaussian process's variance, length scales and noise.
        share: Of what the process tells, so much holds for networks that it has not seen.
    """

    rates: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]]
    names: tuple[str, ...]
    scales: tuple[float, ...]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Regression:
    """A regression for each family of layers.

    The time of a layer is a sum of what its operations, the bytes that it reads and writes near and
    far, and the call take, times a factor that a Gaussian process learns from the logarithms of
    extents: how efficiency falls for narrow tensors, say. So few samples are enough, and it tells
    how sure it is: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (MIT Press,
    2006), algorithm 2.1, with a Matern kernel that has a length scale for each extent. What a byte
    takes is much the same for all families, so rates are searched for in all samples first; those
    of a family leave them only as far as its samples tell.

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
        fitted = {
            family: positions
            for family, positions in sorted(members.items())
            if len(positions) >= FEWEST and family in BY_FAMILY
        }
        work, measured = _count_work(workloads), np.log(latencies_ms)
        fits = {name: fit for name, fit in fits.items() if _is_current(name, fit)}
        shared = _TYPICAL
        if fitted.keys() - fits.keys():
            # A machine may be a hundred times slower than what is typical, in all alike.
            typical = _TYPICAL + np.median(measured - _analytic(_TYPICAL, work))
            shared = _search_rates(work, measured, typical, _TRUST_IN_TYPICAL)
        self._families = {
            family: _Family(
                _extent_names(family),
                [workloads[position] for position in positions],
                measured[positions],
                fits.get(family) or shared,
            )
            for family, positions in fitted.items()
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


def _extent_names(family: str) -> tuple[str, ...]:
    return (*BY_FAMILY[family], *COMMON)


def _is_current(family: str, fit: Fit) -> bool:
    """Whether a fit is of what times are predicted from today."""
    known = family in BY_FAMILY and fit.names == _extent_names(family)
    return known and tuple(fit.rates) == tuple(_TYPICAL_MS) and _can_have_been_found(fit)


def _can_have_been_found(fit: Fit) -> bool:
    """Whether a process can be made of the scales, which a search leaves within bounds."""
    within = all(abs(scale) < _BEYOND_BOUNDS for scale in fit.scales)
    return within and len(fit.scales) == len(fit.names) + 2


class _Family:
    """The regression of one family.

    Args:
        names: Extents that its efficiency depends on.
        workloads: What was measured.
        measured: Logarithms of milliseconds.
        known: What a search has found before, or the rates of all families to begin one with.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        workloads: Sequence[Workload],
        measured: Matrix,
        known: Fit | Matrix,
    ) -> None:
        self._names = names
        self._operators = {name for workload in workloads for name in workload.operators}
        extents, work = self._extents(workloads), _count_work(workloads)
        self._low, self._high = extents.min(axis=0), extents.max(axis=0)
        self._mean, self._deviation = extents.mean(axis=0), np.maximum(extents.std(axis=0), 1e-3)
        normal = self._normal(extents)
        self.fit = (
            known if isinstance(known, Fit) else _search(names, work, measured, normal, known)
        )
        self._rates = np.array(list(self.fit.rates.values()))
        self._samples = normal, measured - _analytic(self._rates, work)

    def predict(self, workloads: Sequence[Workload]) -> list[Prediction]:
        extents = self._extents(workloads)
        outside = (extents < self._low - _MARGIN) | (extents > self._high + _MARGIN)
        strange = [not self._operators.issuperset(workload.operators) for workload in workloads]
        means, deviations = self._process.predict(self._normal(extents), return_std=True)
        logarithms = _analytic(self._rates, _count_work(workloads)) + self.fit.share * means
        return [
            Prediction(float(latency_ms), float(deviation), bool(extrapolated))
            for latency_ms, deviation, extrapolated in zip(
                np.exp(logarithms), deviations, outside.any(axis=1) | strange, strict=True
            )
        ]

    @cached_property
    def _process(self) -> Any:
        """Made once it is needed, as most models have only some of the families."""
        return _make_process(self.fit.scales).fit(*self._samples)

    def _extents(self, workloads: Sequence[Workload]) -> Matrix:
        return np.array(
            [[workload.features.get(name, 0.0) for name in self._names] for workload in workloads]
        )

    def _normal(self, extents: Matrix) -> Matrix:
        """Of mean 0 and deviation 1 in what was measured."""
        return (extents - self._mean) / self._deviation


def _search(
    names: tuple[str, ...], work: Matrix, measured: Matrix, normal: Matrix, shared: Matrix
) -> Fit:
    rates = _search_rates(work, measured, shared, _TRUST_IN_SHARED)
    left = measured - _analytic(rates, work)
    scales = _search_scales(normal, left)
    by_name = dict(zip(_TYPICAL_MS, map(float, rates), strict=True))
    return Fit(by_name, names, scales, _search_share(normal, left, scales))


# The analytic part -------------------------------------------------------------------------------

_TYPICAL_MS = {
    "flops, 4 lanes": 1e-8,
    "flops, 8 lanes": 1e-8,
    "flops, 16 lanes": 1e-8,
    "read": 3e-9,
    "written": 3e-9,
    "tail": 3e-8,
    "costly": 1e-6,
    "transposed": 3e-7,
    "ordered": 3e-8,
    "orders": 1e-7,
    "blocked": 3e-8,
    "blocks": 1e-7,
    "returned": 3e-8,
    "returns": 1e-7,
    **{f"read, {name}": 1e-8 * 2**step for step, name in enumerate(AGES)},
    **{f"written, {name}": 1e-8 * 2**step for step, name in enumerate(AGES)},
    **{f"weights, {name}": 1e-8 * 2**step for step, name in enumerate(AGES)},
    **{f"call, {name}": 1e-7 * 2**step for step, name in enumerate(AGES)},
}
"""Milliseconds for an operation, a byte, an element or a part of a call, to begin a search with."""

_TYPICAL = np.log(list(_TYPICAL_MS.values()))

_TRUST_IN_TYPICAL, _TRUST_IN_SHARED = 0.1, 0.3
"""How much an e-fold change of a rate counts, beside a sample that is e-fold off."""

_LEAST_MS = 1e-6
"""So that a layer for which nothing is counted has a logarithm."""


def _count_work(workloads: Sequence[Workload]) -> Matrix:
    """How often each rate counts, of shape (workloads, rates)."""
    counts = [[workload.features.get(name, 0.0) for name in _TYPICAL_MS] for workload in workloads]
    return np.expm1(counts)


def _analytic(rates: Matrix, work: Matrix) -> Matrix:
    return np.log(work @ np.exp(rates) + _LEAST_MS)


def _search_rates(work: Matrix, measured: Matrix, expected: Matrix, trust: float) -> Matrix:
    """The rates whose sums are nearest; large deviations count less, as they have other causes.

    Args:
        work: How often each rate counts, of shape (workloads, rates).
        measured: Logarithms of milliseconds.
        expected: The rates to prefer.
        trust: How much they are preferred.
    """

    def deviations(rates: Matrix) -> Matrix:
        return np.append(_analytic(rates, work) - measured, trust * (rates - expected))

    def slopes(rates: Matrix) -> Matrix:
        parts_ms = work * np.exp(rates)
        shares = parts_ms / (parts_ms.sum(axis=1, keepdims=True) + _LEAST_MS)
        return np.vstack([shares, trust * np.eye(len(rates))])

    return least_squares(deviations, expected, slopes, loss="soft_l1", f_scale=0.2).x


# What it leaves ----------------------------------------------------------------------------------


_BEYOND_BOUNDS = 7.0
"""Logarithm of a scale that is outside of all bounds below."""


def _kernel(extents: int) -> Any:
    return ConstantKernel(0.3, (1e-3, 1e2)) * Matern(
        np.full(extents, 3.0), (2.0, 1e3), nu=2.5
    ) + WhiteKernel(1e-2, (4e-3, 1.0))


def _make_process(scales: Sequence[float]) -> Any:
    kernel = _kernel(len(scales) - 2).clone_with_theta(np.array(scales))
    return GaussianProcessRegressor(kernel, optimizer=None)


def _search_scales(extents: Matrix, left: Matrix) -> tuple[float, ...]:
    """The scales under which the samples are the likeliest."""
    chosen = np.random.default_rng(0).permutation(len(left))[:_MOST]
    with warnings.catch_warnings():  # a scale at its bound is an extent that does not matter
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = GaussianProcessRegressor(_kernel(extents.shape[1]), random_state=0).fit(
            extents[chosen], left[chosen]
        )
    return tuple(map(float, found.kernel_.theta))


def _search_share(extents: Matrix, left: Matrix, scales: Sequence[float]) -> float:
    """How much of the process's factor to take, by what it tells of samples left out.

    Samples are in the order of the networks that they are from, so those left out are of others:
    stacking, of Wolpert, "Stacked Generalization" (Neural Networks, 1992), with one weight.
    """
    told = np.zeros_like(left)
    for out in np.array_split(np.arange(len(left)), _PARTS):
        others = np.delete(np.arange(len(left)), out)
        told[out] = _make_process(scales).fit(extents[others], left[others]).predict(extents[out])
    weight = float(told @ np.clip(left, -1, 1) / max(float(told @ told), 1e-12))
    return min(max(weight, 0.0), 1.0)
