# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportAttributeAccessIssue=false
# TVM ships no types.
"""Time every layer of a network where it runs: on this machine, or on a board over TVM's RPC."""

from __future__ import annotations

import logging
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import rpc
from tvm.runtime.vm import VirtualMachine

from partc.codegen.build import build_library, find_machine
from partc.codegen.lower import lower_segments
from partc.codegen.sequences import add_timed_sequence
from partc.errors import PartcError
from partc.graph import LayerGraph, Tensor
from partc.plan import Segment
from partc.runtime.executor import configure_workers
from partc.targets.target import Target

Array = NDArray[np.generic]

RUNS = 15
"""Of a network, one after the other."""

PASSES = 3
"""What disturbs a machine lasts for a second or for some: so all networks take several turns."""

_PAUSE_S = 0.3
_TURN_S = 0.3
_EMPTY_CALLS = 5
_ENTRY = "timed"
_LARGEST_CORES_FIRST = 1  # TVM's affinity mode


@dataclass(frozen=True)
class TimedNetwork:
    """A network as a library that reads the clock before and after each layer.

    Args:
        library: The shared library's bytes.
        inputs: The network's inputs.
        weights: What the function takes behind them, in order.
        layers: How many layers it runs.
        outputs: How many tensors it returns before the times.
    """

    library: bytes
    inputs: tuple[Tensor, ...]
    weights: tuple[Array, ...]
    layers: int
    outputs: int


def compile_timed(graph: LayerGraph, target: Target) -> TimedNetwork:
    """Compile a network layer by layer, as plans would that cut between all of them.

    Raises:
        PartcError: The target is a GPU, whose work a clock of the CPU does not see.
        TargetError: Nothing installed compiles for the target.
        CompilerError: TVM or the linker failed.
    """
    machine = find_machine(target)
    if machine is None:
        raise PartcError(f"only CPUs can be profiled yet, and {target.name} computes on a GPU")
    segments = [
        Segment(f"layer_{position}", (layer.name,), layer.inputs, layer.outputs)
        for position, layer in enumerate(graph.layers)
    ]
    lowered = lower_segments(graph, segments, machine)
    specs = [lowered.describe(segment) for segment in segments]
    returned = {tensor.name for tensor in graph.outputs}
    module, timed = add_timed_sequence(lowered.module, specs, returned, _ENTRY)
    with tempfile.TemporaryDirectory(prefix="partc-profile-") as directory:
        path = Path(directory) / "timed.so"
        build_library(module, target, path)
        library = path.read_bytes()
    by_name = {tensor.name: tensor for tensor in graph.inputs}
    return TimedNetwork(
        library,
        tuple(by_name[name] for name in timed.inputs),
        tuple(lowered.weights[name] for name in timed.params),
        len(graph.layers),
        len(timed.outputs),
    )


class Board:
    """A machine that runs timed networks.

    Args:
        session: A session with a TVM RPC server, or one with this process.
        thread: Calls the session; TVM keeps a pool of workers for each thread that calls it.
        processor: What the machine is; a board's cannot be asked for over TVM's RPC.
    """

    def __init__(self, session: Any, thread: ThreadPoolExecutor, processor: str) -> None:
        self.processor = processor
        self._session = session
        self._thread = thread

    def load(self, network: TimedNetwork, inputs: Mapping[str, Array]) -> LoadedNetwork:
        """Bring a network and its inputs to the machine."""
        return self._thread.submit(self._load, network, inputs).result()

    def _load(self, network: TimedNetwork, inputs: Mapping[str, Array]) -> LoadedNetwork:
        device = self._session.cpu(0)
        # A name of its own: to write where a library was loaded from would change code that runs.
        name = f"{uuid4().hex}.so"
        self._session.upload(bytearray(network.library), name)
        machine = VirtualMachine(self._session.load_module(name), device)
        arrays = [*(inputs[tensor.name] for tensor in network.inputs), *network.weights]
        tensors = [tvm.runtime.tensor(array, device) for array in arrays]
        machine.set_input(_ENTRY, *tensors)
        return LoadedNetwork(machine, self._thread, network.layers, network.outputs)


