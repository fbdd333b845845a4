from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import pytest

from partc.errors import PartcError
from partc.profiler import drawn as drawn_networks
from partc.profiler.drawn import compilers, draw_graph
from partc.profiler.stopwatch import connect, settle
from partc.targets.features import describe
from partc.targets.target import load_target


def test_networks_are_compiled_elsewhere_and_run_here() -> None:
    numbers = [3, 1]
    with compilers(load_target("native")) as compile_networks:
        drawn = list(compile_networks(numbers))
    assert [each.number for each in drawn] == numbers
    board = connect(None, threads=1)
    times_ms = settle([board.load(each.network, each.inputs) for each in drawn], runs=2)
    for each, (low, high) in zip(drawn, times_ms, strict=True):
        assert each.workloads == describe(draw_graph(each.number).layers)
        assert len(low) == len(each.workloads)
        assert (low <= high).all()
        assert np.count_nonzero(low) > len(low) / 2
    assert not active_children()


def test_there_is_a_process_for_each_cpu_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container or under taskset these are fewer than the machine has."""
    sizes: list[int] = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, size: int, *others: Any) -> None:
            sizes.append(size)
            super().__init__(size, *others)

    monkeypatch.setattr(drawn_networks, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6})
    with compilers(load_target("native")):
        pass
    assert sizes == [3]


def test_what_a_process_refuses_is_told_here() -> None:
    with (
        pytest.raises(PartcError, match="only CPUs can be profiled yet"),
        compilers(load_target("jetson-orin-nano")) as compile_networks,
    ):
        list(compile_networks([1]))
    assert not active_children()


def test_nothing_goes_on_after_an_interruption() -> None:
    started: list[BaseProcess] = []

    def begin() -> None:
        with compilers(load_target("native")) as compile_networks:
            compile_networks(range(100))
            started.extend(active_children())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert not active_children()
    assert started
    assert all(process.exitcode == -signal.SIGTERM for process in started)
