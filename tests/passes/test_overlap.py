from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    all_cuts,
    any_costs,
    conditions,
    entry_charges,
    layer_graphs,
    powers,
    tiny_graph,
)

from partc.cost import LATENCY, UPLOAD_NBYTES, energy
from partc.errors import GraphError, InfeasibleError
from partc.graph import LayerGraph
from partc.passes import overlap
from partc.passes.cut import find_cut
from partc.passes.limited import Limit, Limits, keeps
from partc.passes.memory import device_nbytes
from partc.passes.overlap import find_overlapped_cut
from partc.passes.pins import Pinned
from partc.passes.price import price
from partc.passes.schedule import schedule
from partc.plan import FREE_ENTRY, Conditions, Cut, DevicePower, EntryCharges, Side, check_cut

LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)


def allowed(graph: LayerGraph, limits: Limits) -> list[Cut]:
    return [
        cut
        for cut in all_cuts(graph)
        if keeps(graph, cut, limits)
        and all(cut.side(graph.by_name[name]) is side for name, side in limits.pins.items())
    ]


def latency_ms(
    graph: LayerGraph, cut: Cut, at: Conditions, entry: EntryCharges = FREE_ENTRY
) -> float:
    return schedule(graph, cut, at, entry).latency_ms


@given(layer_graphs(any_costs, max_layers=8), conditions(any_costs), entry_charges(any_costs))
def test_it_is_what_trying_all_cuts_finds(
    graph: LayerGraph, at: Conditions, entry: EntryCharges
) -> None:
    found = find_overlapped_cut(graph, at, Limits(), entry)
    assert found.cost == latency_ms(graph, found.cut, at, entry)
    least = min(latency_ms(graph, cut, at, entry) for cut in all_cuts(graph))
    assert found.cost == pytest.approx(least)
    assert found.gap == 0


@st.composite
def some_limits(draw: st.DrawFn, graph: LayerGraph, at: Conditions, power: DevicePower) -> Limits:
    """Limits that some cuts reach exactly."""
    cuts = st.sampled_from(list(all_cuts(graph)))
    prices = [price(graph, cost, at) for cost in (LATENCY, energy(power), UPLOAD_NBYTES)]
    costs = [
        Limit("--limit", each, each.of(graph, draw(cuts)) + 1e-3, "ms")
        for each in prices
        if draw(st.booleans())
    ]
    pinned = draw(cuts)
    names = draw(st.lists(st.sampled_from([layer.name for layer in graph.layers]), max_size=2))
    return Limits(
        tuple(costs),
        tuple(Pinned(name, (name,), pinned.side(graph.by_name[name])) for name in names),
        draw(st.sampled_from([None, device_nbytes(graph, draw(cuts))])),
        draw(st.sampled_from([None, None, True, False])),
    )


@given(
    layer_graphs(max_layers=7).filter(lambda graph: graph.layers),
    conditions(),
    powers(),
    st.data(),
)
def test_limits_are_kept(
    graph: LayerGraph, at: Conditions, power: DevicePower, data: st.DataObject
) -> None:
    limits = data.draw(some_limits(graph, at, power))
    cuts = allowed(graph, limits)
    if not cuts:
        with pytest.raises(InfeasibleError):
            find_overlapped_cut(graph, at, limits)
        return
    found = find_overlapped_cut(graph, at, limits)
    assert found.cut in cuts
    assert found.cost == pytest.approx(min(latency_ms(graph, cut, at) for cut in cuts))


@given(
    layer_graphs(any_costs, max_layers=8),
    conditions(any_costs),
    entry_charges(any_costs),
    st.sampled_from([0, 20, 100]),
)
def test_without_time_the_bound_holds(
    graph: LayerGraph, at: Conditions, entry: EntryCharges, effort: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_EFFORT", effort)
        found = find_overlapped_cut(graph, at, Limits(), entry)
    check_cut(graph, found.cut)
    least = min(latency_ms(graph, cut, at, entry) for cut in all_cuts(graph))
    assert found.bound <= least + 1e-6
    assert least <= found.cost + 1e-6
    in_turn = find_cut(graph, price(graph, LATENCY, at, entry))
    assert found.cost <= latency_ms(graph, in_turn, at, entry) + 1e-6


# Both branches take as long on either side; sharing them out halves the time.
BRANCHES = tiny_graph(
    {"x": 0, "s": 0, "t": 0, "u": 0, "v": 0, "y": 0},
    {
        "a": ("x -> s", 10, 12),
        "b": ("x -> t", 10, 12),
        "c": ("x -> u", 10, 12),
        "d": ("x -> v", 10, 12),
        "e": ("s t u v -> y", 1, 1),
    },
    "y",
)


def test_branches_are_shared_out() -> None:
    assert find_cut(BRANCHES, price(BRANCHES, LATENCY, LINK)) == Cut.device_only()
    found = find_overlapped_cut(BRANCHES, LINK, Limits())
    assert found.cost == 25
    assert len(found.cut.server_layers) == 3


def test_local_search_shares_them_out_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    start = find_cut(BRANCHES, price(BRANCHES, LATENCY, LINK))
    monkeypatch.setattr(overlap._Search, "try_all", lambda _: False)
    found = find_overlapped_cut(BRANCHES, LINK, Limits())
    assert found.cost == 25
    assert 0 < found.gap < 0.2
    monkeypatch.setattr(overlap, "_EFFORT", 0)
    assert find_overlapped_cut(BRANCHES, LINK, Limits()).cost <= latency_ms(BRANCHES, start, LINK)


def test_local_search_keeps_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap._Search, "try_all", lambda _: False)
    found = find_overlapped_cut(
        BRANCHES, LINK, Limits(pinned=(Pinned("pin 'e'", ("e",), Side.DEVICE),))
    )
    assert found.cut == Cut.device_only()


