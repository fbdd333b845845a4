from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from profiled import convolutions

from partc.compiler import lower_model, plan_model
from partc.errors import PartcError
from partc.goal import make_goal
from partc.graph import LayerGraph
from partc.profiler import own
from partc.profiler.own import OwnLayers
from partc.targets.target import load_target


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "partc" / "layers"


@pytest.fixture(scope="module")
def graph(tiny_model: Path) -> LayerGraph:
    return lower_model(tiny_model)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers were timed, each time."""
    counts: list[int] = []

    class Board:
        processor = "a processor"

        def load(self, network: Any, _: Any) -> Any:
            counts.append(len(network))
            return network

    def settle(networks: Any, _runs: int) -> Any:
        times_ms = [1.0 + np.arange(len(network)) for network in networks]
        return [np.array([low, 1.5 * low]) for low in times_ms]

    def compile_timed(graph: LayerGraph, _target: Any) -> Any:
        return graph.layers

    monkeypatch.setattr(own, "connect", lambda *_: Board())
    monkeypatch.setattr(own, "settle", settle)
    monkeypatch.setattr(own, "compile_timed", compile_timed)
    return counts


def predict(graph: LayerGraph, target: str = "native") -> list[float]:
    found = OwnLayers(graph, load_target(target)).predict(graph.layers)
    return [prediction.latency_ms for prediction in found]


def test_layers_are_timed_once_and_then_remembered(graph: LayerGraph, measured: list[int]) -> None:
    first = predict(graph)
    assert first == [1.0 + n for n in range(len(graph.layers))]
    assert predict(graph) == first
    assert measured == [len(graph.layers)]


def test_another_target_is_measured_for_itself(graph: LayerGraph, measured: list[int]) -> None:
    predict(graph, "native")
    predict(graph, "x86-64")
    assert len(measured) == 2


def test_equal_layers_take_what_they_took_on_average(measured: list[int]) -> None:
    """They are one kernel, and cannot be told apart where another model has it."""
    graph = convolutions(8, 8, 16, 16, 16)
    assert predict(graph) == predict(graph) == [1.5, 1.5, 3, 4.5, 4.5, 6]
    assert measured == [6]


def test_what_was_measured_on_a_board_is_not_remembered(
    graph: LayerGraph, measured: list[int], cache: Path
) -> None:
    """Its address may be another board's the next time, and is not this machine."""
    board = OwnLayers(graph, load_target("native"), "board:9090")
    first = board.predict(graph.layers)
    assert [each.latency_ms for each in first] == [1.0 + n for n in range(len(graph.layers))]
    assert board.predict(graph.layers) == first
    assert len(measured) == 2
    assert not cache.exists()


@pytest.mark.parametrize("damage", [b"", b"[1, 2]", b'{"a": "b"}'])
def test_a_damaged_cache_is_measured_anew(
    graph: LayerGraph, measured: list[int], cache: Path, damage: bytes
) -> None:
    first = predict(graph)
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    assert predict(graph) == first
    assert len(measured) == 2
    assert len(msgspec.json.decode(file.read_bytes())) == len(graph.layers)


def test_where_nothing_can_be_written_it_is_measured_each_time(
    graph: LayerGraph, measured: list[int], cache: Path
) -> None:
    cache.parents[1].write_text("a file where a directory should be")
    assert predict(graph) == predict(graph)
    assert len(measured) == 2


def test_what_does_not_run_here_is_refused_with_what_to_do(graph: LayerGraph) -> None:
    message = "code for raspberry-pi-4 does not run here to be measured; start `python -m tvm.exec"
    with pytest.raises(PartcError, match=message):
        OwnLayers(graph, load_target("raspberry-pi-4"))


def test_an_address_without_measuring_is_refused() -> None:
    with pytest.raises(PartcError, match="--rpc says where to measure, so it needs --measure"):
        make_goal("native", rpc="board:9090")


def test_a_plan_rests_on_what_was_measured(tiny_model: Path) -> None:
    told: list[str] = []
    goal = make_goal("native", "native", measure=True)
    (decision,) = plan_model(tiny_model, goal, progress=told.append)
    assert all(0 < layer.annotated_cost.device_ms < 10 for layer in decision.graph.layers)
    assert [line for line in told if line.startswith("Measuring")] == [
        f"Measuring {len(decision.graph.layers)} layers on native"
    ] * 2
