from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    all_cuts,
    conditions,
    encoded_graphs,
    entry_charges,
    layer_graphs,
    powers,
    thorough,
    tiny_graph,
)
from tangled import tangled_graph

from partc.cost import DEVIATION, LATENCY, SERVER_TIME, STAGES, UPLOAD_NBYTES, Cost, energy
from partc.errors import InfeasibleError, PartcError
from partc.graph import LayerGraph
from partc.passes import programme
from partc.passes.limited import Limit, Limits, find_clash, find_limited_cut, keeps
from partc.passes.memory import device_nbytes
from partc.passes.pins import Pinned
from partc.passes.price import Price, price
from partc.plan import Conditions, Cut, DevicePower, EntryCharges, Side

LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)
CHAIN = tiny_graph({"x": 20, "t": 2, "y": 1}, {"a": ("x -> t", 5, 1), "b": ("t -> y", 30, 3)}, "y")


def limited(graph: LayerGraph, cost: Cost, most: float, name: str, unit: str = "ms") -> Limit:
    return Limit(name, price(graph, cost, LINK), most, unit)


def agrees(cut: Cut, limits: Limits, graph: LayerGraph) -> bool:
    return all(cut.side(graph.by_name[name]) is side for name, side in limits.pins.items())


def best_by_trying(
    graph: LayerGraph, prices: Sequence[Price], limits: Limits
) -> tuple[float, list[Cut]]:
    allowed = [c for c in all_cuts(graph) if keeps(graph, c, limits) and agrees(c, limits, graph)]
    costs = [max(each.of(graph, cut) for each in prices) for cut in allowed]
    return min(costs, default=float("inf")), allowed


@st.composite
def some_limits(draw: st.DrawFn, graph: LayerGraph, costs: Sequence[Price]) -> Limits:
    """Limits that some cuts reach exactly, and that often leave few."""
    cuts = list(all_cuts(graph))
    limits = [
        Limit(f"--limit-{n}", each, each.of(graph, draw(st.sampled_from(cuts))), "ms")
        for n, each in enumerate(costs)
        if draw(st.booleans())
    ]
    memory = device_nbytes(graph, draw(st.sampled_from(cuts)))
    pinned = draw(st.sampled_from(cuts))
    names = draw(st.lists(st.sampled_from([None, *graph.by_name]), max_size=2))
    return Limits(
        tuple(limits),
        tuple(Pinned(name, (name,), pinned.side(graph.by_name[name])) for name in names if name),
        draw(st.sampled_from([None, memory])),
        draw(st.sampled_from([None, None, True, False])),
    )


@thorough
@given(
    st.one_of(layer_graphs(), encoded_graphs()),
    conditions(),
    powers(),
    entry_charges(),
    st.booleans(),
    st.data(),
)
def test_agrees_with_brute_force(
    graph: LayerGraph,
    at: Conditions,
    power: DevicePower,
    entry: EntryCharges,
    bottleneck: bool,
    data: st.DataObject,
) -> None:
    stages = [price(graph, cost, at, entry) for cost in STAGES]
    latency, joules = (price(graph, cost, at, entry) for cost in (LATENCY, energy(power)))
    uploaded = price(graph, UPLOAD_NBYTES, at, entry)
    prices = stages if bottleneck else [latency]
    deviation = price(graph, DEVIATION, at, entry)
    limits = data.draw(some_limits(graph, [latency, joules, uploaded, stages[2], deviation]))
    least, allowed = best_by_trying(graph, prices, limits)
    if not allowed:
        with pytest.raises(InfeasibleError):
            find_limited_cut(graph, prices, limits)
        return
    found = find_limited_cut(graph, prices, limits)
    assert found.cost == pytest.approx(least, abs=1e-4)
    assert found.gap == 0
    assert agrees(found.cut, limits, graph)
    relaxed = tuple(replace(each, most=each.most + 1e-4) for each in limits.costs)
    assert keeps(graph, found.cut, replace(limits, costs=relaxed))


@thorough
@given(layer_graphs(max_layers=6), st.data())
def test_of_a_clash_nothing_can_be_dropped(graph: LayerGraph, data: st.DataObject) -> None:
    limits = data.draw(some_limits(graph, [price(graph, c, LINK) for c in (LATENCY, *STAGES)]))
    # Costs are whole here: no limit lies within rounding of what a cut costs.
    tighter = tuple(replace(each, most=0.7 * each.most - 0.05) for each in limits.costs)
    limits = replace(limits, costs=tighter)

    def feasible(some: Limits) -> bool:
        return any(keeps(graph, c, some) and agrees(c, some, graph) for c in all_cuts(graph))

    if feasible(limits):
        return
    clash = find_clash(graph, limits)
    assert not feasible(clash)
    for limit in clash.costs:
        assert feasible(replace(clash, costs=tuple(c for c in clash.costs if c is not limit)))
    for pinned in clash.pinned:
        others = tuple(each for each in clash.pinned if each is not pinned)
        assert feasible(replace(clash, pinned=others))
    for name, nothing in (("device_nbytes", None), ("must_split", None)):
        if getattr(clash, name) is not None:
            assert feasible(replace(clash, **{name: nothing}))  # type: ignore[arg-type]


