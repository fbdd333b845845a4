"""What this machine could do at most: multiply-adds on registers, without a load or a store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tvm
from engines import time_runs
from tvm import te
from tvm.s_tir import Schedule

from partc.codegen.build import resolve_target
from partc.codegen.machine import describe_machine
from partc.runtime.executor import configure_workers
from partc.targets.target import load_target

_ACCUMULATORS = 14  # more than latency times units of any CPU here, and fit 16 registers
_STEPS = 200_000
_RUNS = 50


def measure_peak_gflops(threads: int, target_name: str = "native") -> float:
    """Multiply-adds of so many threads, in 10^9 floating-point operations a second, at best."""
    target = load_target(target_name)
    resolved = resolve_target(target)
    lanes = describe_machine(resolved, target).lanes
    library = tvm.compile(_multiply_adds(threads, lanes), target=resolved)
    numbers = tvm.runtime.tensor(np.full(lanes, 0.5, np.float32))
    sums = tvm.runtime.tensor(np.empty((threads, _ACCUMULATORS, lanes), np.float32))
    with ThreadPoolExecutor(1, initializer=configure_workers, initargs=(threads,)) as pool:
        seconds = pool.submit(time_runs, lambda: library["main"](numbers, sums), _RUNS).result()
    return 2 * threads * _ACCUMULATORS * lanes * _STEPS / min(seconds) / 1e9


def _multiply_adds(threads: int, lanes: int) -> tvm.IRModule:
    """sum = sum * x + x over and over, for as many sums as keep the units busy.

    Every step depends on the one before, so that no compiler can leave one out.
    """
    numbers = te.placeholder((lanes,), name="numbers")
    step = te.reduce_axis((0, _STEPS), "step")
    repeat: Any = te.comm_reducer(
        lambda total, number: total * number + number,
        lambda dtype: tvm.tirx.const(0, dtype),
    )
    sums = te.compute(
        (threads, _ACCUMULATORS, lanes),
        lambda _thread, _index, lane: repeat(numbers[lane], axis=step),
        name="sums",
    )
    schedule: Any = Schedule(te.create_prim_func([numbers, sums]))
    block = schedule.get_sblock("sums")
    local = schedule.cache_write(block, 0, "local")
    thread, index, lane, _ = schedule.get_loops(block)
    schedule.parallel(thread)
    schedule.reverse_compute_at(local, thread)
    thread, index, lane, reduced = schedule.get_loops(block)
    schedule.reorder(reduced, index, lane)
    schedule.vectorize(lane)
    schedule.unroll(index)
    start = schedule.decompose_reduction(block, reduced)
    for each in (start, local):
        *_, index, lane = schedule.get_loops(each)
        schedule.vectorize(lane)
        schedule.unroll(index)
    return schedule.mod
