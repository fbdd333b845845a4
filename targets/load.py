"""Load: how much longer a request takes on a machine that computes others at the same time."""
# scikit-learn declares its types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import msgspec


class LoadCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many times longer a request takes, by how busy the machine is.

    Args:
        busy: How many other requests the machine computes at once, on average; rising from 0.
        slowdown: How many times longer a request takes then; from 1, never falling.

    Raises:
        ValueError: The two are no such curve.
    """

    busy: tuple[float, ...]
    slowdown: tuple[float, ...]

    def __post_init__(self) -> None:
        busy, slowdown = self.busy, self.slowdown
        if not (
            len(busy) == len(slowdown) >= 2
            and all(map(math.isfinite, busy + slowdown))
            and (busy[0], slowdown[0]) == (0, 1)
            and all(before < after for before, after in pairwise(busy))
            and all(before <= after for before, after in pairwise(slowdown))
        ):
            raise ValueError(
                "a load curve needs two points or more, with busy rising from 0 and slowdown "
                f"never falling from 1, not busy {list(busy)} and slowdown {list(slowdown)}"
            )

    def at(self, busy: float) -> float:
        """The slowdown: linear between the points, and beyond them as between the last two."""
        end = min(bisect_right(self.busy, busy), len(self.busy) - 1)
        (left, right), (low, high) = self.busy[end - 1 : end + 1], self.slowdown[end - 1 : end + 1]
        return low + (busy - left) / (right - left) * (high - low)


def processor_sharing(threads: int, cores: int) -> LoadCurve:
    """What to expect of a machine on which no load was measured.

    Requests take turns, so that all get the same share of the cores:
    ``max(1, (1 + busy) * threads / cores)``. This is the processor-sharing queue of Kleinrock,
    "Queueing Systems, Volume 2: Computer Applications" (Wiley 1976), chapter 4. Caches and memory,
    which requests share as well, are left out.

    Args:
        threads: Of each request.
        cores: Of the machine; where it has fewer than threads, a request alone has them all.
    """
    share = threads / max(threads, cores)
    full = 1 / share - 1
    points = {0.0: 1.0, full: 1.0, full + 1: 1 + share}
    return LoadCurve(tuple(points), tuple(points.values()))


def fit_load_curve(busy: Sequence[float], slowdown: Sequence[float]) -> LoadCurve:
    """The curve that is nearest to measurements in least squares.

    What falls, as noise may have it, becomes level: isotonic regression (Barlow et al.,
    "Statistical Inference under Order Restrictions", Wiley 1972).

    Args:
        busy: Above zero, rising.
        slowdown: As measured; nothing is said of an idle machine, which is not slowed down.
    """
    # What it needs takes a second to load.
    from sklearn.isotonic import isotonic_regression

    fitted = isotonic_regression(list(slowdown), y_min=1.0)
    return LoadCurve((0.0, *map(float, busy)), (1.0, *map(float, fitted)))
