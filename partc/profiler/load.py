"""Measure how much longer a network takes on this machine while it computes others."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from statistics import fmean, median

from partc.errors import PartcError
from partc.interruption import interruptible
from partc.profiler.drawn import DrawnNetwork, compile_drawn
from partc.profiler.stopwatch import connect
from partc.targets.load import LoadCurve, fit_load_curve, processor_sharing
from partc.targets.target import Target

BUDGET_S = 20.0
_NETWORK = 0
_ROUNDS = 3
_MOST_COMPETITORS = 16
"""Each needs some hundred megabytes."""
_PATIENCE_S = 60.0
_GRACE_S = 4.0

Occupy = Callable[[float], None]
"""Has a machine compute so many other requests, on average."""
Run = Callable[[], float]
"""Computes one request; returns milliseconds."""
_Competitor = tuple[SpawnProcess, Connection]


def measure_load(target: Target, budget_s: float = BUDGET_S) -> LoadCurve:
    """Load this machine with processes that compute a network, and time the network beside them.

    Args:
        target: What to compile for, and how many threads each request has.
        budget_s: How long to measure; to compile the network and to start processes comes on top.

    Raises:
        PartcError: A process that loads the machine has died.
        TargetError: The target cannot be compiled for.
    """
    cores = len(os.sched_getaffinity(0))
    levels = choose_levels(target.threads, cores)
    with interruptible() as check_interruption:
        drawn = compile_drawn(_NETWORK, target)
        with competitors(math.ceil(levels[-1]), drawn, target.threads) as occupy:
            run = _load(drawn, target.threads)
            slowdowns = measure_slowdowns(run, occupy, levels, budget_s)
        check_interruption()
    return extend(fit_load_curve(levels, slowdowns), processor_sharing(target.threads, cores))


def choose_levels(threads: int, cores: int) -> tuple[float, ...]:
    """How many competitors to measure with: up to twice what fills the machine, if that is few."""
    most = min(max(4, math.ceil(2 * cores / threads)), _MOST_COMPETITORS)
    return most / 8, most / 4, most / 2, float(most)


def measure_slowdowns(
    run: Run, occupy: Occupy, levels: Sequence[float], budget_s: float
) -> list[float]:
    """How many times longer requests take at each level.

    Before and after each level the machine is left alone, and what a level takes is compared with
    these neighbours, so a machine that becomes slower or faster meanwhile makes no difference.
    Levels come in rounds, of which the median counts. A request that meets others only at times
    takes longer only at times, so within a round it is the mean.

    Args:
        run: Computes one request; returns milliseconds.
        occupy: Has the machine compute so many other requests, on average.
        levels: How many.
        budget_s: How long to measure.
    """
    slice_ms = 1e3 * budget_s / (1 + 2 * _ROUNDS * len(levels))

    def mean_ms(busy: float) -> float:
        occupy(busy)
        times_ms = [run()]
        while sum(times_ms) < slice_ms:
            times_ms.append(run())
        return fmean(times_ms)

    ratios: dict[float, list[float]] = {level: [] for level in levels}
    before_ms = mean_ms(0)
    for _ in range(_ROUNDS):
        for level in levels:
            loaded_ms, after_ms = mean_ms(level), mean_ms(0)
            ratios[level].append(2 * loaded_ms / (before_ms + after_ms))
            before_ms = after_ms
    return [median(each) for each in ratios.values()]


def extend(curve: LoadCurve, expected: LoadCurve) -> LoadCurve:
    """A curve that goes on, where it was not measured, as another one does."""
    last, slowdown = curve.busy[-1], curve.slowdown[-1]
    beyond = tuple(busy for busy in expected.busy if busy > last)
    growth = [expected.at(busy) / expected.at(last) for busy in beyond]
    return LoadCurve(
        curve.busy + beyond, curve.slowdown + tuple(slowdown * each for each in growth)
    )


# Competitors -------------------------------------------------------------------------------------


@contextmanager
def competitors(count: int, drawn: DrawnNetwork, threads: int) -> Generator[Occupy]:
    """Processes that compute a network while they are told to; none is left in the end.

    Yields:
        Has so many of them compute, and one more for the part of its time that is left over.

    Raises:
        PartcError: One of them has died.
    """
    crowd: list[_Competitor] = []

    def occupy(busy: float) -> None:
        _tell(crowd, [min(max(busy - position, 0.0), 1.0) for position in range(count)])

    try:
        for _ in range(count):
            _hire(crowd, threads)
        _tell(crowd, [drawn] * count)
        yield occupy
    finally:
        _dismiss(crowd)


def _hire(crowd: list[_Competitor], threads: int) -> None:
    """Start a process that computes as it is told through its pipe."""
    # A fork of a process that has threads, as TVM's have, may find locks held for ever.
    spawn = get_context("spawn")
    pipe, far_end = spawn.Pipe()
    process = spawn.Process(target=_compete, args=(far_end, threads), daemon=True)
    resource_tracker.ensure_running()  # else it is started below, and lets interruptions through
    # Ctrl-C in a terminal reaches every process; this one deals with it for all.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
        crowd.append((process, pipe))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    far_end.close()


def _dismiss(crowd: Sequence[_Competitor]) -> None:
    """End processes, if need be by force."""
    deadline = time.monotonic() + _GRACE_S
    for _, pipe in crowd:
        pipe.close()
    try:
        for process, _ in crowd:
            process.join(max(deadline - time.monotonic(), 0.0))
    finally:
        for process, _ in crowd:
            process.kill()
            process.join()


def _tell(crowd: Sequence[_Competitor], messages: Sequence[DrawnNetwork | float]) -> None:
    """Tell competitors what or which part of their time to compute; wait until all have heard."""
    try:
        for (_, pipe), message in zip(crowd, messages, strict=True):
            pipe.send(message)
        for _, pipe in crowd:
            if not pipe.poll(_PATIENCE_S):
                raise EOFError
            pipe.recv()
    except (EOFError, OSError) as error:
        raise PartcError(
            "a process that loads the machine has died or does not answer; free some memory here, "
            "or leave --load out"
        ) from error


def _compete(pipe: Connection, threads: int) -> None:
    """Compute for a part of the time, until the other end of the pipe is closed."""
    duty = 0.0
    with suppress(EOFError, OSError):
        run = _load(pipe.recv(), threads)
        pipe.send(None)
        while True:
            if duty == 0 or pipe.poll():
                duty = pipe.recv()
                pipe.send(None)
            else:
                time.sleep(run() / 1e3 * (1 / duty - 1))


def _load(drawn: DrawnNetwork, threads: int) -> Run:
    """The network, ready to run here."""
    network = connect(None, threads).load(drawn.network, drawn.inputs)

    def run() -> float:
        started = time.perf_counter()
        network.time_layers(1)
        return (time.perf_counter() - started) * 1e3

    return run
