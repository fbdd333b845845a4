"""Measure which part of a CPU's peak compiled kernels reach: ``achieved_fraction`` of a target.

Whole models with known arithmetic, one thread, the least of several runs; the geometric mean is
what goes into the target's file. EfficientNet-Lite0, the model of the demo, is not among them.
"""

from __future__ import annotations

import sys

from engines import CompiledModel, Partc, random_inputs
from measuring import geometric_mean
from models import light_model
from rich.console import Console
from rich.table import Table

from partc.compiler import lower_model
from partc.graph import LayerGraph
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
        graph = lower_model(light_model(model))
        cells = []
        for target in targets:
            gflops = _measure_gflops(graph, target)
            fractions[target.name].append(gflops / target.peak_gflops)
            cells.append(f"{gflops:.1f} ({gflops / target.peak_gflops:.0%})")
        table.add_row(model, *cells)
    means = (geometric_mean(values) for values in fractions.values())
    table.add_row("geometric mean", *(f"{mean:.3f}" for mean in means), style="bold")
    Console().print(table)


def _measure_gflops(graph: LayerGraph, target: Target) -> float:
    compiled = CompiledModel(graph, target)
    partc = Partc(compiled, target.threads, random_inputs(graph))
    return sum(layer.flops for layer in graph.layers) / min(partc.time(REPEATS)) / 1e9


if __name__ == "__main__":
    main()
