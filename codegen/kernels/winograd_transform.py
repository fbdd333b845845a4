"""The linear maps of Winograd's convolution F(m x m, 3 x 3), m outputs from m + 2 inputs a side.

An output tile is A'((G g G') * (B' d B))A. The maps come from evaluating polynomials at 0, at
pairs of points +p and -p, and at infinity (Toom and Cook). A pair shares its even and odd half,
which is how all maps here are written: with about half the operations of a matrix product.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (CVPR 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

KERNEL = 3

# The squares of the points of evaluation. For 4 x 4 the points are sqrt(1/2) and sqrt(2) in place
# of the customary 1 and 2: the numbers in between stay smaller and the error falls to a sixth.
_SQUARES: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.5, 2.0)}

TILES = tuple(sorted(_SQUARES, reverse=True))
"""The sizes of output tiles there are maps for, largest first."""


def transform_weight(weight: NDArray[Any], tile: int) -> NDArray[np.float64]:
    """G g G' of every kernel: (..., 3, 3) to (..., tile + 2, tile + 2), in double precision."""
    matrix = _weight_matrix(tile)
    return matrix @ weight.astype(np.float64) @ matrix.T


def transform_input(tile: int, values: Sequence[Any]) -> list[Any]:
    """B' times a vector of tile + 2 expressions or arrays."""
    even, odd = values[0::2], values[1::2]
    whole = _product(_SQUARES[tile])
    result = [_dot(whole, even)]
    for index, square in enumerate(_SQUARES[tile]):
        rest = _product(_SQUARES[tile][:index] + _SQUARES[tile][index + 1 :])
        head = _dot(rest, even[1:])
        half = _dot([math.sqrt(square) * coefficient for coefficient in rest], odd[:-1])
        result += [head + half, head - half]
    return [*result, _dot(whole, odd)]


def transform_output(tile: int, values: Sequence[Any]) -> list[Any]:
    """A' times a vector of tile + 2 expressions or arrays."""
    plus, minus = values[1:-1:2], values[2:-1:2]
    result: list[Any] = []
    for power in range(tile):
        halves = [p - m if power % 2 else p + m for p, m in zip(plus, minus, strict=True)]
        result.append(_dot([_root_power(square, power) for square in _SQUARES[tile]], halves))
    result[0] = result[0] + values[0]
    result[-1] = result[-1] + values[-1]
    return result


def _weight_matrix(tile: int) -> NDArray[np.float64]:
    points = [0.0]
    for square in _SQUARES[tile]:
        points += [math.sqrt(square), -math.sqrt(square)]
    rows = [
        np.power(point, range(KERNEL))
        / math.prod(point - other for other in points if other != point)
        for point in points
    ]
    return np.array([*rows, np.eye(KERNEL)[-1]])


def _product(squares: Sequence[float]) -> list[float]:
    """The coefficients of the product of (x - square), of 1 first."""
    product = np.ones(1)
    for square in squares:
        product = polynomial.polymul(product, (-square, 1.0))
    return [float(coefficient) for coefficient in product]


def _root_power(square: float, power: int) -> float:
    """The square root to a power, exact where the power is even."""
    return square ** (power // 2) * math.sqrt(square) ** (power % 2)


def _dot(coefficients: Sequence[float], values: Sequence[Any]) -> Any:
    terms = [
        value if coefficient == 1.0 else value * coefficient
        for coefficient, value in zip(coefficients, values, strict=True)
    ]
    return sum(terms[1:], start=terms[0])
