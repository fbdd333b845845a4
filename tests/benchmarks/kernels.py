"""Compare compiled models with the runtimes that people use today, all in one run.

Prints, for each number of threads, the times of whole models and their ratios; then what cutting a
model into segments costs, what ResNet-50's convolutions reach of the AVX2 peak, and what compiling
it takes. ``--layers MODEL`` prints where the time of one model goes instead, kernel by kernel.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
from convolutions import AVX2, RESNET50, compile_convolutions, convolution_table
from engines import Arrays, CompiledModel, Engine, OnnxRuntime, Partc, random_inputs
from kernel_profile import profile, profile_table
from measuring import (
    PERCENTILE,
    Neighbours,
    Times,
    alternate,
    count_busy_cores,
    deviation,
    geometric_mean,
)
from models import MODELS, BenchmarkModel
from peak import measure_peak_gflops
from rich.console import Console, Group
from rich.table import Table

from partc.codegen.verify import TOLERANCE
from partc.compiler import lower
from partc.frontends.onnx import import_onnx
from partc.graph import LayerGraph
from partc.plan import Cut
from partc.report.terminal import report_console
from partc.targets.target import Target, load_target

_BARS = {1: (1.25, 1.0), 2: (1.1, 0.95)}  # threads: mean of the ratios, least of them
_BAR_WITHOUT_LRN = {1: 1.15}
_QUIET_CORES = 0.1

_SEGMENTED = ("squeezenet", "resnet50", "efficientnet-lite0")
_SEGMENTS = 6
_SEGMENT_BAR = 0.02

_COMPILED = "resnet50"
_COMPILE_BAR = "40 s, 4 GB"

_PROFILE_RUNS = 30

_PROGRESS = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Comparison:
    """One model on so many threads.

    ``torch`` is why torch.compile has no times, where it has none. ``deviation`` is partc's from
    ONNX Runtime, relative to the largest value. ``busy_cores`` is how many cores partc uses,
    ``disturbance`` how many other processes used meanwhile.
    """

    model: BenchmarkModel
    threads: int
    gflop: float
    onnx_runtime: Times
    partc: Times
    request: Times
    torch: Times | str
    deviation: float
    busy_cores: float
    disturbance: float

    @property
    def ratio(self) -> float:
        """How many times longer ONNX Runtime takes."""
        return self.onnx_runtime.least_ms / self.partc.least_ms

    @property
    def gflops(self) -> float:
        """Arithmetic of the model as it is written, per second; Winograd's algorithm does less."""
        return self.gflop / self.partc.least_ms * 1e3

    @property
    def faults(self) -> list[str]:
        """What must not be, however fast it is."""
        found: list[str] = []
        where = f"{self.model.name} on {_count(self.threads)}"
        if not self.deviation <= TOLERANCE:
            found.append(f"{where} deviates by {self.deviation:.1e}, {TOLERANCE:.0e} is allowed")
        if self.busy_cores > self.threads + 0.1:
            found.append(f"{where} kept {self.busy_cores:.2f} cores busy")
        return found


def main() -> None:
    """Print the tables that the options ask for; fail where answers are wrong."""
    options = _parse_options()
    console = report_console(sys.stdout)
    if options.layers:
        console.print(_profile_layers(MODELS[options.layers], options.threads[0]))
        return
    models = _available(options.models)
    comparisons = [each for model in models for each in _compare(model, options)]
    for threads in options.threads:
        console.print(_comparison_table([each for each in comparisons if each.threads == threads]))
    segmented = [model for model in models if model.name in _SEGMENTED]
    if segmented:
        console.print(_segment_table(segmented, options.seconds))
    if any(model.name == _COMPILED for model in models):
        console.print(_convolution_section())
        console.print(_compilation_table())
    faults = [fault for each in comparisons for fault in each.faults]
    sys.exit("\n".join(faults) if faults else 0)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each model")
    parser.add_argument("--no-torch", action="store_true", help="leave torch.compile out")
    parser.add_argument("--layers", choices=MODELS, metavar="NAME", help="profile this model only")
    return parser.parse_args()


def _available(names: Sequence[str]) -> list[BenchmarkModel]:
    models = [MODELS[name] for name in names]
    for model in models:
        if not model.available:
            _PROGRESS.print(f"{model.name} is left out: it needs {model.package}")
    return [model for model in models if model.available]


# Whole models ------------------------------------------------------------------------------------


def _compare(model: BenchmarkModel, options: argparse.Namespace) -> list[Comparison]:
    _PROGRESS.print(f"Compiling {model.name}")
    graph = _lower(model)
    compiled = CompiledModel(graph, _native(max(options.threads)))
    return [
        _compare_on(model, compiled, threads, options.seconds, with_torch=not options.no_torch)
        for threads in options.threads
    ]


