from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    any_costs,
    conditions,
    entry_charges,
    layer_graphs,
    powers,
    tiny_graph,
    whole_costs,
)

from partc.cost import LATENCY, Cost, energy
from partc.graph import LayerCost, LayerGraph
from partc.passes.baselines import (
    PLANNERS,
    Problem,
    dads_cut,
    maui_cut,
    neurosurgeon_cut,
    partc_cut,
    published,
)
from partc.plan import Conditions, Cut, DevicePower, EntryCharges, make_plan

unhurried = settings(deadline=None)  # as many examples as the profile says

# At 8 Mbit/s a kilobyte takes a millisecond.
LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)
CHAIN = tiny_graph({"x": 20, "t": 2, "y": 1}, {"a": ("x -> t", 5, 1), "b": ("t -> y", 30, 3)}, "y")
DIAMOND = tiny_graph(
    {"x": 10, "t": 3, "u": 4, "v": 1, "y": 1},
    {
        "a": ("x -> t", 2, 1),
        "b": ("t -> u", 20, 2),
        "c": ("t -> v", 1, 30),
        "d": ("u v -> y", 20, 2),
    },
    outputs="y",
)


def latency(graph: LayerGraph, at: Conditions = LINK) -> Problem:
    return Problem(graph, LATENCY, at)


def server(cut: Cut | None) -> str:
    assert cut is not None
    return " ".join(sorted(cut.server_layers))


def with_kinds(graph: LayerGraph, kinds: Mapping[str, str]) -> LayerGraph:
    return graph.with_layers(replace(layer, kind=kinds[layer.name]) for layer in graph.layers)


costs = st.one_of(
    st.just(LATENCY),
    powers().map(energy),
    powers().map(lambda power: LATENCY + energy(power) * 0.5),
)


@st.composite
def problems(
    draw: st.DrawFn, times: st.SearchStrategy[float] = whole_costs, max_layers: int = 10
) -> Problem:
    return Problem(
        draw(layer_graphs(times, max_layers)),
        draw(costs),
        draw(conditions(times)),
        draw(entry_charges(times)),
    )


@st.composite
def chains(draw: st.DrawFn) -> LayerGraph:
    """Chains whose output takes no time to download."""
    count = draw(st.integers(0, 8))
    sizes = [*draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)), 0]
    return tiny_graph(
        {f"t{n}": kilobytes for n, kilobytes in enumerate(sizes)},
        {
            f"l{n}": (f"t{n} -> t{n + 1}", draw(whole_costs), draw(whole_costs))
            for n in range(count)
        },
        outputs=f"t{count}",
    )


def test_neurosurgeon_splits_a_chain() -> None:
    assert server(neurosurgeon_cut(latency(CHAIN))) == "b"  # 10 ms; neither 24 nor 35


def test_neurosurgeon_follows_load_and_bandwidth() -> None:
    # The split takes 7 + 3 load, device-only 35: a tie stays on the device.
    for load, expected in ((9, "b"), (28 / 3 + 0.01, ""), (10, "")):
        assert server(neurosurgeon_cut(latency(CHAIN, replace(LINK, load=load)))) == expected
    fast = replace(LINK, uplink_mbps=800)  # 0.2 + 1 + 3 and 5 + 0.02 + 3
    assert server(neurosurgeon_cut(latency(CHAIN, fast))) == "a b"


def test_among_equals_neurosurgeon_leaves_layers_on_the_device() -> None:
    free = tiny_graph({"x": 0, "t": 0}, {"a": ("x -> t", 1, 1)}, "t")
    assert server(neurosurgeon_cut(latency(free))) == ""


def test_what_is_published_knows_no_round_trip_that_kills_the_split() -> None:
    far = replace(LINK, round_trip_ms=25)
    problem = latency(CHAIN, far)
    assert server(neurosurgeon_cut(problem)) == server(dads_cut(problem)) == "b"
    assert server(partc_cut(problem)) == ""
    assert problem.price.of(CHAIN, Cut(frozenset("b"))) == 5 + 2 + 3 + 1 + 25  # device-only is 35


@pytest.mark.parametrize("unknown", [EntryCharges(0, 26, 0), EntryCharges(0, 1e6, 0)])
def test_what_is_published_knows_no_entry(unknown: EntryCharges) -> None:
    problem = replace(latency(CHAIN), entry=unknown)
    assert server(neurosurgeon_cut(problem)) == server(dads_cut(problem)) == "b"
    assert server(partc_cut(problem)) == ""


def test_what_is_published_knows_no_download() -> None:
    graph = tiny_graph({"x": 1, "y": 50}, {"a": ("x -> y", 9, 1)}, "y")
    problem = latency(graph)
    assert server(neurosurgeon_cut(problem)) == server(dads_cut(problem)) == "a"
    assert server(partc_cut(problem)) == ""


@unhurried
@given(powers(), st.floats(0, 5))
def test_published_energy_is_that_of_computing_and_sending(
    power: DevicePower, ms_per_mj: float
) -> None:
    sending = power.upload_watts + power.idle_watts
    assert published(LATENCY) == Cost(device_ms=1, upload_ms=1, server_ms=1)
    assert published(energy(power)) == Cost(device_mj=1, upload_ms=sending)
    weighted = published(LATENCY) + published(energy(power)) * ms_per_mj
    assert published(LATENCY + energy(power) * ms_per_mj) == weighted


