from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from profiled import Array, convolutions

from partc.errors import PartcError
from partc.graph import LayerGraph
from partc.profiler import stopwatch
from partc.profiler.drawn import draw_graph, random_inputs
from partc.profiler.stopwatch import (
    Board,
    LoadedNetwork,
    TimedNetwork,
    compile_timed,
    connect,
    settle,
)
from partc.targets.target import load_target

RUNS = 5
WAIT_S = 60
GRAPHS: Mapping[str, LayerGraph] = {
    "even": convolutions(16, 16),
    "first": convolutions(96, 8, size=40),
    "last": convolutions(8, 8, 8, 160, size=40),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, TimedNetwork]:
    return {name: compile_timed(graph, load_target("native")) for name, graph in GRAPHS.items()}


@pytest.fixture(scope="module")
def rpc_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A server process on this machine, as one would start it on a board."""
    port = free_port()
    log = tmp_path_factory.mktemp("rpc") / "log"
    ports = ["--port", str(port), "--port-end", str(port + 1)]
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", *ports]
    with log.open("wb") as file:
        # Its session has a process for each client, which end with it.
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        yield wait_for_server(f"127.0.0.1:{port}", server, log)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for_server(address: str, server: subprocess.Popen[bytes], log: Path) -> Board:
    deadline_s = time.monotonic() + WAIT_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(PartcError):
            return connect(address, threads=1)
        time.sleep(0.1)
    pytest.fail(f"the RPC server did not start:\n{log.read_text()}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def time_layers(board: Board, network: TimedNetwork, graph: LayerGraph) -> Array:
    times_ms = board.load(network, random_inputs(graph)).time_layers(RUNS)
    assert times_ms.shape == (RUNS, len(graph.layers))
    assert (times_ms >= 0).all()
    return np.min(times_ms, axis=0)


def check_that_large_layers_take_longer(board: Board, networks: dict[str, TimedNetwork]) -> None:
    """Several networks, and one of them twice: a library taken for another has other times."""
    for name in (*GRAPHS, *GRAPHS):
        graph = GRAPHS[name]
        times_ms = time_layers(board, networks[name], graph)
        flops = [layer.flops for layer in graph.layers]
        if max(flops) > 5 * sorted(flops)[-2]:
            assert np.argmax(times_ms) == np.argmax(flops)
            assert times_ms.max() > 2 * np.sort(times_ms)[-2]


def test_times_of_layers_here(networks: dict[str, TimedNetwork]) -> None:
    check_that_large_layers_take_longer(connect(None, threads=1), networks)


def test_times_of_layers_on_a_board(rpc_board: Board, networks: dict[str, TimedNetwork]) -> None:
    check_that_large_layers_take_longer(rpc_board, networks)


def check_whole_runs(board: Board, network: TimedNetwork) -> None:
    """They take at least what their layers do, and not the pauses or a round trip."""
    loaded = board.load(network, random_inputs(GRAPHS["last"]))
    layers_ms = loaded.time_layers(RUNS).sum(axis=1).min()
    started_s = time.monotonic()
    whole_ms = loaded.time_whole(RUNS, pause_s=0.1)
    assert time.monotonic() - started_s > RUNS * 0.1
    assert whole_ms.shape == (RUNS,)
    assert 0.8 * layers_ms < np.median(whole_ms) < layers_ms + 50


def test_whole_runs_here(networks: dict[str, TimedNetwork]) -> None:
    check_whole_runs(connect(None, threads=1), networks["last"])


def test_whole_runs_on_a_board(rpc_board: Board, networks: dict[str, TimedNetwork]) -> None:
    check_whole_runs(rpc_board, networks["last"])


class FarMachine:
    """Computes two layers in 20 ms; a call to it takes 50 ms, and reading its clock 10."""

    def invoke_stateful(self, name: str) -> None:
        assert name == "timed"
        time.sleep(0.050 + 0.020 + 4 * 0.010)

    def get_outputs(self, name: str) -> list[Any]:
        assert name == "timed"
        device = SimpleNamespace(sync=lambda: time.sleep(0.050))
        stamps = [np.array([1, 1e6 * elapsed_ms], np.int64) for elapsed_ms in (0, 10, 30, 50)]
        return [SimpleNamespace(device=device, numpy=lambda stamp=stamp: stamp) for stamp in stamps]


def test_the_clock_and_the_way_to_a_board_and_back_are_taken_off() -> None:
    machine: Any = FarMachine()
    network = LoadedNetwork(machine, ThreadPoolExecutor(1), layers=2, outputs=0)
    assert np.median(network.time_whole(RUNS, pause_s=0.0)) == pytest.approx(20, abs=5)


def test_a_board_and_this_machine_in_turn(
    rpc_board: Board, networks: dict[str, TimedNetwork]
) -> None:
    here, here_again = connect(None, threads=1), connect(None, threads=1)
    for board in (here, rpc_board, here_again, here):
        time_layers(board, networks["last"], GRAPHS["last"])


def test_boards_say_what_they_are(rpc_board: Board) -> None:
    assert rpc_board.processor == "a board over RPC"
    here = connect(None, threads=1).processor
    assert here
    assert "\n" not in here


def test_loading_libraries_is_not_reported(
    networks: dict[str, TimedNetwork], capfd: pytest.CaptureFixture[str]
) -> None:
    time_layers(connect(None, threads=1), networks["even"], GRAPHS["even"])
    assert capfd.readouterr() == ("", "")


def test_a_network_of_several_inputs_and_outputs() -> None:
    graph = draw_graph(11)
    assert len(graph.inputs) > 1
    assert len(graph.outputs) > 1
    network = compile_timed(graph, load_target("native"))
    assert network.layers == len(graph.layers)
    assert network.outputs <= len(graph.outputs)
    time_layers(connect(None, threads=1), network, graph)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:{port}",
        "nowhere.invalid:9090",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:port",
        ":{port}",
        "",
    ],
)
def test_where_no_server_answers(address: str) -> None:
    address = address.format(port=free_port())
    started_s = time.monotonic()
    with pytest.raises(PartcError) as caught:
        connect(address, threads=1)
    assert time.monotonic() - started_s < WAIT_S
    assert str(caught.value) == (
        f"no TVM RPC server answers at {address!r}; give HOST:PORT, and start one there with "
        "`python -m tvm.exec.rpc_server --host 0.0.0.0 --port 9090`"
    )


def test_a_gpu_is_refused() -> None:
    with pytest.raises(PartcError, match=r"^only CPUs can be profiled yet, and .* on a GPU$"):
        compile_timed(GRAPHS["even"], load_target("jetson-orin-nano"))


def test_as_many_threads_compute_as_were_asked_for(networks: dict[str, TimedNetwork]) -> None:
    tasks = Path("/proc/self/task")

    def count_new(threads: int) -> int:
        before = set(tasks.iterdir())
        board = connect(None, threads)
        time_layers(board, networks["first"], GRAPHS["first"])
        return len({*tasks.iterdir()} - before)

    assert [count_new(threads) for threads in (1, 3, 1, 2)] == [1, 3, 1, 2]


class Turns:
    """A loaded network whose runs are known."""

    def __init__(self, name: str, order: list[str], *turns: list[list[float]]) -> None:
        self._name, self._order, self._turns = name, order, iter(turns)

    def time_layers(self, runs: int) -> Array:
        assert runs == RUNS
        self._order.append(self._name)
        return np.array(next(self._turns))


def test_of_each_layer_its_fastest_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both percentiles are of that turn, though in another the layer was steadier."""
    monkeypatch.setattr(stopwatch, "_PAUSE_S", 0)
    order: list[str] = []
    steady = [[2.0, 3.0]] * RUNS
    noisy = [[n / 2, 10 + n] for n in range(1, 7)]
    networks: Any = [
        Turns("both", order, steady, noisy, steady),
        Turns("alone", order, [[3.0]], [[1.0]], [[2.0]]),
    ]
    both, alone = settle(networks, RUNS)
    assert order == ["both", "alone"] * 3
    assert both.tolist() == [[1.0, 3.0], [2.5, 3.0]]
    assert alone.tolist() == [[1.0], [1.0]]
