"""Compare predictors on models that none of them was fitted to, all in one run.

Profiles this machine as a device, x86-64 on one thread, and as a server, native on two, and
measures the layers of every model of the kernel benchmark on both. Prints what share of the layers
each predictor meets, how whole models come out, and how good the cuts are that follow.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from engines import CompiledModel, Partc, random_inputs
from models import MODELS
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from partc.compiler import lower
from partc.cost import LATENCY
from partc.frontends.onnx import import_onnx
from partc.graph import Layer, LayerGraph
from partc.passes.annotate import annotate
from partc.passes.cut import find_cut
from partc.passes.price import price
from partc.plan import make_plan
from partc.profiler.command import describe_profile
from partc.profiler.session import profile_machine
from partc.profiler.stopwatch import PASSES, RUNS, LoadedNetwork, compile_timed, connect
from partc.report.terminal import report_console
from partc.targets.features import Described, describe
from partc.targets.link import load_link
from partc.targets.neurosurgeon import Neurosurgeon
from partc.targets.predictor import Prediction, Predictor, Roofline
from partc.targets.profile import Measured, Profile
from partc.targets.target import Target, load_target

Array = NDArray[np.float64]

_LINKS = ("ethernet", "wifi", "lte", "3g", "cat1")
_PERCENTILE = 20
_RESOLVED_MS = 1e-3
"""Layers that take less are views or folded into others; a tenth of that is not to be measured."""
_LAYERS = 500
_PAUSE_S = 0.3
_BARS = "85 % of the layers within 20 %, every model within 10 %"
_LAYER_BAR, _MODEL_BAR = 0.85, 0.1
_DECISION_BARS = (0.985, 0.90)
_PREDICTION_BAR_MS = 50

_PROGRESS = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class MeasuredModel:
    """A model on one machine: milliseconds of each layer in the whole, and of the whole."""

    name: str
    graph: LayerGraph
    layers_ms: Array
    whole_ms: float


@dataclass(frozen=True)
class Machine:
    """What was profiled, what its predictors are compared on, and what each predicts.

    ``predicted_ms`` holds the layers of each model, in order, by predictor.
    """

    title: str
    target: Target
    predictors: Mapping[str, Predictor]
    models: Sequence[MeasuredModel]
    predicted_ms: Mapping[str, Sequence[Array]]


@dataclass(frozen=True)
class Baseline:
    """Neurosurgeon's regressions as a predictor."""

    regressions: Neurosurgeon

    def predict(self, layers: Sequence[Layer]) -> list[Prediction | None]:
        times = map(self.regressions.latency_ms, describe(layers))
        return [None if each is None else Prediction(each, 0.0) for each in times]


@dataclass(frozen=True)
class Oracle:
    """Predicts what was measured."""

    layers_ms: Array

    def predict(self, layers: Sequence[Layer]) -> list[Prediction]:
        times = zip(layers, self.layers_ms, strict=True)
        return [Prediction(float(latency_ms), 0.0) for _, latency_ms in times]


# Measuring ---------------------------------------------------------------------------------------


def profile(target: Target, minutes: float, directory: Path) -> Profile:
    """Profile this machine, or go on with a profile that is there."""
    path = directory / f"{target.name}-{target.threads}.profile.json"
    _PROGRESS.print(f"Profiling {target.name} on {_threads(target)} for {minutes:g} min")
    board = connect(None, target.threads)
    found = profile_machine(target, board, path, 60 * minutes)
    _PROGRESS.print(describe_profile(found))
    return found


def measure_models(names: Sequence[str], target: Target) -> list[MeasuredModel]:
    """Time the layers of models, and all of each compiled as one segment.

    All models take several turns, so that what disturbs the machine for seconds is left out.
    """
    board = connect(None, target.threads)
    turns: list[Callable[[], tuple[Array, float]]] = []
    graphs: list[LayerGraph] = []
    for name in names:
        _PROGRESS.print(f"Compiling {name} for {target.name}, {_threads(target)}")
        graph = lower(import_onnx(MODELS[name].proto))
        graphs.append(graph)
        inputs = random_inputs(graph)
        network = board.load(compile_timed(graph, target), inputs)
        turns.append(
            partial(_turn, network, Partc(CompiledModel(graph, target), target.threads, inputs))
        )
    _PROGRESS.print(f"Measuring {len(names)} models on {target.name}, {_threads(target)}")
    passes = [[turn() for turn in turns] for _ in range(PASSES)]
    return [
        MeasuredModel(name, graph, np.min(layers_ms, axis=0), min(whole_ms))
        for name, graph, *measured in zip(names, graphs, *passes, strict=True)
        for layers_ms, whole_ms in [zip(*measured, strict=True)]
    ]


