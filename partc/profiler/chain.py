# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# TVM ships no types.
"""What all chains of layers of a random network have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.relax import op

from partc.passes.expressions import constant, shape_of
from partc.profiler.layers import Layers

_STEPS = 9

SQUARE = 300_000_000
"""Multiply-adds of a dense layer that is as wide as what it reads; attention has three in one."""

Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Scale:
    """How large the layers of a network may be.

    Args:
        plane: Height or width of an image.
        channels: Of an image, or the width of a vector.
        products: Multiply-adds of one layer.
        elements: Of one tensor.
        weights: Elements of one layer's weights.
    """

    plane: int
    channels: int
    products: int
    elements: int
    weights: int

    @staticmethod
    def draw(random: np.random.Generator) -> Scale:
        size = int(random.choice(3, p=(0.2, 0.4, 0.4)))
        return Scale(
            plane=(64, 160, 320)[size],
            channels=(128, 512, 1024)[size],
            products=(4_000_000, 100_000_000, 250_000_000)[size],
            elements=(20_000, 600_000, 3_000_000)[size],
            weights=(20_000, 1_500_000, 24_000_000)[size],
        )

    def image(self, random: np.random.Generator) -> tuple[int, ...]:
        height = usual(random, between(random, 12, self.plane), _PLANES)
        width = usual(random, between(random, 12, 2 * self.plane), _PLANES)
        width = height if random.random() < 0.6 else width
        return (1, int(random.choice([3, 3, 3, 1, 4])), height, width)

    def sequence(self, random: np.random.Generator) -> tuple[int, ...]:
        width = usual(random, 16 * between(random, 2, self.channels // 16), _WIDTHS)
        most = max(8, min(400, self.elements // width, SQUARE // width**2))
        length = between(random, max(4, most // 20), most)
        return (1, usual(random, length, [each for each in _LENGTHS if each <= most]), width)


_PLANES = (12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_WIDTHS = (32, 64, 128, 192, 256, 320, 384, 512, 768, 1024)
_LENGTHS = (8, 16, 32, 49, 64, 77, 128, 196, 197, 256, 384)


def usual(random: np.random.Generator, value: int, sizes: Sequence[int]) -> int:
    """Mostly the size of many networks that is nearest: theirs fill registers and tiles better."""
    if not sizes or random.random() > 0.7:
        return value
    return min(sizes, key=lambda size: abs(math.log(size / value)))


def between(random: np.random.Generator, low: int, high: int) -> int:
    """A whole number, as often in every octave."""
    return round(math.exp(random.uniform(math.log(low), math.log(high))))


class Chain:
    """Layers one after the other, each on what the last one made."""

    def __init__(self, random: np.random.Generator, net: Layers, scale: Scale) -> None:
        self._random = random
        self._net = net
        self._scale = scale
        self._kept: list[Any] = []

    def grow(self, x: Any) -> list[Any]:
        """Add layers; return what has to be an output of the network."""
        x = self._begin(x)
        for _ in range(_STEPS):
            steps = self._steps()
            chances = np.array([chance for _, chance in steps])
            chosen = self._random.choice(len(steps), p=chances / chances.sum())
            made = steps[chosen][0](x)
            if math.prod(shape_of(made)) <= self._scale.elements:
                x = made
        return [*self._kept, x]

    @staticmethod
    def shape(random: np.random.Generator, scale: Scale) -> tuple[int, ...]:
        """Of an input."""
        raise NotImplementedError

    def _begin(self, x: Any) -> Any:
        raise NotImplementedError

    def _steps(self) -> Sequence[tuple[Step, float]]:
        """What may come next, and how likely."""
        raise NotImplementedError

    def _dense_within(self, x: Any, units: int) -> Any:
        """A dense layer whose products, weights and outputs are within bounds."""
        *rows, depth = shape_of(x)
        count = math.prod(rows)
        scale = self._scale
        most = min(
            scale.products // (count * depth), scale.weights // depth, scale.elements // count
        )
        return self._net.dense(x, max(2, min(units, most)))

    def _choose(self, options: Sequence[Any]) -> Any:
        return options[int(self._random.integers(len(options)))]

    def _chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def _tail(self, x: Any, axis: int) -> Any:
        """What is element-wise and mostly follows a product."""
        if self._chance(0.9):
            x = self._net.bias(x, axis)
        return self._activate(x) if self._chance(0.7) else x

    def _activate(self, x: Any) -> Any:
        emit = self._net.emit
        others = ["clip", "sigmoid", "silu", "gelu", "tanh", "hard", "hard"]
        kind = self._choose(["relu"] * 5 + others)
        if kind == "hard":
            shifted = emit(op.add(x, constant(np.array(3, np.float32))))
            shares = emit(op.divide(emit(op.clip(shifted, 0, 6)), constant(np.float32(6))))
            return emit(op.multiply(x, shares))
        if kind == "clip":
            return emit(op.clip(x, 0, 6))
        functions = {"relu": op.nn.relu, "sigmoid": op.sigmoid, "silu": op.nn.silu}
        functions |= {"gelu": op.nn.gelu, "tanh": op.tanh}
        return emit(functions[kind](x))

    def _alone(self, x: Any) -> Any:
        """An element-wise layer of its own: what it reads is also an output."""
        self._kept.append(x)
        made = self._activate(x)
        return self._net.emit(op.add(made, x)) if self._chance(0.5) else made

    def _softmax(self, x: Any) -> Any:
        return self._net.emit(op.nn.softmax(x, -1))

    def _keep(self, made: Any) -> None:
        """Let what was made be an output, and go on with what there was before."""
        if math.prod(shape_of(made)) <= self._scale.elements:
            self._kept.append(made)
