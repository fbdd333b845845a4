# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# TVM ships no types.
"""Profile a machine: measure networks until the budget is spent, and fit a predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from partc.errors import PartcError
from partc.graph import LayerGraph, Tensor
from partc.interruption import interruptible
from partc.passes.build import build_graph
from partc.passes.canonicalize import canonicalize
from partc.passes.expressions import tensor_type
from partc.profiler.networks import draw_network
from partc.profiler.stopwatch import Array, Board, compile_timed
from partc.targets.features import describe
from partc.targets.profile import Profile, Sample, load_profile
from partc.targets.regression import Regression
from partc.targets.target import Target

RUNS = 15
_REFERENCE = 0
"""The network that is measured again and again, to see whether the machine stays what it is."""
_ROUND = 8
_CANDIDATES = 4
"""How many networks are drawn for each one that is measured."""
_LEAST_MS = 1e-4
"""What a layer that takes nothing is said to take: logarithms need a time above zero."""


@dataclass(frozen=True)
class Step:
    """How far a profile has come."""

    networks: int
    layers: int
    spent_s: float
    budget_s: float


Report = Callable[[Step], None]


def profile_machine(
    target: Target,
    board: Board,
    path: Path,
    budget_s: float,
    report: Report = lambda _: None,
) -> Profile:
    """Measure networks for as long as the budget lasts, and fit regressions to their layers.

    The first networks fill the space of configurations. Then, of several that are drawn, those are
    measured whose layers the regressions are least sure of. After each network the profile is
    written; where there is one already, it goes on from there.

    Args:
        target: What to compile for.
        board: Where to measure.
        path: The profile.
        budget_s: How long to measure; compilation included. One network is measured anyway.
        report: Called after each network.

    Raises:
        PartcError: The file holds a profile of something else or cannot be written, or the target
            cannot be profiled.
    """
    started = time.monotonic()
    profile = _begin(target, board, path)
    references = [_measure_reference(target, board)]
    numbers = _choose_networks(lambda: profile)
    while not profile.samples or time.monotonic() - started < budget_s:
        number = next(numbers)
        samples = measure(draw_graph(number), target, board, number)
        profile = replace(profile, samples=(*profile.samples, *samples))
        write_profile(profile, path)
        if profile.networks % _ROUND == 0:
            references.append(_measure_reference(target, board))
        spent_s = time.monotonic() - started
        report(Step(profile.networks, len(profile.samples), spent_s, budget_s))
    references.append(_measure_reference(target, board))
    drift = max(references) / min(references) - 1
    profile = replace(profile, drift=drift, fits=fit(profile).fits)
    write_profile(profile, path)
    return profile


def draw_graph(number: int) -> LayerGraph:
    """The layer graph of a random network."""
    module = canonicalize(draw_network(number))
    main = module["main"]
    inputs = [Tensor(str(param.name), tensor_type(param)) for param in main.params]
    outputs = [
        Tensor(f"output_{position}", tensor_type(field))
        for position, field in enumerate(main.body.body.fields)
    ]
    return build_graph(f"network {number}", module, inputs, outputs)


def measure(graph: LayerGraph, target: Target, board: Board, number: int) -> list[Sample]:
    """Compile a network and time its layers."""
    low, high = np.percentile(time_layers(graph, target, board, RUNS), (20, 80), axis=0)
    return [
        Sample(
            number, workload, max(float(least), _LEAST_MS), float(most / max(least, _LEAST_MS)) - 1
        )
        for workload, least, most in zip(describe(graph.layers), low, high, strict=True)
    ]


def time_layers(graph: LayerGraph, target: Target, board: Board, runs: int) -> NDArray[np.float64]:
    """Compile a network and run it: milliseconds of each layer, of shape (runs, layers)."""
    with interruptible() as check_interruption:
        times_ms = board.time_layers(compile_timed(graph, target), random_inputs(graph), runs)
        check_interruption()
    return times_ms


def random_inputs(graph: LayerGraph) -> dict[str, Array]:
    """Normal numbers for every input, or small integers."""
    random = np.random.default_rng(0)
    return {
        tensor.name: random.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        if np.issubdtype(tensor.type.dtype, np.floating)
        else random.integers(0, 2, tensor.type.shape).astype(tensor.type.dtype)
        for tensor in graph.inputs
    }


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
    empty = Profile(target.name, target.threads, board.processor, (), {}, 0.0)
    if not path.exists():
        return empty
    found = load_profile(path)
    differing = [
        f"{name} is {getattr(found, name)!r} there and {getattr(empty, name)!r} now"
        for name in ("target", "threads", "processor")
        if getattr(found, name) != getattr(empty, name)
    ]
    if differing:
        raise PartcError(
            f"{path} is a profile of something else: {'; '.join(differing)}; "
            "give another output, or remove it to begin anew"
        )
    return found


def _measure_reference(target: Target, board: Board) -> float:
    """Milliseconds of the reference network."""
    return sum(
        sample.latency_ms for sample in measure(draw_graph(_REFERENCE), target, board, _REFERENCE)
    )


def _choose_networks(profile: Callable[[], Profile]) -> Iterator[int]:
    """Numbers of networks to measure next, without end."""
    number = 1 + max((sample.network for sample in profile().samples), default=0)
    for _ in range(2 * _ROUND):
        yield number
        number += 1
    while True:
        regression = fit(profile())
        drawn = range(number, number + _CANDIDATES * _ROUND)
        number = drawn.stop
        doubts = {each: _doubt(draw_graph(each), regression) for each in drawn}
        yield from sorted(sorted(drawn, key=lambda each: -doubts[each])[:_ROUND])


def _doubt(graph: LayerGraph, regression: Regression) -> float:
    """How large an error is expected of a network's layers, on average."""
    predictions = regression.predict(describe(graph.layers))
    errors = [prediction.error if prediction else 1.0 for prediction in predictions]
    return float(np.mean(errors))
