from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    all_cuts,
    any_costs,
    encoded_graphs,
    entry_charges,
    layer_graphs,
    thorough,
    tiny_graph,
)

from partc.cost import LATENCY
from partc.errors import GraphError
from partc.graph import LayerGraph
from partc.passes.cut import find_cut
from partc.passes.envelope import Envelope, find_envelope
from partc.passes.price import price
from partc.plan import FREE_ENTRY, ConditionRange, Conditions, Cut, EntryCharges, make_plan

CHAIN = tiny_graph({"x": 20, "t": 2, "y": 1}, {"a": ("x -> t", 5, 1), "b": ("t -> y", 30, 3)}, "y")


def envelope(graph: LayerGraph, conditions: ConditionRange, entry: EntryCharges) -> Envelope:
    def find(at: Conditions) -> Cut:
        return find_cut(graph, price(graph, LATENCY, at, entry))

    return find_envelope(graph, find, lambda _: LATENCY, conditions, entry)


def _interval(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    some = st.tuples(st.floats(low, high), st.floats(low, high)).map(
        lambda ends: (min(ends), max(ends))
    )
    return st.one_of(some, st.floats(low, high).map(lambda value: (value, value)))


ranges = st.builds(
    ConditionRange, _interval(0.1, 100), _interval(0.1, 100), _interval(0, 30), _interval(0.5, 4)
)


@thorough
@given(
    st.one_of(layer_graphs(any_costs, max_layers=6), encoded_graphs(any_costs)),
    ranges,
    entry_charges(),
)
def test_it_is_the_best_of_a_grid(
    graph: LayerGraph, conditions: ConditionRange, entry: EntryCharges
) -> None:
    found = envelope(graph, conditions, entry)
    plans = [make_plan(graph, cut, entry) for cut in all_cuts(graph)]
    for point in product(np.linspace(0, 1, 4), repeat=len(conditions.varying)):
        at = conditions.at(point)
        best = min(plan.latency_ms(at) for plan in plans)
        known = min(winner.plan.latency_ms(at) for winner in found.winners)
        assert known == pytest.approx(best, rel=1e-6, abs=1e-5)


@thorough
@given(layer_graphs(any_costs, max_layers=6), ranges, entry_charges())
def test_plans_win_in_all_of_the_range_together(
    graph: LayerGraph, conditions: ConditionRange, entry: EntryCharges
) -> None:
    found = envelope(graph, conditions, entry)
    assert sum(winner.share for winner in found.winners) >= 1 - 1e-4
    for winner in found.winners:
        for corner in winner.corners:
            least = min(other.plan.latency_ms(corner) for other in found.winners)
            assert winner.plan.latency_ms(corner) == pytest.approx(least, rel=1e-5, abs=1e-5)


@st.composite
def chains(draw: st.DrawFn) -> LayerGraph:
    """Of which each tensor is smaller than the one before, so that many cuts win somewhere."""
    kilobytes = draw(st.lists(st.integers(1, 1000), min_size=3, max_size=12, unique=True))
    sizes = {f"t{n}": size for n, size in enumerate(sorted(kilobytes, reverse=True))}
    layers = {
        f"l{n}": (f"t{n} -> t{n + 1}", draw(st.floats(0.1, 30)), draw(st.floats(0.001, 1)))
        for n in range(len(sizes) - 1)
    }
    return tiny_graph(sizes, layers, f"t{len(layers)}")


@thorough
@given(
    chains(),
    st.sampled_from([(1e-4, 1e4), (1e-6, 1e6)]),
    st.sampled_from([(1e-4, 1e4), (1e-6, 1e6), (50.0, 50.0)]),
)
def test_a_wide_range_is_known_all_over(
    chain: LayerGraph, uplink_mbps: tuple[float, float], downlink_mbps: tuple[float, float]
) -> None:
    """Also where rates are as they are, which is a millionth of it."""
    found = envelope(chain, ConditionRange(uplink_mbps, downlink_mbps, (5, 5)), FREE_ENTRY)
    rates = [np.geomspace(*ends, 12) for ends in (uplink_mbps, downlink_mbps)]
    for up, down in product(*(each.tolist() for each in rates)):
        at = Conditions(up, down, round_trip_ms=5)
        single = make_plan(chain, find_cut(chain, price(chain, LATENCY, at)))
        known = min(winner.plan.latency_ms(at) for winner in found.winners)
        assert known == pytest.approx(single.latency_ms(at), rel=1e-6)


@pytest.mark.parametrize("kilobytes", [1, 30])
def test_every_cut_wins_within_a_millionth_of_a_range(kilobytes: int) -> None:
    """By hand: one layer more on the server takes 1 ms less, the nth for n times the kilobytes."""
    sizes = {f"t{n}": kilobytes * sum(range(7 - n)) for n in range(7)}
    layers = {f"l{n}": (f"t{n} -> t{n + 1}", 1.0, 0.0) for n in range(6)}
    chain = tiny_graph(sizes, layers, "t6")
    rates = ConditionRange((1e-6, 1e6), (8, 8), (0, 0))
    winners = envelope(chain, rates, FREE_ENTRY).winners
    found = {len(each.plan.server_layers): each.interval("uplink_mbps") for each in winners}
    borders = [1e-6, *(8 * kilobytes * n for n in range(1, 7)), 1e6]
    assert found == {n: pytest.approx(borders[n : n + 2]) for n in range(7)}


def test_a_plan_that_wins_in_a_small_corner_is_found() -> None:
    # 8 + 8 + 29.9 / 2 there instead of 31 ms, which is better in 2e-11 of the range.
    graph = tiny_graph({"x": 39, "y": 35}, {"a": ("x -> y", 31, 29.9)}, "y")
    rates = ConditionRange((1, 39), (1, 35), (0, 0), load=(0.5, 1))
    local, remote = envelope(graph, rates, EntryCharges()).winners
    assert (local.plan.server_layers, remote.plan.server_layers) == ((), ("a",))
    assert 1e-12 < remote.share < 1e-10
    best = Conditions(uplink_mbps=39, downlink_mbps=35, round_trip_ms=0, load=0.5)
    assert remote.plan.latency_ms(best) == pytest.approx(30.95)


def test_one_rate_by_hand() -> None:
    """The chain behind b sends 2 kB and saves 27 ms; in front of a it sends 20 kB and saves 4."""
    rates = ConditionRange((0.1, 1000), (8, 8), (0, 0))
    found = {
        frozenset(winner.plan.server_layers): winner.interval("uplink_mbps")
        for winner in envelope(CHAIN, rates, EntryCharges()).winners
    }
    assert found == {
        frozenset(): (pytest.approx(0.1), pytest.approx(16 / 26)),
        frozenset("b"): (pytest.approx(16 / 26), pytest.approx(144 / 4)),
        frozenset("ab"): (pytest.approx(36), pytest.approx(1000)),
    }


def test_solves_grow_with_plans() -> None:
    """Of a chain in which every cut is the best one at some rate."""
    count = 40
    sizes = {f"t{n}": round(2000 / (1 + n)) for n in range(count + 1)}
    layers = {f"l{n}": (f"t{n} -> t{n + 1}", 1.0 + n, 0.0) for n in range(count)}
    chain = tiny_graph(sizes, layers, f"t{count}")
    found = envelope(chain, ConditionRange((0.01, 10_000), (1e6, 1e6), (0, 0)), EntryCharges())
    assert len(found.winners) > 20
    assert found.solves <= 2 * len(found.winners) + 2


def test_nothing_varies() -> None:
    known = ConditionRange((8, 8), (8, 8), (0, 0))
    found = envelope(CHAIN, known, EntryCharges())
    assert [set(winner.plan.server_layers) for winner in found.winners] == [{"b"}]
    assert (found.solves, found.winners[0].share) == (1, 1.0)


def test_a_range_the_wrong_way_round() -> None:
    with pytest.raises(GraphError, match="uplink_mbps goes from less to more, not from 9 to 3"):
        ConditionRange((9, 3), (8, 8), (0, 0))