class LoadedNetwork:
    """A timed network where it runs.

    Args:
        machine: TVM's virtual machine, with its inputs set.
        thread: Calls the machine.
        layers: How many layers the network has.
        outputs: How many tensors it returns before the times.
    """

    def __init__(
        self, machine: VirtualMachine, thread: ThreadPoolExecutor, layers: int, outputs: int
    ) -> None:
        self._machine = machine
        self._thread = thread
        self._layers = layers
        self._outputs = outputs

    def time_layers(self, runs: int) -> NDArray[np.float64]:
        """Milliseconds of each layer in each run, of shape (runs, layers), without the clock's.

        Of a slow network there are fewer runs: none begins once 0.3 s are over.
        """
        return self._thread.submit(self._time_layers, runs).result()

    def _time_layers(self, runs: int) -> NDArray[np.float64]:
        self._run()
        started = time.monotonic()
        measured = [self._run()]
        while len(measured) < runs and time.monotonic() - started < _TURN_S:
            measured.append(self._run())
        spans = np.array(measured)
        reading_ms = np.median(spans[:, 0])
        return np.maximum(spans[:, 1:] - reading_ms, 0.0)

    def time_whole(self, runs: int, pause_s: float) -> NDArray[np.float64]:
        """Milliseconds of whole runs, each after a pause, of shape (runs,).

        Timed is the call from another thread, as a request makes it. The clock's readings and the
        way to a board and back are taken off.
        """
        measuring_ms = self._thread.submit(self._time_measuring).result()
        calls_ms = [self._time_call(pause_s) for _ in range(1 + runs)][1:]
        return np.maximum(np.array(calls_ms) - measuring_ms, 0.0)

    def _time_call(self, pause_s: float) -> float:
        time.sleep(pause_s)
        started = time.perf_counter()
        self._thread.submit(self._machine.invoke_stateful, _ENTRY).result()
        return (time.perf_counter() - started) * 1e3

    def _time_measuring(self) -> float:
        """Milliseconds that all readings of the clock and an empty call to the machine take."""
        reading_ms = np.median([self._run()[0] for _ in range(_EMPTY_CALLS)])
        made: Any = self._machine.get_outputs(_ENTRY)
        stamps = [time.perf_counter()]
        for _ in range(_EMPTY_CALLS):
            made[0].device.sync()
            stamps.append(time.perf_counter())
        return float((self._layers + 2) * reading_ms + np.median(np.diff(stamps)) * 1e3)

    def _run(self) -> NDArray[np.float64]:
        """Milliseconds between readings of the clock, which are two more than layers."""
        self._machine.invoke_stateful(_ENTRY)
        made: Any = self._machine.get_outputs(_ENTRY)
        stamps = [made[self._outputs + position] for position in range(self._layers + 2)]
        seconds, nanoseconds = np.array([stamp.numpy() for stamp in stamps]).T
        return (np.diff(seconds) * 1e9 + np.diff(nanoseconds)) / 1e6


def connect(address: str | None, threads: int) -> Board:
    """A board at ``HOST:PORT``, or this machine.

    Raises:
        PartcError: No TVM RPC server answers there.
    """
    if address is None:
        session = rpc.LocalSession()
        logging.getLogger("RPCServer").setLevel(logging.WARNING)  # else it tells of each library
        thread = ThreadPoolExecutor(1, "board", configure_workers, (threads,))
        return Board(session, thread, _processor())
    host, _, port = address.rpartition(":")
    try:
        session = rpc.connect(host, int(port))
        session.get_function("runtime.config_threadpool")(_LARGEST_CORES_FIRST, threads)
        return Board(session, ThreadPoolExecutor(1, "board"), "a board over RPC")
    except (RuntimeError, ValueError, OSError) as error:
        raise PartcError(
            f"no TVM RPC server answers at {address!r}; give HOST:PORT, and start one there with "
            "`python -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090`"
        ) from error


def _processor() -> str:
    """The name that Linux gives the processor, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def settle(networks: Sequence[LoadedNetwork], runs: int = RUNS) -> list[NDArray[np.float64]]:
    """Time networks in turn, and again, so that each has been timed on a machine left alone.

    Returns:
        For each network, the least and the largest milliseconds to expect of each layer, of shape
        (2, layers): the 20th and the 80th percentile of the runs, in the pass in which the layer's
        20th percentile was least.
    """
    passes = [_take_turns(networks, runs) for _ in range(PASSES)]
    return [_fastest(np.array(percentiles)) for percentiles in zip(*passes, strict=True)]


def _fastest(percentiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each layer the pass with the least first one; of (passes, 2, layers) to (2, layers)."""
    best = percentiles[:, :1].argmin(axis=0, keepdims=True)
    return np.take_along_axis(percentiles, best, axis=0)[0]


def _take_turns(networks: Sequence[LoadedNetwork], runs: int) -> list[NDArray[np.float64]]:
    time.sleep(_PAUSE_S)
    return [np.percentile(network.time_layers(runs), (20, 80), axis=0) for network in networks]
