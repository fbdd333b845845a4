from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    conditions,
    entry_charges,
    layer_graphs,
    powers,
    thorough,
    tiny_graph,
)
from tangled import tangled_graph

from partc.cost import LATENCY, energy
from partc.errors import InfeasibleError, PartcError
from partc.graph import LayerGraph
from partc.passes import programme
from partc.passes.cut import find_cut
from partc.passes.price import price
from partc.passes.switches import SwitchingProblem, find_placement, place
from partc.plan import Conditions, DevicePower, EntryCharges, Side

LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)
# Narrow inside and wide outside: 20 kB in, 20 kB out, 1 kB around the heavy middle.
AUTOENCODER = tiny_graph(
    {"x": 20, "t": 1, "u": 1, "y": 20},
    {"encode": ("x -> t", 3, 1), "middle": ("t -> u", 50, 5), "decode": ("u -> y", 4, 1)},
    "y",
)
# Begins with little and makes much, on the device in the end: cloud first.
GENERATOR = tiny_graph(
    {"z": 1, "t": 2, "y": 60}, {"think": ("z -> t", 40, 4), "paint": ("t -> y", 6, 1)}, "y"
)


def all_phases(graph: LayerGraph, switches: int, position: int = 0) -> Iterator[dict[str, int]]:
    """Every phase for every layer, none before what it reads."""
    if position == len(graph.layers):
        yield {}
        return
    layer = graph.layers[len(graph.layers) - 1 - position]
    for others in all_phases(graph, switches, position + 1):
        makers = (graph.producers.get(tensor.name) for tensor in layer.inputs)
        first = max((others[maker.name] for maker in makers if maker), default=0)
        for phase in range(first, switches + 1):
            yield {**others, layer.name: phase}


@thorough
@given(
    layer_graphs(max_layers=5),
    conditions(),
    powers(),
    entry_charges(),
    st.booleans(),
    st.integers(1, 3),
)
def test_agrees_with_brute_force(
    graph: LayerGraph,
    at: Conditions,
    power: DevicePower,
    entry: EntryCharges,
    least_energy: bool,
    switches: int,
) -> None:
    problem = SwitchingProblem(graph, energy(power) if least_energy else LATENCY, at, entry)
    expected = min(problem.total(place(graph, phases)) for phases in all_phases(graph, switches))
    placement, bound = find_placement(problem, switches)
    assert problem.total(placement) == pytest.approx(expected, abs=1e-4)
    assert bound == pytest.approx(expected, abs=1e-4)


@thorough
@given(layer_graphs(), conditions(), entry_charges())
def test_one_switch_is_a_cut(graph: LayerGraph, at: Conditions, entry: EntryCharges) -> None:
    prices = price(graph, LATENCY, at, entry)
    problem = SwitchingProblem(graph, LATENCY, at, entry)
    placement, _ = find_placement(problem, 1)
    best = prices.of(graph, find_cut(graph, prices))
    assert problem.total(placement) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(
    ("graph", "switches", "phases", "latency_ms"),
    [
        (AUTOENCODER, 1, "0 1 1", 3 + 1 + 5 + 1 + 20),
        (AUTOENCODER, 2, "0 1 2", 3 + 1 + 5 + 1 + 4),
        (GENERATOR, 1, "0 0", 46),
        (GENERATOR, 2, "1 2", 1 + 4 + 2 + 6),
    ],
)
def test_by_hand(graph: LayerGraph, switches: int, phases: str, latency_ms: float) -> None:
    problem = SwitchingProblem(graph, LATENCY, LINK)
    placement, bound = find_placement(problem, switches)
    assert [placement.phases[layer.name] for layer in graph.layers] == [*map(int, phases.split())]
    assert problem.total(placement) == bound == latency_ms


def test_phases_alternate() -> None:
    free = tiny_graph({"x": 1, "t": 1, "y": 1}, {"a": ("x -> t", 0, 9), "b": ("t -> y", 0, 9)}, "y")
    for switches in (2, 3, 4):
        placement, _ = find_placement(SwitchingProblem(free, LATENCY, LINK), switches)
        assert len(placement.used) == 1


def test_what_travels() -> None:
    placement, _ = find_placement(SwitchingProblem(AUTOENCODER, LATENCY, LINK), 2)
    assert [tensor.name for tensor in placement.upload] == ["t"]
    assert [tensor.name for tensor in placement.download] == ["u"]


def test_pins() -> None:
    problem = SwitchingProblem(AUTOENCODER, LATENCY, LINK)
    placement, _ = find_placement(problem, 2, {"middle": Side.DEVICE})
    assert placement.side(AUTOENCODER.by_name["middle"]) is Side.DEVICE
    with pytest.raises(InfeasibleError, match="so few switches"):
        find_placement(problem, 1, {"encode": Side.SERVER, "decode": Side.DEVICE})


def test_large_costs_are_counted_in_larger_units() -> None:
    vast = tiny_graph(
        {"x": 1, "t": 1, "y": 1}, {"a": ("x -> t", 5e10, 1e10), "b": ("t -> y", 1e10, 3e10)}, "y"
    )
    placement, bound = find_placement(SwitchingProblem(vast, LATENCY, LINK), 2)
    assert placement.used == (1, 2)
    assert bound == pytest.approx(2e10, rel=1e-9)


def test_what_is_not_proven_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SwitchingProblem(tangled_graph(300), LATENCY, LINK)
    monkeypatch.setattr(programme, "_EFFORT", 0.1)
    placement, bound = find_placement(problem, 2)
    assert (
        200 < bound <= 295.83 <= problem.total(placement)
    )  # a placement that takes longer to find


def test_what_cannot_be_told_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme, "_EFFORT", 0.0)
    with pytest.raises(PartcError, match="could not be told within the solver's effort"):
        find_placement(SwitchingProblem(tangled_graph(300), LATENCY, LINK), 2)