def test_what_several_layers_read_is_sent_once() -> None:
    """The device computes two of eight branches while the input is sent for the others."""
    names = "abcdefgh"
    graph = tiny_graph(
        {"x": 20, "y": 0, **{f"{name}1": 0 for name in names}},
        {
            **{name: (f"x -> {name}1", 10, 1) for name in names},
            "join": (" ".join(f"{name}1" for name in names) + " -> y", 1, 1),
        },
        "y",
    )
    found = find_overlapped_cut(graph, LINK, Limits())
    assert found.cost == 20 + 6 + 1
    assert found.gap == 0


@pytest.mark.parametrize(("blocks", "branches"), [(100, 1), (16, 2), (10, 4), (40, 4)])
def test_chains_and_blocks_are_solved_exactly(blocks: int, branches: int) -> None:
    found = find_overlapped_cut(network(blocks, [2] * branches), LINK, Limits())
    assert found.gap == 0


@pytest.mark.parametrize(
    ("upload_kb", "server_ms", "join_ms"),
    [
        pytest.param(5, 0.1, 1, id="the uplink is as busy as the device"),
        pytest.param(0, 5, 100, id="the server is, and has more to do behind"),
    ],
)
def test_bounds_of_link_and_server_leave_few_cuts_to_try(
    upload_kb: int, server_ms: float, join_ms: float
) -> None:
    """Of seventeen layers side by side, about half is worth sending; no bound says which."""
    names = [f"l{n}" for n in range(17)]
    sizes = {
        "y": 0,
        **{f"x{name}": upload_kb for name in names},
        **{f"y{name}": 0 for name in names},
    }
    layers = {
        name: (f"x{name} -> y{name}", 4 + 0.37 * (n * n % 7), server_ms + 0.1 * (n % 5))
        for n, name in enumerate(names)
    }
    layers["join"] = (" ".join(f"y{name}" for name in names) + " -> y", join_ms, join_ms)
    found = find_overlapped_cut(tiny_graph(sizes, layers, "y"), LINK, Limits())
    assert found.gap == 0
    assert 0 < len(found.cut.server_layers) < len(layers)


def network(blocks: int, lengths: Sequence[int]) -> LayerGraph:
    """Blocks of branches that are put together, each layer faster on the server."""
    sizes, layers, read = {"x": 40}, {}, "x"
    for block in range(blocks):
        ends = []
        for branch, length in enumerate(lengths):
            end = read
            for step in range(length):
                name = f"l{block}_{branch}_{step}"
                layers[name] = (f"{end} -> {name}", 5.0 + branch + block % 3, 1.0 + step)
                sizes[name], end = 20 - block % 7 - branch, name
            ends.append(end)
        read = f"j{block}"
        layers[read] = (f"{' '.join(ends)} -> {read}", 1.0, 0.5)
        sizes[read] = 30 - 2 * (block % 9)
    return tiny_graph(sizes, layers, read)


def test_limits_that_nothing_keeps() -> None:
    limits = Limits(
        pinned=(Pinned("pin 'a'", ("a",), Side.DEVICE), Pinned("pin 'e'", ("e",), Side.SERVER)),
        must_split=False,
    )
    with pytest.raises(InfeasibleError, match="no plan keeps --no-split and pin 'a' and pin 'e'"):
        find_overlapped_cut(BRANCHES, LINK, limits)


def test_a_pin_of_no_layer() -> None:
    with pytest.raises(GraphError, match="nosuch"):
        find_overlapped_cut(
            BRANCHES, LINK, Limits(pinned=(Pinned("pin", ("nosuch",), Side.DEVICE),))
        )
