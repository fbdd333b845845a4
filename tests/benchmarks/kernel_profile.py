"""Where the time of a compiled model goes: every kernel, the dearest first."""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from engines import CompiledModel, Partc
from measuring import PERCENTILE
from rich.table import Table
from tvm import relax

from partc.runtime.executor import configure_workers

_BUILTIN = "vm.builtin."
_RUNS = 30


@dataclass
class KernelCalls:
    """One kernel on tensors of the same types: seconds of each call, by run."""

    name: str
    types: str
    seconds: list[list[float]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Calls in one run."""
        return len(self.seconds[-1])

    @property
    def latency_s(self) -> float:
        """What all calls of one run take."""
        return float(np.percentile(self.seconds, PERCENTILE, axis=0).sum())


class _Stopwatch:
    """What the virtual machine calls before and after every kernel."""

    def __init__(self) -> None:
        self.kernels: dict[tuple[str, str], KernelCalls] = {}
        self._run: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._started = 0.0

    def __call__(self, _function: Any, name: str, before: bool, _result: Any, *args: Any) -> None:
        if before:
            self._started = time.perf_counter()
            return
        elapsed = time.perf_counter() - self._started
        types = "" if name.startswith(_BUILTIN) else _describe(args)
        self._run[name, types].append(elapsed)

    def end_run(self) -> None:
        for key, seconds in self._run.items():
            self.kernels.setdefault(key, KernelCalls(*key)).seconds.append(seconds)
        self._run.clear()


def profile(compiled: CompiledModel, partc: Partc, threads: int) -> list[KernelCalls]:
    """Time every kernel of a model, on the tensors that the runtime holds, the dearest first."""
    with ThreadPoolExecutor(1, initializer=configure_workers, initargs=(threads,)) as pool:
        return pool.submit(_profile, compiled, partc).result()


def _profile(compiled: CompiledModel, partc: Partc) -> list[KernelCalls]:
    library = tvm.runtime.load_module(str(compiled.path / compiled.artifact.library))
    machine = relax.VirtualMachine(library, tvm.cpu())
    stopwatch = _Stopwatch()

    def run() -> None:
        tensors = {**partc.weights, **partc.inputs}
        for segment in partc.calls:
            names = (*segment.inputs, *segment.params)
            made = machine[segment.name](*(tensors[name] for name in names))
            tensors.update(zip(segment.outputs, made, strict=True))

    run()
    machine.set_instrument(stopwatch)
    for _ in range(_RUNS):
        run()
        stopwatch.end_run()
    return sorted(stopwatch.kernels.values(), key=lambda kernel: -kernel.latency_s)


def profile_table(model: str, kernels: list[KernelCalls], latency_s: float) -> Table:
    """Kernels with their shares, and what is left between them."""
    total = sum(kernel.latency_s for kernel in kernels)
    table = Table(title=f"{model}: kernels, {PERCENTILE}th percentile of {_RUNS} runs")
    for column in ("ms", "share", "calls"):
        table.add_column(column, justify="right")
    table.add_column("kernel", overflow="fold")
    table.add_column("its tensors", overflow="fold")
    for kernel in kernels:
        cells = (f"{kernel.latency_s * 1e3:.3f}", f"{kernel.latency_s / total:.1%}")
        table.add_row(*cells, str(kernel.count), kernel.name, kernel.types)
    table.add_section()
    table.add_row(f"{total * 1e3:.3f}", "", str(sum(k.count for k in kernels)), "all kernels")
    table.add_row(f"{latency_s * 1e3:.3f}", "", "", "the model, not instrumented")
    return table


def _describe(args: tuple[Any, ...]) -> str:
    shapes = ["x".join(map(str, arg.shape)) for arg in args if hasattr(arg, "shape")]
    return ", ".join(shape or "1" for shape in shapes)
