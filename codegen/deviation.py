"""How far an output is from what it should be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def largest_difference(found: Array, expected: Array) -> tuple[float, float]:
    """The largest difference between two arrays of numbers, and the largest number expected.

    Args:
        found: Floating-point.
        expected: Likewise, of the same shape.

    Returns:
        Both of the finite numbers only. The difference is infinite where an infinity or a NaN is on
        one side and not on the other.
    """
    finite = np.isfinite(expected)
    wanted, got = (np.asarray(each[finite], np.float64) for each in (expected, found))
    scale = float(np.max(np.abs(wanted), initial=0.0))
    if not np.isfinite(got).all() or not np.array_equal(
        found[~finite], expected[~finite], equal_nan=True
    ):
        return np.inf, scale
    return float(np.max(np.abs(got - wanted), initial=0.0)), scale