def _compare_on(
    model: BenchmarkModel,
    compiled: CompiledModel,
    threads: int,
    seconds: float,
    *,
    with_torch: bool,
) -> Comparison:
    inputs = random_inputs(compiled.graph)
    reference = OnnxRuntime(model.proto, threads, inputs)
    partc = Partc(compiled, threads, inputs)
    engines: dict[str, Engine] = {"onnx": reference, "partc": partc, "request": partc.requests}
    expected = reference.run()
    torch = _compile_by_torch(model, threads, inputs, expected) if with_torch else "left out"
    if not isinstance(torch, str):
        engines["torch"] = torch
    _PROGRESS.print(f"Timing {model.name} on {_count(threads)}")
    neighbours = Neighbours()
    times = alternate(engines, seconds)
    disturbance = neighbours.count_cores()
    _PROGRESS.print(", ".join(f"{name} {each.least_ms:.3f} ms" for name, each in times.items()))
    return Comparison(
        model=model,
        threads=threads,
        gflop=sum(layer.flops for layer in compiled.graph.layers) / 1e9,
        onnx_runtime=times["onnx"],
        partc=times["partc"],
        request=times["request"],
        torch=times.get("torch") or str(torch),
        deviation=deviation(partc.requests.run(), expected),
        busy_cores=count_busy_cores(partc),
        disturbance=disturbance,
    )


def _compile_by_torch(
    model: BenchmarkModel, threads: int, inputs: Arrays, expected: Arrays
) -> Engine | str:
    """The model compiled by torch.compile, or why it is not."""
    _PROGRESS.print(f"Compiling {model.name} with torch.compile for {_count(threads)}")
    from onnx_in_torch import OnnxModule
    from torch_compile import TorchCompile

    try:
        module = model.module() if model.module else OnnxModule(model.proto)
        compiled = TorchCompile(module, threads, inputs)
        found = compiled.run()
    except Exception as error:  # Dynamo, Inductor and the C++ compiler have each their own
        return str(error).strip().partition("\n")[0]
    found = dict(zip(expected, found, strict=True))
    if not deviation(found, expected) <= TOLERANCE:
        return f"deviates by {deviation(found, expected):.1e}"
    return compiled


def _comparison_table(comparisons: Sequence[Comparison]) -> Group:
    threads = comparisons[0].threads
    _PROGRESS.print(f"Measuring the peak of {_count(threads)}")
    peak_gflops = measure_peak_gflops(threads)
    title = (
        f"{_count(threads)}, multiply-add peak {peak_gflops:.0f} GFLOP/s; "
        f"ms: least ({PERCENTILE}th percentile); ratio: ONNX Runtime / partc"
    )
    table = _table(
        "model",
        "GFLOP",
        "ONNX Runtime ms",
        "torch.compile ms",
        "partc ms",
        "ratio",
        "GFLOP/s",
        "of peak",
        "request ms",
        "deviation",
    )
    for each in comparisons:
        table.add_row(
            each.model.name,
            f"{each.gflop:.3f}",
            str(each.onnx_runtime),
            "-" if isinstance(each.torch, str) else str(each.torch),
            str(each.partc),
            f"{each.ratio:.2f}",
            f"{each.gflops:.1f}",
            f"{each.gflops / peak_gflops:.0%}",
            str(each.request),
            f"{each.deviation:.1e}",
        )
    disturbances = _disturbances({each.model.name: each.disturbance for each in comparisons})
    notes = (_judgements(comparisons), _reasons(comparisons), disturbances)
    return _section(title, table, *(line for lines in notes for line in lines))


def _judgements(comparisons: Sequence[Comparison]) -> list[str]:
    """The mean and the least of the ratios, and what they should be."""
    threads = comparisons[0].threads
    mean_bar, least_bar = _BARS.get(threads, (None, None))
    least = min(comparisons, key=lambda each: each.ratio)
    ratios = [each.ratio for each in comparisons]
    others = [each.ratio for each in comparisons if not each.model.has_lrn]
    lines = [_judge("geometric mean", geometric_mean(ratios), mean_bar)]
    if others:
        bar = _BAR_WITHOUT_LRN.get(threads)
        lines.append(_judge("geometric mean without LRN", geometric_mean(others), bar))
    return [*lines, _judge(f"least, {least.model.name},", least.ratio, least_bar)]


def _judge(what: str, ratio: float, bar: float | None) -> str:
    if bar is None:
        return f"{what} {ratio:.2f}"
    return f"{what} {ratio:.2f}: {'reaches' if ratio >= bar else 'MISSES'} {bar:.2f}"