def test_a_clash_is_told_with_what_it_would_take() -> None:
    limits = Limits(
        (
            limited(CHAIN, LATENCY, 20, "--deadline 20 ms"),
            limited(CHAIN, UPLOAD_NBYTES, 1000, "--max-upload 1 kB", "bytes"),
        )
    )
    with pytest.raises(InfeasibleError) as caught:
        find_limited_cut(CHAIN, [price(CHAIN, LATENCY, LINK)], limits)
    assert str(caught.value) == (
        "no plan keeps --deadline 20 ms and --max-upload 1 kB together; --deadline 20 ms would "
        "have to be 35 ms or --max-upload 1 kB would have to be 2 kB"
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            Limits(
                pinned=(
                    Pinned("--private-until 'a'", ("a",), Side.DEVICE),
                    Pinned("pin 'a'", ("a",), Side.DEVICE),
                    Pinned("--forbid 'b'", ("b",), Side.SERVER),
                ),
                must_split=False,
            ),
            "no plan keeps --no-split and pin 'a' and --forbid 'b' together; drop one of them",
        ),
        (
            Limits((limited(CHAIN, LATENCY, 40, "--deadline 40 ms"),), device_nbytes=20_000),
            "no plan keeps --device-memory 20.0 kB; --device-memory 20.0 kB would have to be 21 kB",
        ),
        (
            Limits(
                (limited(CHAIN, UPLOAD_NBYTES, 5000, "--max-upload 5.0 kB", "bytes"),),
                device_nbytes=22_000,
            ),
            "no plan keeps --max-upload 5.0 kB and --device-memory 22.0 kB together; --max-upload "
            "5.0 kB would have to be 20 kB or --device-memory 22.0 kB would have to be 23 kB",
        ),
    ],
)
def test_clashes_of_other_kinds(limits: Limits, message: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        find_limited_cut(CHAIN, [price(CHAIN, LATENCY, LINK)], limits)
    assert str(caught.value) == message


def test_one_limit_is_not_one_of_them() -> None:
    single = tiny_graph({"x": 1, "y": 1}, {"a": ("x -> y", 1, 1)}, "y")
    with pytest.raises(InfeasibleError) as caught:
        find_limited_cut(single, [price(single, LATENCY, LINK)], Limits(must_split=True))
    assert str(caught.value) == "no plan keeps --must-split; drop it"


@pytest.mark.parametrize(("must_split", "server"), [(True, "b"), (False, "a b"), (None, "b")])
def test_splitting_by_hand(must_split: bool | None, server: str) -> None:
    found = find_limited_cut(CHAIN, [price(CHAIN, LATENCY, LINK)], Limits(must_split=must_split))
    assert found.cut.server_layers == frozenset(server.split())


def test_the_largest_of_several_by_hand() -> None:
    found = find_limited_cut(CHAIN, [price(CHAIN, stage, LINK) for stage in STAGES], Limits())
    assert (found.cut.server_layers, found.cost) == (frozenset("b"), 5.0)


@pytest.mark.parametrize("must_split", [None, False])
def test_without_layers_nothing_is_asked(must_split: bool | None) -> None:
    empty = tiny_graph({"x": 1}, {}, "x")
    prices = [price(empty, stage, LINK) for stage in STAGES]
    assert find_limited_cut(empty, prices, Limits(must_split=must_split)).cut == Cut.device_only()


@pytest.mark.parametrize("costs", [[LATENCY], STAGES])
def test_large_costs_are_counted_in_larger_units(costs: Sequence[Cost]) -> None:
    vast = tiny_graph(
        {"x": 1, "t": 1, "u": 1, "y": 1},
        {"a": ("x -> t", 2e10, 3e10), "b": ("t -> u", 1e10, 5e9), "c": ("u -> y", 3e10, 5e9)},
        "y",
    )
    prices = [price(vast, cost, LINK) for cost in costs]
    limits = Limits(must_split=False)
    least, _ = best_by_trying(vast, prices, limits)
    assert find_limited_cut(vast, prices, limits).cost == pytest.approx(least, rel=1e-9)


def test_a_limit_is_kept_by_what_costs_just_that() -> None:
    """Seven layers of 0.6 units more are seven more in whole units, which is 2.8 too much."""
    layers = {f"l{n}": (f"t{n} -> t{n + 1}", 2.0, 1 + 6e-7) for n in range(10)}
    graph = tiny_graph({f"t{n}": 1 for n in range(11)}, layers, "t10")
    cut = Cut(frozenset(f"l{n}" for n in range(3, 10)))
    most = price(graph, SERVER_TIME, LINK).of(graph, cut)
    limits = Limits((limited(graph, SERVER_TIME, most, "--max-server-time"),))
    assert find_limited_cut(graph, [price(graph, LATENCY, LINK)], limits).cut == cut


def test_what_is_not_proven_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tangled_graph(300)
    prices = [price(graph, stage, LINK) for stage in STAGES]
    monkeypatch.setattr(programme, "_EFFORT", 0.1)
    found = find_limited_cut(graph, prices, Limits())
    assert found.bound <= 125.26 <= found.cost  # a cut that takes a minute to find
    assert 0 < found.gap < 0.1


def test_what_cannot_be_told_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tangled_graph(300)
    stages = [price(graph, stage, LINK) for stage in STAGES]
    limits = Limits(tuple(Limit(f"--limit-{n}", each, 110, "ms") for n, each in enumerate(stages)))
    monkeypatch.setattr(programme, "_EFFORT", 0.001)
    with pytest.raises(PartcError, match="whether a plan keeps --limit-0 and --limit-1 and "):
        find_limited_cut(graph, [price(graph, LATENCY, LINK)], limits)
