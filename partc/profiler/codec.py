# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# SciPy ships no types.
"""Measure what encoding and decoding tensors takes on one core of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from partc.runtime.encodings import decode, encode, encoded_nbytes
from partc.runtime.spec import TensorSpec
from partc.targets.encodings import decode_ms, encode_ms
from partc.targets.target import Target

Array = NDArray[np.generic]

ARRAYS = ((64, 28, 0.0), (64, 28, 0.6), (64, 56, 0.6), (32, 112, 0.9))
"""Channels, pixels on each side and share of zeros of the activations that are encoded."""

_PASSES = 3
"""What disturbs a machine lasts for a second or for some: so all encodings take several turns."""

_FEWEST_RUNS = 3
_TURN_S = 0.01


@dataclass(frozen=True)
class Trial:
    """An encoding of an array.

    Args:
        encoding: Its name.
        plain_nbytes: Size of the array.
        item_nbytes: Size of an element of the array.
        sent_nbytes: Size of what is sent for it.
        encode_ms: What encoding took.
        decode_ms: What decoding took.
    """

    encoding: str
    plain_nbytes: int
    item_nbytes: int
    sent_nbytes: int
    encode_ms: float
    decode_ms: float

    def predict_ms(self, target: Target) -> tuple[float, float]:
        """What encoding and decoding are predicted to take on a target."""
        sizes = (self.plain_nbytes, self.sent_nbytes)
        return (
            encode_ms(self.encoding, *sizes, target, self.item_nbytes),
            decode_ms(self.encoding, *sizes, target, self.item_nbytes),
        )


def measure_codec_slowdown(target: Target) -> float:
    """How many times longer steps of encoding take here than on the machine of the model.

    Args:
        target: Whose figure to measure; its own is not looked at.

    Returns:
        The geometric mean over encodings and arrays, each in its fastest pass.
    """
    unscaled = replace(target, codec_slowdown=1.0)
    arrays = [draw_activations(*each, seed) for seed, each in enumerate(ARRAYS)]
    ratios = [_ratios(arrays, unscaled) for _ in range(_PASSES)]
    return float(np.exp(np.log(np.min(ratios, axis=0)).mean()))


def _ratios(arrays: Sequence[Array], target: Target) -> list[float]:
    """What each step took, relative to what was predicted."""
    pairs = [
        pair
        for trial in time_steps(arrays)
        for pair in zip((trial.encode_ms, trial.decode_ms), trial.predict_ms(target), strict=True)
    ]
    return [found / expected for found, expected in pairs]


def draw_activations(channels: int, side: int, zeros: float, seed: int) -> Array:
    """What a layer with a ReLU may make, the same every time.

    Args:
        channels: How many planes.
        side: Height and width of a plane, in pixels.
        zeros: Which share of the elements is zero.
        seed: Of the generator.

    Returns:
        float32 [1, channels, side, side], in which neighbours are alike.
    """
    random = np.random.default_rng(seed).standard_normal((1, channels, side, side), "float32")
    smooth = np.asarray(uniform_filter(random, (0, 0, 3, 3)))
    return np.maximum(smooth - np.quantile(smooth, zeros), 0) if zeros else smooth


def time_steps(arrays: Sequence[Array]) -> Iterator[Trial]:
    """Time each number format of each array, and each compression of it in each format."""
    for array in arrays:
        formats = {name: encode(name, array) for name in ("float16", "uint8")}
        for name in formats:
            yield time_encoding(name, array)
        for parts in ((array,), *formats.values()):
            for compression in ("lz4", "zstd"):
                yield time_encoding(f"plain+{compression}", parts[0])


def time_encoding(encoding: str, array: Array) -> Trial:
    """Time an encoding of an array, there and back: the least of several runs."""
    parts = encode(encoding, array)
    spec = TensorSpec("x", str(array.dtype), array.shape)
    return Trial(
        encoding,
        array.nbytes,
        array.itemsize,
        encoded_nbytes(parts),
        least_ms(lambda: encode(encoding, array)),
        least_ms(lambda: decode(encoding, spec, parts)),
    )


def least_ms(call: Callable[[], object]) -> float:
    """Milliseconds of the fastest of several calls."""
    started, least = time.perf_counter(), math.inf
    runs = 0
    while runs < _FEWEST_RUNS or time.perf_counter() - started < _TURN_S:
        before = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - before)
        runs += 1
    return least * 1e3
