"""Compare compiled models with the runtimes that people use today, all in one run.

``--layers MODEL`` prints where the time of one model goes, kernel by kernel, instead.
"""

from __future__ import annotations

import argparse
import sys

import msgspec
from engines import CompiledModel, Partc, random_inputs
from kernel_profile import profile, profile_table
from models import MODELS, BenchmarkModel
from rich.console import Console

from partc.compiler import lower
from partc.frontends.onnx import import_onnx
from partc.report.terminal import report_console
from partc.targets.target import load_target

_PROGRESS = Console(stderr=True, highlight=False)


def main() -> None:
    """Print the tables that the options ask for."""
    options = _parse_options()
    if options.layers:
        _print_layers(MODELS[options.layers], options.threads[0])


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--layers", choices=MODELS, metavar="MODEL")
    return parser.parse_args()


def _print_layers(model: BenchmarkModel, threads: int) -> None:
    compiled = _compile(model, threads)
    inputs = random_inputs(compiled.graph)
    _PROGRESS.print("Timing")
    latency_s = min(Partc(compiled, threads, inputs).time(30))
    table = profile_table(model.name, profile(compiled, threads, inputs), latency_s)
    report_console(sys.stdout).print(table)


def _compile(model: BenchmarkModel, threads: int) -> CompiledModel:
    _PROGRESS.print(f"Compiling {model.name}")
    target = msgspec.structs.replace(load_target("native"), threads=threads)
    return CompiledModel(lower(import_onnx(model.proto)), target)


if __name__ == "__main__":
    main()