def _turn(network: LoadedNetwork, whole: Partc) -> tuple[Array, float]:
    """Milliseconds of each layer, and of the whole.

    Workers that have nothing more to do look for work for some time before they sleep, and are in
    the way of those that have.
    """
    time.sleep(_PAUSE_S)
    layers_ms = np.percentile(network.time_layers(RUNS), _PERCENTILE, axis=0)
    time.sleep(_PAUSE_S)
    return layers_ms, float(np.percentile(whole.time(RUNS), _PERCENTILE)) * 1e3


def measure_machine(
    target: Target, minutes: float, names: Sequence[str], directory: Path
) -> Machine:
    # Half before and half after: a machine that drifts meanwhile does so for both.
    profile(target, minutes / 2, directory)
    models = measure_models(names, target)
    found = profile(target, minutes / 2, directory)
    predictors: dict[str, Predictor] = {
        "regression": Measured(target, found),
        "Neurosurgeon": Baseline(Neurosurgeon(found.workloads, found.latencies_ms)),
        "roofline": Roofline(target),
    }
    predicted_ms = {
        name: [predict_ms(predictor, model, predictors["roofline"]) for model in models]
        for name, predictor in predictors.items()
    }
    return Machine(f"{target.name}, {_threads(target)}", target, predictors, models, predicted_ms)


def _threads(target: Target) -> str:
    return "1 thread" if target.threads == 1 else f"{target.threads} threads"


# Tables ------------------------------------------------------------------------------------------


def predict_ms(predictor: Predictor, model: MeasuredModel, fallback: Predictor) -> Array:
    """Times of a model's layers, by another predictor where the first knows none."""
    predicted = predictor.predict(model.graph.layers)
    others = fallback.predict(model.graph.layers)
    return np.array([(a or b).latency_ms for a, b in zip(predicted, others, strict=True) if a or b])


def layer_table(machine: Machine) -> Table:
    """How many layers each predictor meets."""
    table = _table("predictor", "layers", "within 10 %", "within 20 %", "mean error", "bar 85 %")
    for name in machine.predictors:
        errors = np.concatenate(_errors(machine, name))
        reached = _verdict(float(np.mean(errors <= 0.2)) >= _LAYER_BAR)
        table.add_row(name, str(len(errors)), *_shares(errors), reached)
    return table


def _errors(machine: Machine, name: str) -> list[Array]:
    """How far off a predictor is, relative to what was measured, for each model."""
    return [
        np.abs(predicted[kept] / model.layers_ms[kept] - 1)
        for model, predicted in zip(machine.models, machine.predicted_ms[name], strict=True)
        for kept in [_resolved(model)]
    ]


def _resolved(model: MeasuredModel) -> NDArray[np.bool_]:
    return model.layers_ms >= _RESOLVED_MS


def _verdict(reached: bool) -> str:
    return "reaches" if reached else "misses"


def _shares(errors: Array) -> Sequence[str]:
    return (
        f"{np.mean(errors <= 0.1):.0%}",
        f"{np.mean(errors <= 0.2):.0%}",
        f"{errors.mean():.0%}",
    )


def model_table(machine: Machine) -> Table:
    """Whole models: predicted beside measured."""
    table = _table(
        "model", "layers", "measured ms", *(f"{name} ms" for name in machine.predictors), "bar 10 %"
    )
    for position, model in enumerate(machine.models):
        totals = [float(each[position].sum()) for each in machine.predicted_ms.values()]
        best = totals[0] / model.whole_ms - 1
        table.add_row(
            model.name,
            str(len(model.graph.layers)),
            f"{model.whole_ms:.3f}",
            *(f"{total:.3f} ({total / model.whole_ms - 1:+.0%})" for total in totals),
            _verdict(abs(best) <= _MODEL_BAR),
        )
    return table


def family_table(machine: Machine) -> Table:
    """How many layers of each family the predictors meet."""
    table = _table(
        "kind of layer", "layers", *(f"{name}, within 20 %" for name in machine.predictors)
    )
    families = np.concatenate(
        [
            np.array([each.family for each in describe(model.graph.layers)])[_resolved(model)]
            for model in machine.models
        ]
    )
    errors = {name: np.concatenate(_errors(machine, name)) for name in machine.predictors}
    for family in sorted(set(families)):
        members = families == family
        shares = (f"{np.mean(each[members] <= 0.2):.0%}" for each in errors.values())
        table.add_row(str(family), str(np.count_nonzero(members)), *shares)
    return table


