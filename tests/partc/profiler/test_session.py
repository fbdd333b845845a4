from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from profiled import FakeBoard, compile_here, formula_ms, small_network

from partc.errors import PartcError
from partc.graph import LayerGraph
from partc.profiler import session, stopwatch
from partc.profiler.drawn import draw_graph, random_inputs
from partc.profiler.session import Step, fit, profile_machine
from partc.targets.features import describe
from partc.targets.predictor import predictor_for
from partc.targets.profile import Profile, load_profile
from partc.targets.target import load_target

TARGET = load_target("native")
LAYERS = 3
"""Of a small network."""


ROUND = session._ROUND
FIRST = session._FIRST_ROUNDS * ROUND


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    """A second passes with each network that it measures, and nothing is compiled."""
    board = FakeBoard()
    clock = SimpleNamespace(monotonic=lambda: float(len(board.measured)))
    monkeypatch.setattr(session, "time", clock)
    monkeypatch.setattr(session, "compilers", compile_here)
    monkeypatch.setattr(session, "draw_graph", small_network)
    monkeypatch.setattr(stopwatch, "_PAUSE_S", 0)
    return board


def ignore(step: Step) -> None:
    """What most tests do with a step."""


def profile(
    board: Any, path: Path, rounds: float, report: Callable[[Step], None] = ignore
) -> Profile:
    """Measure so many rounds of networks, with the reference in each."""

    def report_steps(told: Step | str) -> None:
        if isinstance(told, Step):
            report(told)

    return profile_machine(TARGET, board, path, rounds * (1 + ROUND), report_steps)


def networks_of(profile: Profile) -> list[int]:
    return list(dict.fromkeys(sample.network for sample in profile.samples))


