"""Measure which part of a CPU's peak compiled kernels reach: ``achieved_fraction`` of a target.

Whole models with known arithmetic, one thread, the least of several runs; the geometric mean is
what goes into the target's file. EfficientNet-Lite0, the model of the demo, is not among them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from partc.codegen.halves import build_half
from partc.compiler import lower_model
from partc.graph import LayerCost, LayerGraph
from partc.passes.segment import build_plan_table
from partc.plan import Cut, Side
from partc.runtime.executor import Executor
from partc.targets.target import Target, load_target

MODELS = ("squeezenet", "shufflenet", "inception_v1", "densenet121", "resnet50")
TARGETS = ("x86-64", "x86-64-v3", "x86-64-v4")
REPEATS = 20


def main() -> None:
    """Print GFLOP/s and fractions of the peak, and the mean for each target."""
    table = Table(title="GFLOP/s of one thread (share of the target's peak)")
    table.add_column("model")
    targets = [load_target(name) for name in sys.argv[1:] or TARGETS]
    for target in targets:
        table.add_column(target.name, justify="right")
    fractions: dict[str, list[float]] = {target.name: [] for target in targets}
    for model in MODELS:
        graph = lower_model(_model_path(model))
        cells = []
        for target in targets:
            gflops = _measure_gflops(graph, target)
            fractions[target.name].append(gflops / target.peak_gflops)
            cells.append(f"{gflops:.1f} ({gflops / target.peak_gflops:.0%})")
        table.add_row(model, *cells)
    means = (float(np.exp(np.mean(np.log(values)))) for values in fractions.values())
    table.add_row("geometric mean", *(f"{mean:.3f}" for mean in means), style="bold")
    Console().print(table)


def _model_path(name: str) -> Path:
    return Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"


def _measure_gflops(graph: LayerGraph, target: Target) -> float:
    table = build_plan_table(_without_costs(graph), [Cut.device_only()])
    inputs = {
        tensor.name: np.random.default_rng(0).random(tensor.type.shape, np.float32)
        for tensor in graph.inputs
    }
    with tempfile.TemporaryDirectory() as directory:
        artifact = build_half(graph, table, Side.DEVICE, target, Path(directory))
        executor = Executor(Path(directory), artifact)
    segments = [segment.name for segment in table.segments]
    latency_s = min(_run(executor, segments, inputs) for _ in range(REPEATS))
    return sum(layer.flops for layer in graph.layers) / latency_s / 1e9


def _without_costs(graph: LayerGraph) -> LayerGraph:
    """The graph with costs of nothing: a plan table wants some."""
    free = LayerCost(0.0, 0.0, 0.0)
    return graph.with_layers(replace(layer, cost=free) for layer in graph.layers)


def _run(executor: Executor, segments: list[str], inputs: dict[str, np.ndarray]) -> float:
    request = executor.request(inputs)
    started = time.perf_counter()
    request.run(segments)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
