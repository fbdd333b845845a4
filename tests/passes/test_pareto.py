from __future__ import annotations

from collections.abc import Sequence

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

from partc.cost import LATENCY, energy
from partc.errors import InfeasibleError
from partc.graph import LayerGraph
from partc.passes import pareto
from partc.passes.limited import Limits
from partc.passes.pareto import find_front
from partc.passes.pins import Pinned
from partc.passes.price import price
from partc.plan import Conditions, DevicePower, EntryCharges, Side

Point = tuple[float, float]


def front_of(points: Sequence[Point]) -> list[Point]:
    """Those that no other dominates, each once."""
    return sorted(
        {
            (a, b)
            for a, b in points
            if not any((c <= a and d <= b) and (c, d) != (a, b) for c, d in points)
        }
    )


@thorough
@given(
    st.one_of(layer_graphs(max_layers=7), encoded_graphs()),
    conditions(),
    powers(),
    entry_charges(),
    st.booleans(),
)
def test_it_is_what_trying_all_cuts_finds(
    graph: LayerGraph, at: Conditions, power: DevicePower, entry: EntryCharges, pinned: bool
) -> None:
    first, second = (price(graph, cost, at, entry) for cost in (LATENCY, energy(power)))
    pins = {graph.layers[0].name: Side.DEVICE} if pinned and graph.layers else {}
    allowed = [cut for cut in all_cuts(graph) if not cut.server_layers & pins.keys()]
    points = [(round(first.of(graph, c), 6), round(second.of(graph, c), 6)) for c in allowed]
    found, gap = find_front(
        graph, first, second, Limits(pinned=(Pinned("pin", tuple(pins), Side.DEVICE),))
    )
    assert gap == 0
    expected = front_of(points)
    assert len(found) == len(expected)
    for cut, point in zip(found, expected, strict=True):
        assert (first.of(graph, cut), second.of(graph, cut)) == pytest.approx(point, abs=1e-4)


CHAIN = tiny_graph(
    {"x": 20, "t": 6, "u": 2, "y": 1},
    {"a": ("x -> t", 3, 1), "b": ("t -> u", 8, 2), "c": ("u -> y", 20, 3)},
    "y",
)
LINK = Conditions(8, 8, 0)
FRONT = [
    price(CHAIN, LATENCY, LINK),
    price(CHAIN, energy(DevicePower(2, 6, 0, 0)), LINK),
]


def test_no_more_than_some_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    every, _ = find_front(CHAIN, *FRONT, Limits())
    assert len(every) > 1
    monkeypatch.setattr(pareto, "MOST", 1)
    told: list[int] = []
    assert find_front(CHAIN, *FRONT, Limits(), told.append) == (every[:1], 0)
    assert told == [1]


def test_limits_that_nothing_keeps() -> None:
    with pytest.raises(InfeasibleError, match="no plan keeps --device-memory"):
        find_front(CHAIN, *FRONT, Limits(device_nbytes=1))
