"""Numbers with units, as people write and read them."""

from __future__ import annotations

import re

from partc.errors import PartcError

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_PREFIXES = {**_DECIMAL, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_NBYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(|[kKMG]|[KMG]i)B\s*")


def parse_nbytes(option: str, text: str) -> int:
    """A size such as ``150kB``, ``2 MB`` or ``1.5GiB``.

    Args:
        option: What the size was given for, to name it in an error.
        text: A number and a unit; ``kB`` and ``KB`` are 1000 bytes, ``KiB`` is 1024.

    Raises:
        PartcError: The text is no size.
    """
    found = _NBYTES.fullmatch(text)
    if not found:
        raise PartcError(f"{option} is a size such as 150kB, 2MB or 1.5GiB, not {text!r}")
    number, prefix = found.groups()
    return round(float(number) * _PREFIXES[prefix])


def parse_interval(option: str, text: str) -> tuple[float, float]:
    """A number, or a range such as ``0.5..50``.

    Raises:
        PartcError: The text is neither.
    """
    low, dots, high = text.partition("..")
    try:
        return float(low), float(high if dots else low)
    except ValueError as error:
        raise PartcError(
            f"{option} is a number or a range such as 0.5..50, not {text!r}"
        ) from error


def format_nbytes(nbytes: int) -> str:
    """A size in decimal units: ``602.1 kB``."""
    return f"{nbytes} B" if nbytes < 1000 else _scaled(nbytes / 1e3, ("kB", "MB", "GB", "TB"))


def format_ms(ms: float) -> str:
    """A time given in ms: ``12.3 us``, ``45.6 ms``, ``7.8 s``."""
    return _scaled(ms * 1e3, ("us", "ms", "s")) if ms else "0 ms"


def format_mj(mj: float) -> str:
    """An energy given in mJ: ``12.3 uJ``, ``45.6 mJ``, ``7.8 J``."""
    return _scaled(mj * 1e3, ("uJ", "mJ", "J")) if mj else "0 mJ"


def format_error(error: float) -> str:
    """A standard deviation given as a share: ``±12 %``, ``±<1 %``; nothing if it is zero."""
    if not error:
        return ""
    return f"±{round(100 * error) or '<1'} %"


def format_count(count: int) -> str:
    """A number of things: ``725``, ``1.4 k``, ``349.2 M``, ``2.1 G``."""
    return f"{count}" if count < 1000 else _scaled(count / 1e3, ("k", "M", "G", "T"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """The value in the first of the units, each 1000 of the one before, that keeps it short."""
    *smaller, largest = units
    for unit in smaller:
        # Compare what will be printed: 999.96 kB is 1.0 MB, never 1000.0 kB.
        if round(value, 1) < 1000:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {largest}"