# Decisions ---------------------------------------------------------------------------------------


def decision_table(device: Machine, server: Machine) -> Table:
    """How near the cuts that predictions choose come to the best, under what was measured."""
    names = list(device.predictors)
    table = _table("model", *(f"{name}, mean (least)" for name in names))
    all_shares: dict[str, list[float]] = {name: [] for name in names}
    for position, near in enumerate(device.models):
        row: list[str] = []
        for name in names:
            shares = [_share_of_best(name, device, server, position, link) for link in _LINKS]
            all_shares[name] += shares
            row.append(f"{np.mean(shares):.1%} ({min(shares):.1%})")
        table.add_row(near.name, *row)
    table.add_section()
    means = [f"{np.mean(shares):.1%} ({min(shares):.1%})" for shares in all_shares.values()]
    table.add_row("all", *means)
    mean, least = _DECISION_BARS
    reached = (np.mean(each) >= mean and min(each) >= least for each in all_shares.values())
    table.add_row("bars", *(_verdict(bool(each)) for each in reached))
    return table


def _share_of_best(
    name: str,
    device: Machine,
    server: Machine,
    position: int,
    link_name: str,
) -> float:
    near, far = device.models[position], server.models[position]
    link, watts = load_link(link_name), device.target.busy_watts
    measured = annotate(near.graph, Oracle(near.layers_ms), Oracle(far.layers_ms), watts)
    predicted = annotate(
        near.graph,
        Oracle(device.predicted_ms[name][position]),
        Oracle(server.predicted_ms[name][position]),
        watts,
    )

    def latency_ms(graph: LayerGraph) -> float:
        cut = find_cut(graph, price(graph, LATENCY, link.conditions))
        return make_plan(measured, cut).latency_ms(link.conditions)

    return latency_ms(measured) / latency_ms(predicted)


# Speed -------------------------------------------------------------------------------------------


def prediction_ms(device: Machine, server: Machine) -> float:
    """Time to predict 500 layers for both sides, the least of several."""
    pool = [layer for model in device.models for layer in model.graph.layers]
    layers = (pool * (1 + _LAYERS // len(pool)))[:_LAYERS]

    def predict() -> float:
        started = time.perf_counter()
        described = Described(layers)
        for machine in (device, server):
            machine.predictors["regression"].predict(described)
        return (time.perf_counter() - started) * 1e3

    # Whatever else is in this process would be walked through by the garbage collector.
    gc.collect()
    gc.freeze()
    return min(predict() for _ in range(5))


def _table(*columns: str) -> Table:
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    available = [name for name, model in MODELS.items() if model.available]
    parser.add_argument("--models", nargs="+", choices=available, default=available)
    parser.add_argument("--minutes", type=float, default=4.5, help="for each of the two profiles")
    parser.add_argument("--profiles", type=Path, help="keep profiles here, and go on with them")
    options = parser.parse_args(arguments)
    targets = (load_target("x86-64"), replace(load_target("native"), threads=2))
    console = report_console(sys.stdout)
    with tempfile.TemporaryDirectory(prefix="partc-predict-") as directory:
        folder = options.profiles or Path(directory)
        machines = [
            measure_machine(target, options.minutes, options.models, folder) for target in targets
        ]
    for machine in machines:
        for what, make in _TABLES.items():
            console.print(f"\n{what}: {machine.title}; bars: {_BARS}")
            console.print(make(machine))
    mean, least = _DECISION_BARS
    console.print(
        f"\nDecisions: latency of the best cut / that of the chosen one, over {', '.join(_LINKS)}"
    )
    console.print(f"bars: {mean:.1%} on average, {least:.0%} at least")
    console.print(decision_table(*machines))
    speed = prediction_ms(*machines)
    reached = _verdict(speed <= _PREDICTION_BAR_MS)
    bar = f"bar {_PREDICTION_BAR_MS} ms, {reached}"
    console.print(f"\n{_LAYERS} layers for both sides: {speed:.1f} ms; {bar}")
    return 0


_TABLES: Mapping[str, Callable[[Machine], Table]] = {
    "Layers": layer_table,
    "Models": model_table,
    "Kinds of layers": family_table,
}

if __name__ == "__main__":
    sys.exit(main())
