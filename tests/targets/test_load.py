from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from partc.errors import TargetError
from partc.targets.load import LoadCurve, fit_load_curve, processor_sharing
from partc.targets.target import load_target, write_target

MEASURED = LoadCurve((0, 0.5, 1, 2), (1, 1, 1.5, 2.5))
BUSY = st.floats(0, 100)


@st.composite
def curves(draw: st.DrawFn) -> LoadCurve:
    """Curves of two points or more, level stretches among them."""
    steps = draw(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 10)), min_size=1, max_size=6))
    busy, slowdown = [0.0], [1.0]
    for right, up in steps:
        busy.append(busy[-1] + right)
        slowdown.append(slowdown[-1] + up)
    return LoadCurve(tuple(busy), tuple(slowdown))


class TestCurve:
    @pytest.mark.parametrize(
        ("busy", "slowdown"),
        [(0, 1), (0.25, 1), (0.5, 1), (0.75, 1.25), (1, 1.5), (1.5, 2), (2, 2.5), (4, 4.5)],
    )
    def test_points_are_joined_by_lines_and_the_last_one_goes_on(
        self, busy: float, slowdown: float
    ) -> None:
        assert MEASURED.at(busy) == pytest.approx(slowdown)

    @given(curves())
    def test_nothing_slows_down_a_machine_that_has_nothing_else_to_do(
        self, curve: LoadCurve
    ) -> None:
        assert curve.at(0) == 1

    @given(curves(), BUSY, BUSY)
    def test_a_busier_machine_is_never_faster(
        self, curve: LoadCurve, one: float, other: float
    ) -> None:
        least, most = sorted((one, other))
        assert curve.at(least) <= curve.at(most) * (1 + 1e-12)

    @given(curves(), BUSY)
    def test_it_has_no_jumps(self, curve: LoadCurve, busy: float) -> None:
        steepest = 10 / 0.1
        for near in (busy, *curve.busy):
            assert abs(curve.at(near + 1e-6) - curve.at(near)) <= 1e-6 * steepest * 1.01

    @given(curves())
    def test_it_passes_through_its_points(self, curve: LoadCurve) -> None:
        for busy, slowdown in zip(curve.busy, curve.slowdown, strict=True):
            assert curve.at(busy) == pytest.approx(slowdown)

    @pytest.mark.parametrize(
        ("busy", "slowdown"),
        [
            ((), ()),
            ((0,), (1,)),
            ((0, 1), (1,)),
            ((0.5, 1), (1, 2)),
            ((0, 1), (1.1, 2)),
            ((0, 1, 1), (1, 2, 3)),
            ((0, 2, 1), (1, 2, 3)),
            ((0, 1, 2), (1, 2, 1.9)),
            ((0, math.inf), (1, 2)),
            ((0, 1), (1, math.nan)),
        ],
    )
    def test_what_is_no_curve_is_refused(
        self, busy: tuple[float, ...], slowdown: tuple[float, ...]
    ) -> None:
        message = f"not busy {list(busy)} and slowdown {list(slowdown)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            LoadCurve(busy, slowdown)


class TestProcessorSharing:
    @given(st.integers(1, 64), st.integers(1, 64), BUSY)
    def test_requests_share_the_cores(self, threads: int, cores: int, busy: float) -> None:
        shared = max(1.0, (1 + busy) * min(1.0, threads / cores))
        assert processor_sharing(threads, cores).at(busy) == pytest.approx(shared)


class TestFit:
    def test_what_rises_stays(self) -> None:
        assert fit_load_curve([1, 2], [1.5, 2.5]) == LoadCurve((0, 1, 2), (1, 1.5, 2.5))

    def test_what_falls_becomes_level(self) -> None:
        assert fit_load_curve([1, 2, 3], [1.6, 1.4, 2]).slowdown == pytest.approx((1, 1.5, 1.5, 2))

    def test_no_load_makes_a_machine_faster(self) -> None:
        assert fit_load_curve([0.5, 1], [0.98, 1.5]).slowdown == (1, 1, 1.5)

    @given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
    def test_whatever_was_measured_makes_a_curve(self, slowdown: list[float]) -> None:
        busy = [0.5 + position for position in range(len(slowdown))]
        assert fit_load_curve(busy, slowdown).at(0) == 1


class TestTarget:
    def test_a_curve_is_written_and_read(self, tmp_path: Path) -> None:
        path = tmp_path / "x.toml"
        write_target(replace(load_target("native"), load=MEASURED), path)
        assert "\n[load]\n" in path.read_text()
        assert load_target(str(path)).load_curve == MEASURED

    def test_a_wrong_curve_in_a_file_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.toml"
        write_target(load_target("native"), path)
        path.write_text(path.read_text() + "\n[load]\nbusy = [1, 2]\nslowdown = [1, 2]\n")
        message = r"x\.toml' does not describe a target: a load curve needs .* - at `\$\.load`$"
        with pytest.raises(TargetError, match=message):
            load_target(str(path))

    @pytest.mark.parametrize(
        ("tvm", "threads", "slowdown"),
        [
            ({"num-cores": 4}, 2, 1.5),
            ({"num-cores": 4}, 1, 1),
            ({}, 2, 3),
            ({"num-cores": 1}, 2, 3),
        ],
    )
    def test_a_machine_that_was_not_measured_shares_its_cores(
        self, tvm: dict[str, str | int], threads: int, slowdown: float
    ) -> None:
        target = replace(load_target("native"), tvm={"kind": "llvm", **tvm}, threads=threads)
        assert target.load_curve.at(2) == pytest.approx(slowdown)
