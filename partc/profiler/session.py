"""Profile a machine: measure networks until the budget is spent, and fit a predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from partc.errors import PartcError
from partc.graph import LayerGraph
from partc.profiler.drawn import DrawnNetwork, compilers, draw_graph
from partc.profiler.rounds import Rounds
from partc.profiler.stopwatch import Board
from partc.targets.features import describe
from partc.targets.profile import Profile, load_profile
from partc.targets.regression import Fit, Regression
from partc.targets.target import Target

_REFERENCE = 0
"""The network that is measured again and again, to see whether the machine stays what it is."""
_ROUND = 8
"""How many networks are compiled, on all CPUs, before they are measured on a quiet machine."""
_FIRST_ROUNDS = 2
_CANDIDATES = 4
"""How many networks are drawn for each one that is measured."""
_SHARE_OF_NEW = 0.9
"""Of the budget; in the rest, what was disturbed is measured again."""


@dataclass(frozen=True)
class Step:
    """How far a profile has come: what has been compiled, and what was before all measured."""

    networks: int
    layers: int
    spent_s: float
    budget_s: float


Report = Callable[[Step | str], None]
"""Told how far a profile has come, or what is done now."""


def profile_machine(
    target: Target,
    board: Board,
    path: Path,
    budget_s: float,
    report: Report = lambda _: None,
) -> Profile:
    """Measure networks for as long as the budget lasts, and fit regressions to their layers.

    The first networks fill the space of configurations. Then, of several that are drawn, those are
    measured whose layers the regressions are least sure of. They are compiled and measured in
    rounds; after each the profile is written. Where there is one already, it goes on from there.

    Args:
        target: What to compile for.
        board: Where to measure.
        path: The profile.
        budget_s: How long to measure; compilation included. One round is measured anyway.
        report: Called after each network that is compiled, and before what else takes time.

    Raises:
        PartcError: The file holds a profile of something else or cannot be written, or the target
            cannot be profiled.
    """
    started = time.monotonic()
    profile = before = _begin(target, board, path)
    numbers = _choose_networks(lambda: profile)

    def is_within(share: float) -> bool:
        return time.monotonic() - started < share * budget_s

    with compilers(target) as compile_networks:
        (reference,) = compile_networks([_REFERENCE])
        rounds = Rounds(reference, board, before.references_ms)
        while not profile.samples or is_within(_SHARE_OF_NEW):
            drawn: list[DrawnNetwork] = []
            for network in compile_networks(list(islice(numbers, _ROUND))):
                drawn.append(network)
                networks = profile.networks + len(drawn)
                layers = len(profile.samples) + sum(len(each.workloads) for each in drawn)
                report(Step(networks, layers, time.monotonic() - started, budget_s))
            report("Measuring")
            rounds.measure(drawn)
            rounds.repeat_disturbed()
            profile = _with_rounds(before, rounds)
            write_profile(profile, path)
        while rounds.samples and is_within(1) and rounds.repeat_disturbed():
            pass
    report("Fitting")
    return _finish(before, rounds, path)


def _finish(before: Profile, rounds: Rounds, path: Path) -> Profile:
    """Add what was measured, and write the profile with regressions that need no search."""
    profile = _with_rounds(before, rounds)
    profile = replace(profile, fits=fit(profile).fits)
    write_profile(profile, path)
    return profile


def _with_rounds(before: Profile, rounds: Rounds) -> Profile:
    return replace(
        before,
        samples=(*before.samples, *rounds.samples),
        references_ms=(*before.references_ms, *rounds.references_ms),
    )


def fit(profile: Profile) -> Regression:
    """Regressions on all samples, with rates and scales searched for anew."""
    return Regression(profile.workloads, profile.latencies_ms, {})


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all.

    Raises:
        PartcError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(msgspec.json.encode(profile))
        partial.replace(path)
    except OSError as error:
        raise PartcError(f"the profile {path} cannot be written: {error.strerror}") from error


def _begin(target: Target, board: Board, path: Path) -> Profile:
    """The profile that is there, or an empty one."""
    empty = Profile(target.name, target.tvm, target.threads, board.processor, (), {}, ())
    if not path.exists():
        return empty
    found = load_profile(path)
    differing = [
        f"{name} is {getattr(found, name)!r} there and {getattr(empty, name)!r} now"
        for name in ("tvm", "threads", "processor")
        if getattr(found, name) != getattr(empty, name)
    ]
    if differing:
        raise PartcError(
            f"{path} is a profile of something else: {'; '.join(differing)}; "
            "give another output, or remove it to begin anew"
        )
    return found


def _choose_networks(profile: Callable[[], Profile]) -> Iterator[int]:
    """Numbers of networks to measure next, without end."""
    number = 1 + max((sample.network for sample in profile().samples), default=0)
    for _ in range(_FIRST_ROUNDS * _ROUND - profile().networks):
        yield number
        number += 1
    known = profile()
    fits: dict[str, Fit] = {}
    while True:
        # A search takes seconds, and finds much the same until there is much more to see.
        if not fits or len(profile().samples) > 1.5 * len(known.samples):
            known = profile()
            fits = fit(known).fits
        regression = Regression(profile().workloads, profile().latencies_ms, fits)
        drawn = range(number, number + _CANDIDATES * _ROUND)
        number = drawn.stop
        doubts = {each: _doubt(draw_graph(each), regression) for each in drawn}
        yield from sorted(sorted(drawn, key=lambda each: -doubts[each])[:_ROUND])


def _doubt(graph: LayerGraph, regression: Regression) -> float:
    """How large an error is expected of a network's layers, on average."""
    predictions = regression.predict(describe(graph.layers))
    errors = [prediction.error if prediction else 1.0 for prediction in predictions]
    return float(np.mean(errors))