def _reasons(comparisons: Sequence[Comparison]) -> list[str]:
    """Why torch.compile has no times, for each reason."""
    missing: dict[str, list[str]] = {}
    for each in comparisons:
        if isinstance(each.torch, str):
            missing.setdefault(each.torch, []).append(each.model.name)
    return [f"torch.compile: {why}: {', '.join(names)}" for why, names in missing.items()]


def _disturbances(cores: Mapping[str, float]) -> list[str]:
    """What else ran beside each model, if it was enough to spoil the figures."""
    model = max(cores, key=lambda name: cores[name])
    if cores[model] < _QUIET_CORES:
        return []
    return [
        f"DISTURBED: other processes kept {cores[model]:.1f} cores busy "
        f"while {model} ran; run again on a quiet machine"
    ]


# Segments ----------------------------------------------------------------------------------------


def _segment_table(models: Sequence[BenchmarkModel], seconds: float) -> Group:
    title = f"Segments, 1 thread; ms: least ({PERCENTILE}th percentile); bar {_SEGMENT_BAR:.0%}"
    table = _table(
        "model",
        "segments",
        "one segment ms",
        "all segments ms",
        "difference",
    )
    disturbances: dict[str, float] = {}
    for model in models:
        _PROGRESS.print(f"Compiling {model.name} in segments")
        graph = _lower(model)
        whole = CompiledModel(graph, _native(1))
        split = CompiledModel(graph, _native(1), _even_cuts(graph))
        inputs = random_inputs(graph)
        engines = {"whole": Partc(whole, 1, inputs), "split": Partc(split, 1, inputs)}
        _PROGRESS.print(f"Timing {model.name} in segments")
        neighbours = Neighbours()
        times = alternate(engines, seconds)
        disturbances[model.name] = neighbours.count_cores()
        table.add_row(
            model.name,
            str(len(split.artifact.segments)),
            str(times["whole"]),
            str(times["split"]),
            f"{times['split'].least_ms / times['whole'].least_ms - 1:+.1%}",
        )
    return _section(title, table, *_disturbances(disturbances))


def _even_cuts(graph: LayerGraph) -> list[Cut]:
    """Cuts after every so many layers, whatever crosses them."""
    names = [layer.name for layer in graph.layers]
    starts = (len(names) * number // _SEGMENTS for number in range(1, _SEGMENTS))
    return [Cut(frozenset(names[start:])) for start in starts]


# Convolutions ------------------------------------------------------------------------------------


def _convolution_section() -> Group:
    _PROGRESS.print(f"Compiling and timing {len(RESNET50)} convolutions")
    models = compile_convolutions()
    neighbours = Neighbours()
    table = convolution_table(models)
    disturbance = neighbours.count_cores()
    title = (
        f"Convolutions of ResNet-50, {AVX2}, 1 thread; ms: {PERCENTILE}th percentile; "
        "peak: multiply-adds on registers alone, measured right after"
    )
    return _section(title, table, *_disturbances({"the convolutions": disturbance}))


# Compiling ---------------------------------------------------------------------------------------


def _compilation_table() -> Group:
    _PROGRESS.print(f"Compiling {_COMPILED} for a device and a server")
    table = _table("model", "s", "peak GB")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / f"{_COMPILED}.onnx"
        onnx.save(MODELS[_COMPILED].proto, file)
        command = [sys.executable, "-m", "partc", "compile", str(file), "--target", "x86-64"]
        command += ["--server", "native", "-o", str(Path(directory) / "bundle")]
        seconds, peak_nbytes = _run_measured(command)
    table.add_row(_COMPILED, f"{seconds:.1f}", f"{peak_nbytes / 1e9:.2f}")
    return _section(f"Compiling for x86-64 and native together; bar {_COMPILE_BAR}", table)


def _run_measured(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and peak memory of a process that must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


# -------------------------------------------------------------------------------------------------


def _profile_layers(model: BenchmarkModel, threads: int) -> Table:
    _PROGRESS.print(f"Compiling {model.name}")
    compiled = CompiledModel(_lower(model), _native(threads))
    _PROGRESS.print(f"Timing {model.name}")
    partc = Partc(compiled, threads, random_inputs(compiled.graph))
    kernels = profile(compiled, partc, threads)
    return profile_table(model.name, kernels, min(partc.time(_PROFILE_RUNS)))


def _lower(model: BenchmarkModel) -> LayerGraph:
    return lower(import_onnx(model.proto))


def _native(threads: int) -> Target:
    """This machine, for up to so many threads."""
    return msgspec.structs.replace(load_target("native"), threads=threads)


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _section(title: str, table: Table, *notes: str) -> Group:
    return Group(title, table, *notes, "")


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    return table


if __name__ == "__main__":
    main()
