from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from profiled import small_network

from partc.errors import PartcError
from partc.profiler import drawn as drawn_networks
from partc.profiler import load
from partc.profiler.drawn import DrawnNetwork, compile_drawn
from partc.profiler.load import choose_levels, competitors, extend, measure_load, measure_slowdowns
from partc.targets.load import LoadCurve, processor_sharing
from partc.targets.target import load_target

TARGET = load_target("native")
LEVELS = (0.5, 1.0, 2.0, 4.0)


class Machine:
    """Takes 20 ms for a request, longer when it computes others, and changes as it gets warm."""

    def __init__(self, slowdown: Callable[[float], float], drift: float = 0.0) -> None:
        self.busy: list[float] = []
        self.requests = 0
        self._slowdown = slowdown
        self._drift = drift

    def occupy(self, busy: float) -> None:
        self.busy.append(busy)

    def run(self) -> float:
        self.requests += 1
        return 20 * self._slowdown(self.busy[-1]) * (1 + self._drift * len(self.busy))


class TestSlowdowns:
    def test_are_those_of_the_machine(self) -> None:
        machine = Machine(lambda busy: 1 + busy)
        assert measure_slowdowns(machine.run, machine.occupy, LEVELS, 20) == pytest.approx(
            [1.5, 2, 3, 5]
        )

    def test_a_machine_that_becomes_slower_meanwhile_makes_no_difference(self) -> None:
        """It takes three halves of its time in the end."""
        machine = Machine(lambda busy: 1 + busy, drift=0.02)
        assert measure_slowdowns(machine.run, machine.occupy, LEVELS, 20) == pytest.approx(
            [1.5, 2, 3, 5], rel=1e-3
        )

    def test_a_disturbance_makes_no_difference(self) -> None:
        machine = Machine(lambda busy: 1 + busy)

        def run() -> float:
            return machine.run() * (10 if 5 <= len(machine.busy) <= 6 else 1)

        assert measure_slowdowns(run, machine.occupy, LEVELS, 20) == pytest.approx([1.5, 2, 3, 5])

    def test_a_request_that_meets_others_at_times_takes_longer_at_times(self) -> None:
        machine = Machine(lambda busy: 1 if machine.requests % 4 else 1 + busy)
        slowdowns = measure_slowdowns(machine.run, machine.occupy, (4.0,), 20)
        assert slowdowns == pytest.approx([2], rel=0.05)

    def test_the_machine_is_left_alone_between_levels_and_in_the_end(self) -> None:
        machine = Machine(lambda busy: 1 + busy)
        measure_slowdowns(machine.run, machine.occupy, LEVELS, 20)
        assert machine.busy[::2] == [0] * (len(machine.busy) // 2 + 1)
        assert set(machine.busy[1::2]) == set(LEVELS)

    @pytest.mark.parametrize("budget_s", [1, 20])
    def test_the_budget_is_kept(self, budget_s: float) -> None:
        machine, spent_ms = Machine(lambda busy: 1 + busy), 0.0

        def run() -> float:
            nonlocal spent_ms
            took_ms = machine.run()
            spent_ms += took_ms
            return took_ms

        measure_slowdowns(run, machine.occupy, LEVELS, budget_s)
        slices = len(machine.busy)
        assert 1e3 * budget_s <= spent_ms <= 1e3 * budget_s + slices * 20 * 5


class TestLevels:
    @pytest.mark.parametrize(
        ("threads", "cores", "levels"),
        [
            (1, 1, (0.5, 1, 2, 4)),
            (1, 2, (0.5, 1, 2, 4)),
            (4, 16, (1, 2, 4, 8)),
            (1, 64, (2, 4, 8, 16)),
        ],
    )
    def test_go_beyond_what_fills_a_machine_that_is_not_too_large(
        self, threads: int, cores: int, levels: tuple[float, ...]
    ) -> None:
        assert choose_levels(threads, cores) == levels

    def test_a_large_machine_is_filled_in_theory(self) -> None:
        measured = LoadCurve((0, 8, 16), (1, 1.25, 1.5))
        extended = extend(measured, processor_sharing(1, 64))
        for busy in (4, 8, 16):
            assert extended.at(busy) == measured.at(busy)
        assert extended.at(63) == pytest.approx(1.5)
        assert extended.at(127) == pytest.approx(1.5 * 2)

    def test_what_was_measured_beyond_a_full_machine_goes_on_by_itself(self) -> None:
        measured = LoadCurve((0, 2, 4), (1, 1.5, 3))
        assert extend(measured, processor_sharing(1, 2)) == measured


@pytest.fixture(scope="module")
def small() -> DrawnNetwork:
    """A network that is compiled and run in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_networks, "draw_graph", small_network)
        return compile_drawn(0, TARGET)


class TestCompetitors:
    """Processes that compute here; to start one takes two seconds."""

    def test_a_machine_that_computes_others_is_slower(
        self, small: DrawnNetwork, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(load, "compile_drawn", lambda *_: small)
        monkeypatch.setattr(load, "choose_levels", lambda *_: (1.0,))
        with one_cpu():
            curve = measure_load(TARGET, 0.5)
        assert curve.at(1) > 1.2
        assert active_children() == []

    def test_one_computes_for_as_much_of_its_time_as_it_is_told(self, small: DrawnNetwork) -> None:
        def work_and_die() -> None:
            with competitors(1, small, 1) as occupy:
                (process,) = active_children()
                shares.extend(cpu_share(process.pid, occupy, busy) for busy in (0, 0.25, 1))
                process.kill()
                process.join()
                occupy(1)

        shares: list[float] = []
        with pytest.raises(PartcError, match="a process that loads the machine has died"):
            work_and_die()
        idle, quarter, full = shares
        assert idle <= 0.1
        assert idle < quarter < full
        assert active_children() == []

    def test_none_is_left_after_an_interruption(
        self, small: DrawnNetwork, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def interrupt() -> None:
            with competitors(1, small, 1) as occupy:
                occupy(1)
                (process,) = active_children()
                os.kill(int(process.pid or 0), signal.SIGINT)  # as a terminal does
                occupy(0.5)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert active_children() == []
        assert capfd.readouterr().err == ""


@contextmanager
def one_cpu() -> Generator[None]:
    """As on a machine that has no more."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_share(pid: int | None, occupy: Callable[[float], None], busy: float) -> float:
    """The part of a fifth of a second in which a process computes."""

    def now_s() -> float:
        fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    occupy(busy)
    started_s = now_s()
    time.sleep(0.2)
    return (now_s() - started_s) / 0.2
