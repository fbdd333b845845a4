from __future__ import annotations

import pytest

from partc.quantities import format_count, format_error, format_mj, format_ms, format_nbytes


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (602_112, "602.1 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (548_000_000, "548.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_nbytes(nbytes: int, text: str) -> None:
    assert format_nbytes(nbytes) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (0.0123, "12.3 us"),
        (0.99999, "1.0 ms"),
        (45.6, "45.6 ms"),
        (1234.5, "1.2 s"),
        (5e6, "5000.0 s"),
    ],
)
def test_ms(ms: float, text: str) -> None:
    assert format_ms(ms) == text


@pytest.mark.parametrize(("mj", "text"), [(0, "0 mJ"), (0.5, "500.0 uJ"), (1500, "1.5 J")])
def test_mj(mj: float, text: str) -> None:
    assert format_mj(mj) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (725, "725"), (1400, "1.4 k"), (349_153_000, "349.2 M"), (2_100_000_000, "2.1 G")],
)
def test_count(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (0.0, ""),
        (1e-9, "±<1 %"),
        (0.005, "±<1 %"),
        (0.0051, "±1 %"),
        (0.126, "±13 %"),
        (2.5, "±250 %"),
    ],
)
def test_error(error: float, text: str) -> None:
    assert format_error(error) == text