def test_a_profile_is_what_the_board_takes(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    made = profile(board, path, 1)
    assert load_profile(path) == made
    assert list(tmp_path.iterdir()) == [path]
    assert (made.target, made.threads, made.processor) == ("native", 1, "an abacus")
    assert networks_of(made) == list(range(1, 1 + ROUND))
    assert len(made.samples) == ROUND * LAYERS
    layers = [layer for number in networks_of(made) for layer in small_network(number).layers]
    for sample, layer in zip(made.samples, layers, strict=True):
        assert sample.workload.kind == layer.kind
        assert sample.latency_ms == pytest.approx(formula_ms(layer), rel=0.011)
        assert 0 <= sample.spread < 0.011


def test_layers_are_predicted_from_it(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    made = profile(board, path, 2)
    assert made.fits.keys() == fit(made).fits.keys() != set()
    graph = small_network(1000)
    predictor = predictor_for(replace(TARGET, profile=str(path)))
    for layer, prediction in zip(graph.layers, predictor.predict(graph.layers), strict=True):
        assert prediction
        assert prediction.latency_ms == pytest.approx(formula_ms(layer), rel=0.1)


def test_every_round_is_written_and_every_network_reported(
    board: FakeBoard, tmp_path: Path
) -> None:
    path = tmp_path / "x.profile.json"
    steps: list[Step] = []

    def report(step: Step) -> None:
        steps.append(step)
        if step.networks > ROUND:
            assert networks_of(load_profile(path)) == list(range(1, 1 + ROUND))

    profile(board, path, 2, report=report)
    assert steps == [
        Step(n, n * LAYERS, spent_s, 2.0 * (1 + ROUND))
        for n in range(1, 1 + 2 * ROUND)
        for spent_s in [0.0 if n <= ROUND else 1.0 + ROUND]
    ]


def test_what_else_takes_time_is_told(board: FakeBoard, tmp_path: Path) -> None:
    told: list[str] = []

    def report(step: Step | str) -> None:
        told.append(step if isinstance(step, str) else "Step")

    machine: Any = board
    profile_machine(TARGET, machine, tmp_path / "x.profile.json", 2.0 * (1 + ROUND), report)
    assert told == [*["Step"] * ROUND, "Measuring"] * 2 + ["Fitting"]


def test_a_round_is_measured_however_small_the_budget(board: FakeBoard, tmp_path: Path) -> None:
    assert len(profile(board, tmp_path / "x.profile.json", 0).samples) == ROUND * LAYERS


def test_no_time_is_left_and_nothing_is_measured(board: FakeBoard, tmp_path: Path) -> None:
    first = profile(board, tmp_path / "x.profile.json", 1)
    assert profile(board, tmp_path / "x.profile.json", 0) == first


def test_another_run_goes_on(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    first = profile(board, path, 1)
    board.measured.clear()
    second = profile(board, path, 1)
    assert second.samples[: len(first.samples)] == first.samples
    assert networks_of(second) == list(range(1, 1 + 2 * ROUND))
    assert len(board.measured) == 1 + ROUND


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"tvm": {"kind": "llvm", "mcpu": "x86-64"}},
            "tvm is {'kind': 'llvm', 'mcpu': 'x86-64'} there and {'kind': 'llvm', 'mcpu': 'native'}"
            " now",
        ),
        ({"threads": 4}, "threads is 4 there and 1 now"),
        ({"processor": "a toaster"}, "processor is 'a toaster' there and 'an abacus' now"),
    ],
)
def test_a_profile_of_something_else_is_left_alone(
    board: FakeBoard, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.profile.json"
    session.write_profile(replace(profile(board, path, 1), **other), path)
    before = path.read_bytes()
    board.measured.clear()
    with pytest.raises(PartcError) as caught:
        profile(board, path, 1)
    assert str(caught.value) == (
        f"{path} is a profile of something else: {message}; "
        "give another output, or remove it to begin anew"
    )
    assert (path.read_bytes(), board.measured) == (before, [])


def test_all_that_differs_is_named(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    session.write_profile(replace(profile(board, path, 1), processor="a", threads=2), path)
    with pytest.raises(PartcError, match=r"threads is 2 there and 1 now; processor is .*; give"):
        profile(board, path, 1)


def test_a_target_of_another_name_is_the_same_machine(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    session.write_profile(replace(profile(board, path, 1), target="another"), path)
    assert networks_of(profile(board, path, 1)) == list(range(1, 1 + 2 * ROUND))


def test_what_is_no_profile_is_left_alone(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    path.write_text("{}")
    with pytest.raises(PartcError, match="is no profile"):
        profile(board, path, 1)
    assert path.read_text() == "{}"


def test_where_nothing_can_be_written(board: FakeBoard, tmp_path: Path) -> None:
    with pytest.raises(PartcError, match=r"the profile .*x\.json cannot be written: No such file"):
        profile(board, tmp_path / "missing" / "x.json", 1)


def test_an_interruption_keeps_what_was_measured(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"

    def press(step: Step) -> None:
        if step.networks > ROUND:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)

    with pytest.raises(KeyboardInterrupt):
        profile(board, path, 5, report=press)
    kept = load_profile(path)
    assert networks_of(kept) == list(range(1, 1 + ROUND))
    board.measured.clear()
    after = profile(board, path, 1)
    assert networks_of(after) == list(range(1, 1 + 2 * ROUND))
    assert after.samples[: len(kept.samples)] == kept.samples


def test_after_the_first_networks_those_are_measured_that_are_in_doubt(
    board: FakeBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubted: list[int] = []

    def doubt(graph: LayerGraph, regression: object) -> float:
        doubted.append(int(graph.name))
        return float(doubted[-1] % 3 == 0)

    def numbered(number: int) -> LayerGraph:
        return dataclasses.replace(small_network(number), name=str(number))

    monkeypatch.setattr(session, "draw_graph", numbered)
    monkeypatch.setattr(session, "_doubt", doubt)
    measured = networks_of(profile(board, tmp_path / "x.profile.json", 5))
    first, chosen = measured[:FIRST], measured[FIRST:]
    assert first == list(range(1, 1 + FIRST))
    assert len(doubted) > len(chosen)
    assert set(chosen) < set(doubted)
    assert all(number % 3 == 0 for number in chosen)
    assert not set(first) & set(doubted)


def test_another_run_chooses_as_soon_as_the_first_networks_are_measured(
    board: FakeBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.profile.json"
    first = profile(board, path, 1)
    few = tuple(sample for sample in first.samples if sample.network <= 5)
    session.write_profile(replace(first, samples=few), path)
    monkeypatch.setattr(session, "_doubt", lambda *_: 1.0)
    chosen: list[int] = []
    monkeypatch.setattr(session, "draw_graph", lambda n: chosen.append(n) or small_network(n))
    made = profile(board, path, 2)
    assert networks_of(made)[:FIRST] == list(range(1, 1 + FIRST))
    assert chosen[0] == 1 + FIRST


def test_doubt_is_about_layers_unlike_those_that_were_measured(
    board: FakeBoard, tmp_path: Path
) -> None:
    regression = fit(profile(board, tmp_path / "x.profile.json", 2))
    known, stranger = small_network(3), draw_graph(3)
    assert session._doubt(known, regression) < session._doubt(stranger, regression)


@pytest.mark.parametrize(
    ("slower", "drift"),
    [
        ([1.0, 1.0, 1.0], 0),
        ([1.0, 1.5, 1.5], 0.5),
        pytest.param([1.5, 1.0, 1.0], 0, id="the first round is measured again"),
    ],
)
def test_drift_is_how_much_the_reference_changed_where_it_counts(
    board: FakeBoard, tmp_path: Path, slower: Sequence[float], drift: float
) -> None:
    def report(step: Step) -> None:
        board.slower = slower[(step.networks - 1) // ROUND]

    made = profile(board, tmp_path / "x.profile.json", 3, report=report)
    assert made.drift == pytest.approx(drift, abs=0.02)


def test_drift_is_of_all_runs(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"
    first = profile(board, path, 1)
    board.slower = 2.0
    second = profile(board, path, 1)
    assert second.references_ms[: len(first.references_ms)] == first.references_ms
    assert (first.drift, second.drift) == (0, pytest.approx(1, abs=0.02))


def test_another_run_measures_again_what_was_slower_than_before(
    board: FakeBoard, tmp_path: Path
) -> None:
    path = tmp_path / "x.profile.json"
    profile(board, path, 1)
    board.slower = 1.5
    board.measured.clear()
    profile(board, path, 1)
    assert board.measured.count(small_network(1 + ROUND)) == 2


def test_an_interruption_keeps_the_drift(board: FakeBoard, tmp_path: Path) -> None:
    path = tmp_path / "x.profile.json"

    def report(step: Step) -> None:
        board.slower = 1.5 if step.networks > ROUND else 1.0
        if step.networks > 2 * ROUND:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(board, path, 9, report=report)
    assert load_profile(path).drift == pytest.approx(0.5, abs=0.02)


def test_what_was_disturbed_is_measured_again_later(board: FakeBoard, tmp_path: Path) -> None:
    def report(step: Step) -> None:
        board.slower = 1.5 if ROUND < step.networks <= 2 * ROUND else 1.0

    made = profile(board, tmp_path / "x.profile.json", 4, report=report)
    again = [graph for graph in board.measured if graph == small_network(1 + ROUND)]
    assert len(again) == 3  # at once, when it still was slow, and after the next round
    disturbed = [sample for sample in made.samples if sample.network == 1 + ROUND]
    for sample, layer in zip(disturbed, small_network(1 + ROUND).layers, strict=True):
        assert sample.latency_ms == pytest.approx(formula_ms(layer), rel=0.011)
    assert made.drift == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("budget_s", "rounds"), [(72, 8), (89, 9)])
def test_nine_tenths_of_the_budget_go_to_new_networks(
    board: FakeBoard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget_s: float,
    rounds: int,
) -> None:
    """A round takes nine seconds here; none begins after 64.8 s, and none after 80.1 s."""
    monkeypatch.setattr(session, "_FIRST_ROUNDS", rounds)  # to choose takes long
    made = profile(board, tmp_path / "x.profile.json", budget_s / (1 + ROUND))
    assert len(networks_of(made)) == rounds * ROUND


def test_the_rest_of_the_budget_goes_to_what_was_disturbed(
    board: FakeBoard, tmp_path: Path
) -> None:
    def report(step: Step) -> None:
        board.slower = 1.0 + (step.networks > 9 * ROUND)

    made = profile(board, tmp_path / "x.profile.json", 12, report)
    assert len(networks_of(made)) == 10 * ROUND
    assert len(board.measured) == 12 * (1 + ROUND)


def test_the_reference_is_measured_in_between(board: FakeBoard, tmp_path: Path) -> None:
    made = profile(board, tmp_path / "x.profile.json", 3)
    references = [graph for graph in board.measured if graph == board.measured[0]]
    assert len(references) == 3
    assert 0 not in networks_of(made)


def test_inputs_are_of_the_types_of_the_network() -> None:
    graph = draw_graph(2)
    inputs = random_inputs(graph)
    for tensor in graph.inputs:
        array = inputs[tensor.name]
        assert (array.shape, array.dtype) == (tensor.type.shape, np.dtype(tensor.type.dtype))
        assert np.ptp(array) > 0


def test_a_drawn_graph_describes_its_layers() -> None:
    graph = draw_graph(5)
    assert len(describe(graph.layers)) == len(graph.layers)
    assert msgspec.json.encode(describe(draw_graph(5).layers)) == msgspec.json.encode(
        describe(graph.layers)
    )
