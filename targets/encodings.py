"""How long it takes to encode and to decode a tensor: a linear model of each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from partc.graph import IMAGE, PLAIN
from partc.targets.target import Target


@dataclass(frozen=True)
class StepTime:
    """What one step takes: once, for each 10^6 bytes that it reads, and for each that it writes.

    Where compression finds nothing it gives up soon, and where everything is alike it is done soon.
    What takes time is to change between the two, so there is a fourth term: of the smaller of both
    sides as much as the step changes the size, ``smaller * (1 - smaller / larger)``.
    """

    fixed_ms: float
    ms_per_mb_read: float
    ms_per_mb_written: float
    ms_per_mb_mixed: float = 0.0

    def predict_ms(self, read_nbytes: float, written_nbytes: float) -> float:
        """Milliseconds of a step that makes so many bytes out of so many."""
        read, written, mixed = step_terms(read_nbytes, written_nbytes)
        return (
            self.fixed_ms
            + self.ms_per_mb_read * read
            + self.ms_per_mb_written * written
            + self.ms_per_mb_mixed * mixed
        )


def step_terms(read_nbytes: float, written_nbytes: float) -> tuple[float, float, float]:
    """What a step's times are multiplied with, in 10^6 bytes: read, written and mixed."""
    smaller, larger = sorted((read_nbytes, written_nbytes))
    mixed = smaller * (1 - smaller / larger) if larger else 0.0
    return read_nbytes / 1e6, written_nbytes / 1e6, mixed / 1e6


# Measured on one core of an AMD EPYC (Zen 5) at about 4.1 GHz and fitted, by
# tests/benchmarks/encoding_times.py; NumPy 2.4, lz4 4.4, zstandard 0.25 at level 1, Pillow 13.
ENCODING: Mapping[str, StepTime] = {
    "float16": StepTime(0.00219, 0.544, 0.0),
    "uint8": StepTime(0.0282, 0.0, 0.562),
    "lz4": StepTime(0.00333, 0.0, 0.04, 3.54),
    "zstd": StepTime(0.0149, 0.0, 0.369, 6.43),
}
DECODING: Mapping[str, StepTime] = {
    "float16": StepTime(0.00181, 0.0, 0.402),
    "uint8": StepTime(0.0121, 0.297, 0.0),
    "lz4": StepTime(0.00648, 0.0, 0.0321, 0.606),
    "zstd": StepTime(0.0165, 0.365, 0.045, 1.91),
    IMAGE: StepTime(0.0389, 11.2, 0.195),
}

_ITEM_NBYTES: Mapping[str, int] = {"float16": 2, "uint8": 1}
_FREE = (PLAIN, "")
"""Steps that do nothing: no other number format, and no compression."""

_Step = tuple[str, float, float]
"""Its name, the bytes that it reads and those that it writes."""


def encode_ms(
    encoding: str, plain_nbytes: int, sent_nbytes: int, target: Target, item_nbytes: int = 4
) -> float:
    """Time to encode a tensor on one core; none for an image, whose file is sent as it is.

    Args:
        encoding: A number format, or one and a compression: ``uint8+zstd``; or ``image``.
        plain_nbytes: Size of the tensor.
        sent_nbytes: Size of what is sent for it.
        target: The machine that encodes.
        item_nbytes: Size of an element of the tensor.
    """
    if encoding == IMAGE:
        return 0.0
    number_format, _, compression = encoding.partition("+")
    between = _formatted_nbytes(number_format, plain_nbytes, item_nbytes)
    steps = [(number_format, plain_nbytes, between), (compression, between, sent_nbytes)]
    return _total_ms(ENCODING, steps) * target.codec_slowdown


def decode_ms(
    encoding: str, plain_nbytes: int, sent_nbytes: int, target: Target, item_nbytes: int = 4
) -> float:
    """Time to decode a tensor or an image on one core; arguments as for :func:`encode_ms`."""
    number_format, _, compression = encoding.partition("+")
    between = _formatted_nbytes(number_format, plain_nbytes, item_nbytes)
    steps = [(compression, sent_nbytes, between), (number_format, between, plain_nbytes)]
    if encoding == IMAGE:
        steps = [(IMAGE, sent_nbytes, plain_nbytes)]
    return _total_ms(DECODING, steps) * target.codec_slowdown


def _formatted_nbytes(number_format: str, plain_nbytes: int, item_nbytes: int) -> float:
    """Size in a number format, without the ranges of channels."""
    return plain_nbytes / item_nbytes * _ITEM_NBYTES.get(number_format, item_nbytes)


def _total_ms(times: Mapping[str, StepTime], steps: Iterable[_Step]) -> float:
    return sum(
        times[name].predict_ms(read, written) for name, read, written in steps if name not in _FREE
    )
