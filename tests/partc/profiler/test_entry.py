from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from profiled import FakeBoard, draw_small

from partc.profiler.drawn import draw_graph
from partc.profiler.entry import ENTRY_NETWORKS, Entry, fit_entry, measure_entry
from partc.targets.target import load_target

LAYERS_MS = np.geomspace(0.2, 20, 6)


def whole_ms(entry_ms: float, cold_share: float) -> NDArray[np.float64]:
    return entry_ms + (1 + cold_share) * LAYERS_MS


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 2), st.floats(0, 0.5))
def test_what_was_put_in_is_found(entry_ms: float, cold_share: float) -> None:
    found = fit_entry(LAYERS_MS, whole_ms(entry_ms, cold_share))
    assert found.entry_ms == pytest.approx(entry_ms, abs=1e-3)
    assert found.cold_share == pytest.approx(cold_share, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 2), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_noise_is_averaged(entry_ms: float, cold_share: float, seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(0.98, 1.02, LAYERS_MS.shape)
    found = fit_entry(LAYERS_MS, noise * whole_ms(entry_ms, cold_share))
    predicted_ms = whole_ms(found.entry_ms, found.cold_share)
    assert predicted_ms == pytest.approx(whole_ms(entry_ms, cold_share), rel=0.03)


@pytest.mark.parametrize("disturbed", range(len(LAYERS_MS)))
def test_one_disturbed_network_does_not_decide(disturbed: int) -> None:
    measured_ms = whole_ms(0.4, 0.1)
    measured_ms[disturbed] *= 3
    found = fit_entry(LAYERS_MS, measured_ms)
    predicted_ms = whole_ms(found.entry_ms, found.cold_share)
    assert predicted_ms == pytest.approx(whole_ms(0.4, 0.1), rel=0.1)


def test_neither_is_negative() -> None:
    assert fit_entry(LAYERS_MS, 0.9 * LAYERS_MS) == Entry(0, 0)
    assert fit_entry(LAYERS_MS, 0.9 * LAYERS_MS + 0.3).cold_share == 0
    assert fit_entry(LAYERS_MS, 1.3 * LAYERS_MS - 0.02).entry_ms == 0


def test_pauses_cost_what_the_board_says() -> None:
    board: Any = FakeBoard(entry_ms=0.25, cold_share=0.125)
    drawn = [draw_small(number, load_target("native")) for number in range(6)]
    found = measure_entry(drawn, board)
    assert found.entry_ms == pytest.approx(0.25, rel=0.05)
    assert found.cold_share == pytest.approx(0.125, rel=0.1)


def test_the_networks_take_long_and_short() -> None:
    """A change of what is drawn must not leave networks of one size, which tell the two apart."""
    flops = [sum(layer.flops for layer in draw_graph(each).layers) for each in ENTRY_NETWORKS]
    assert all(1.5 < larger / smaller < 5 for smaller, larger in pairwise(flops))
    assert flops[-1] > 30 * flops[0]