def test_a_dag_in_a_row_sends_all_that_crosses() -> None:
    # Behind a: t is sent once, for b and c; c is slow there. Behind c, u and v are sent.
    split_ms = {
        frozenset("abcd"): 10 + 1 + 2 + 30 + 2,
        frozenset("bcd"): 2 + 3 + 2 + 30 + 2,
        frozenset("cd"): 2 + 20 + (3 + 4) + 30 + 2,
        frozenset("d"): 2 + 20 + 1 + (4 + 1) + 2,
        frozenset[str](): 2 + 20 + 1 + 20,
    }
    assert server(neurosurgeon_cut(latency(DIAMOND))) == "d"
    known = latency(DIAMOND).published_price
    for layers, expected_ms in split_ms.items():
        assert known.of(DIAMOND, Cut(layers)) == expected_ms
    # A cut that is no split: c stays, although it follows b in the row; t and v are sent.
    assert server(dads_cut(latency(DIAMOND))) == "b d"
    assert known.of(DIAMOND, Cut(frozenset("bd"))) == 2 + 1 + (3 + 1) + (2 + 2)


@unhurried
@given(chains(), conditions(), entry_charges(), costs)
def test_neurosurgeon_is_exact_on_chains_of_what_it_knows(
    graph: LayerGraph, at: Conditions, entry: EntryCharges, cost: Cost
) -> None:
    known = Problem(graph, LATENCY, replace(at, round_trip_ms=0))
    assert neurosurgeon_cut(known) == partc_cut(known)
    anything = Problem(graph, published(cost), at)
    assert neurosurgeon_cut(replace(anything, entry=entry)) == partc_cut(anything)


def splits(graph: LayerGraph) -> list[Cut]:
    names = [layer.name for layer in graph.layers]
    return [Cut(frozenset(names[split:])) for split in range(len(names) + 1)]


@unhurried
@given(problems())
def test_neurosurgeon_is_the_best_of_all_splits(problem: Problem) -> None:
    known = published(problem.cost)

    def cost(cut: Cut) -> float:
        return known.of(make_plan(problem.graph, cut), problem.conditions)

    # Of equals, the one with the fewest layers on the server is the last.
    assert neurosurgeon_cut(problem) == min(reversed(splits(problem.graph)), key=cost)


@unhurried
@given(problems(any_costs))
def test_neurosurgeon_is_as_good_as_the_best_split_up_to_rounding(problem: Problem) -> None:
    price = problem.published_price
    least = min(price.of(problem.graph, cut) for cut in splits(problem.graph))
    chosen = price.of(problem.graph, neurosurgeon_cut(problem))
    assert chosen == pytest.approx(least, abs=1e-12 * price.total)


def test_maui_takes_layers_of_a_kind_for_the_same() -> None:
    # Both are taken for 17.5 and 2 ms, so at a load of 8 splitting for 17.5 + 2 + 16 = 35.5 ms,
    # where it is 5 + 2 + 24 = 31; device-only is 35.
    alike = with_kinds(CHAIN, {"a": "dense", "b": "dense"})
    assert server(maui_cut(latency(alike))) == "b"
    loaded = latency(alike, replace(LINK, load=8))
    assert server(maui_cut(loaded)) == ""
    assert server(neurosurgeon_cut(loaded)) == "b"
    told_apart = with_kinds(CHAIN, {"a": "conv2d", "b": "dense"})
    assert server(maui_cut(replace(loaded, graph=told_apart))) == "b"


def test_maui_takes_energy_for_the_same_too() -> None:
    # 10 and 60 mJ are taken to be 35 each; sending 2 kB draws 20 mJ each ms.
    power = DevicePower(busy_watts=2, idle_watts=0, upload_watts=20, download_watts=0)
    problem = Problem(CHAIN, energy(power), LINK)
    assert server(neurosurgeon_cut(problem)) == "b"  # 50 mJ
    assert server(maui_cut(problem)) == ""  # 75 instead of 70 mJ


@unhurried
@given(problems(), st.data())
def test_maui_is_neurosurgeon_where_layers_of_a_kind_cost_the_same(
    problem: Problem, data: st.DataObject
) -> None:
    times = st.builds(LayerCost, whole_costs, whole_costs, whole_costs)
    kinds = data.draw(st.fixed_dictionaries({"conv2d": times, "dense": times, "relu": times}))
    named = st.sampled_from(sorted(kinds))
    layers = [replace(layer, kind=data.draw(named)) for layer in problem.graph.layers]
    priced = [replace(layer, cost=kinds[layer.kind]) for layer in layers]
    alike = replace(problem, graph=problem.graph.with_layers(priced))
    assert maui_cut(alike) == neurosurgeon_cut(alike)


@unhurried
@given(problems())
def test_maui_does_not_know_which_layer_of_a_kind_costs_what(problem: Problem) -> None:
    given_costs = [layer.cost for layer in problem.graph.layers]
    swapped = [
        replace(layer, cost=cost)
        for layer, cost in zip(problem.graph.layers, reversed(given_costs), strict=True)
    ]
    assert maui_cut(problem) == maui_cut(replace(problem, graph=problem.graph.with_layers(swapped)))


@unhurried
@given(problems())
def test_no_planner_beats_partc(problem: Problem) -> None:
    cuts = {name: planner(problem) for name, planner in PLANNERS.items()}
    plans = {
        name: make_plan(problem.graph, cut, problem.entry) for name, cut in cuts.items() if cut
    }
    paid = {name: problem.cost.of(plan, problem.conditions) for name, plan in plans.items()}
    assert paid["partc"] == pytest.approx(min(paid.values()), abs=1e-9)
    assert {*PLANNERS} - {*plans} <= {"dads"}


def test_the_planners_that_need_no_planning() -> None:
    assert server(PLANNERS["device-only"](latency(DIAMOND))) == ""
    assert server(PLANNERS["server-only"](latency(DIAMOND))) == "a b c d"
