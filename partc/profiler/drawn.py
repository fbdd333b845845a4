# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# TVM ships no types.
"""Networks that were drawn: as layer graphs, and compiled to be timed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context

import numpy as np

from partc.graph import LayerGraph, Tensor
from partc.passes.build import build_graph
from partc.passes.canonicalize import canonicalize
from partc.passes.expressions import tensor_type
from partc.profiler.networks import draw_network
from partc.profiler.stopwatch import Array, TimedNetwork, compile_timed
from partc.targets.features import Workload, describe
from partc.targets.target import Target


@dataclass(frozen=True)
class DrawnNetwork:
    """A network, compiled, and what its layers are.

    Args:
        number: What it was drawn from.
        network: Its library.
        inputs: Arrays by name.
        workloads: Its layers, in the order in which they run.
    """

    number: int
    network: TimedNetwork
    inputs: dict[str, Array]
    workloads: list[Workload]


Compile = Callable[[Sequence[int]], Iterator[DrawnNetwork]]


@contextmanager
def compilers(target: Target) -> Generator[Compile]:
    """Processes that draw networks and compile them for a target, one for each usable CPU.

    Yields:
        Compiles networks by their numbers, and gives them in this order.
    """
    before = set(active_children())
    # A fork of a process that has threads, as TVM's have, may find locks held for ever.
    cpus = len(os.sched_getaffinity(0))
    pool = ProcessPoolExecutor(cpus, get_context("spawn"), _leave_interruptions)
    try:
        yield partial(pool.map, partial(compile_drawn, target=target))
    except BaseException:
        for process in set(active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interruptions() -> None:
    """Ctrl-C in a terminal reaches every process; the one that started this one deals with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def compile_drawn(number: int, target: Target) -> DrawnNetwork:
    """Draw a network and compile it."""
    graph = draw_graph(number)
    network = compile_timed(graph, target)
    return DrawnNetwork(number, network, random_inputs(graph), describe(graph.layers))


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


def random_inputs(graph: LayerGraph) -> dict[str, Array]:
    """Normal numbers for every input, or small integers."""
    random = np.random.default_rng(0)
    return {
        tensor.name: random.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        if np.issubdtype(tensor.type.dtype, np.floating)
        else random.integers(0, 2, tensor.type.shape).astype(tensor.type.dtype)
        for tensor in graph.inputs
    }
