from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from profiled import FakeBoard, draw_small, formula_ms, small_network

from partc.profiler import rounds, stopwatch
from partc.profiler.rounds import Rounds
from partc.targets.target import load_target

TARGET = load_target("native")
REFERENCE_MS = sum(map(formula_ms, small_network(0).layers))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    monkeypatch.setattr(stopwatch, "_PAUSE_S", 0)
    return FakeBoard()


def begin(board: Any, *earlier_ms: float) -> Rounds:
    return Rounds(draw_small(0, TARGET), board, earlier_ms)


def measure(measured: Rounds, *numbers: int) -> None:
    measured.measure([draw_small(number, TARGET) for number in numbers])


def slowdowns(measured: Rounds, number: int) -> list[float]:
    """Of each layer of a network, relative to the board when nothing disturbs it."""
    samples = [sample for sample in measured.samples if sample.network == number]
    layers = small_network(number).layers
    pairs = zip(samples, layers, strict=True)
    return [sample.latency_ms / formula_ms(layer) for sample, layer in pairs]


def about(*expected: float) -> object:
    return pytest.approx(expected, rel=0.011)


def test_of_two_turns_the_faster_counts(board: FakeBoard) -> None:
    measured = begin(board)
    measure(measured, 1, 2)
    board.slower = 1.2
    measure(measured, 3, 4)
    board.slower = 1.5
    assert measured.repeat_disturbed()
    for number, slower in ((1, 1), (2, 1), (3, 1.2), (4, 1.2)):
        assert slowdowns(measured, number) == about(slower, slower, slower)
    board.slower = 1.1
    assert measured.repeat_disturbed()
    for number in (3, 4):
        assert slowdowns(measured, number) == about(1.1, 1.1, 1.1)


def test_the_faster_turn_counts_for_each_layer(board: FakeBoard) -> None:
    measured = begin(board)
    measure(measured, 1)
    for slower in ((1, 2, 1.3), (2, 1, 1.2)):
        board.slower = np.array(slower)
        if slower[0] == 1:
            measure(measured, 2)
        else:
            assert measured.repeat_disturbed()
    assert slowdowns(measured, 2) == about(1, 1, 1.2)


@pytest.mark.parametrize(("slower", "is_disturbed"), [(1.0, False), (1.04, False), (1.06, True)])
def test_a_round_is_disturbed_if_the_reference_took_longer(
    board: FakeBoard, slower: float, is_disturbed: bool
) -> None:
    measured = begin(board)
    measure(measured, 1)
    board.slower = slower
    measure(measured, 2)
    assert measured.repeat_disturbed() == is_disturbed
    assert len(board.measured) == (6 if is_disturbed else 4)


def test_an_earlier_round_turns_out_to_have_been_disturbed(board: FakeBoard) -> None:
    board.slower = 1.5
    measured = begin(board)
    measure(measured, 1)
    assert not measured.repeat_disturbed()
    board.slower = 1.0
    measure(measured, 2)
    assert measured.repeat_disturbed()
    assert slowdowns(measured, 1) == about(1, 1, 1)
    assert not measured.repeat_disturbed()


def test_another_run_knows_the_best_time_of_the_one_before(board: FakeBoard) -> None:
    measured = begin(board, 1.5 * REFERENCE_MS, REFERENCE_MS)
    board.slower = 1.2
    measure(measured, 1)
    assert measured.repeat_disturbed()


def test_disturbed_rounds_take_turns(board: FakeBoard) -> None:
    measured = begin(board)
    measure(measured, 1)
    board.slower = 1.5
    measure(measured, 2)
    measure(measured, 3)
    board.measured.clear()
    for _ in range(4):
        assert measured.repeat_disturbed()
    repeated = [graph for graph in board.measured if graph != small_network(0)]
    assert repeated == [small_network(number) for number in (2, 3, 2, 3)]


def test_only_the_latest_rounds_are_at_hand(
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_KEPT", 2)
    measured = begin(board)
    board.slower = 1.5
    measure(measured, 1)
    measure(measured, 2)
    board.slower = 1.0
    measure(measured, 3)
    assert measured.repeat_disturbed()
    assert slowdowns(measured, 1) == about(1.5, 1.5, 1.5)
    assert slowdowns(measured, 2) == about(1, 1, 1)
    assert not measured.repeat_disturbed()


def test_of_the_reference_the_best_time_of_each_round_is_told(board: FakeBoard) -> None:
    measured = begin(board, REFERENCE_MS)
    assert measured.references_ms == ()
    board.slower = 2.0
    measure(measured, 1)
    board.slower = 1.5
    measured.repeat_disturbed()
    board.slower = 1.0
    measure(measured, 2)
    assert measured.references_ms == about(1.5 * REFERENCE_MS, REFERENCE_MS)


def test_the_reference_is_no_sample(board: FakeBoard) -> None:
    measured = begin(board)
    measure(measured, 1, 2)
    assert {sample.network for sample in measured.samples} == {1, 2}
