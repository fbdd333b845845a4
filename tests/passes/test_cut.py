from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    all_cuts,
    any_costs,
    conditions,
    encoded_graphs,
    entry_charges,
    layer_graphs,
    powers,
    thorough,
    tiny_graph,
)

from partc.cost import LATENCY, energy
from partc.errors import GraphError, InfeasibleError, TargetError
from partc.graph import LayerCost, LayerGraph
from partc.passes import cut as cut_pass
from partc.passes.price import price
from partc.plan import (
    FREE_ENTRY,
    Conditions,
    Cut,
    DevicePower,
    EntryCharges,
    Objective,
    Plan,
    Side,
    make_plan,
)

# At 8 Mbit/s a kilobyte takes a millisecond.
LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)
POWER = DevicePower(busy_watts=2, idle_watts=1, upload_watts=3, download_watts=2)


def find_cut(
    graph: LayerGraph,
    at: Conditions,
    power: DevicePower,
    objective: Objective = Objective.LATENCY,
    pins: Mapping[str, Side] = {},
    entry: EntryCharges = FREE_ENTRY,
) -> Cut:
    cost = LATENCY if objective is Objective.LATENCY else energy(power)
    return cut_pass.find_cut(graph, price(graph, cost, at, entry), pins)


@dataclass(frozen=True)
class Case:
    """A graph, the layers that belong on the server, and the latency worked out by hand."""

    kilobytes: Mapping[str, int]
    layers: Mapping[str, tuple[str, float, float]]
    outputs: str
    server: str
    latency_ms: float
    round_trip_ms: float = 0
    load: float = 1

    @property
    def graph(self) -> LayerGraph:
        return tiny_graph(self.kilobytes, self.layers, self.outputs)

    @property
    def conditions(self) -> Conditions:
        return replace(LINK, round_trip_ms=self.round_trip_ms, load=self.load)


CHAIN = Case(
    {"x": 20, "t": 2, "y": 1},
    {"a": ("x -> t", 5, 1), "b": ("t -> y", 30, 3)},
    outputs="y",
    server="b",
    latency_ms=5 + 2 + 3 + 1 + 4,  # device-only 35, server-only 29
    round_trip_ms=4,
)
CASES = {
    "chain": CHAIN,
    "diamond": Case(
        {"x": 10, "t": 3, "u": 4, "v": 4, "y": 1},
        {
            "a": ("x -> t", 2, 1),
            "b": ("t -> u", 20, 2),
            "c": ("t -> v", 1, 1),
            "d": ("u v -> y", 20, 2),
        },
        outputs="y",
        server="b c d",
        latency_ms=2 + 3 + (2 + 1 + 2) + 1,  # c on the device: 15, all on the server: 17
    ),
    "skip over the cut": Case(
        {"x": 20, "t": 6, "u": 1, "y": 1},
        {"a": ("x -> t", 2, 1), "b": ("t -> u", 4, 4), "c": ("t u -> y", 30, 3)},
        outputs="y",
        server="b c",
        latency_ms=2 + 6 + (4 + 3) + 1,  # behind b, where t has to be sent as well: 17
    ),
    "two outputs": Case(
        {"x": 9, "t": 2, "y": 8, "z": 1},
        {"a": ("x -> t", 4, 1), "b": ("t -> y", 6, 1), "c": ("t -> z", 12, 1)},
        outputs="y z",
        server="c",
        latency_ms=(4 + 6) + 2 + 1 + 1,  # b on the server as well: 17
    ),
    "output read inside": Case(
        {"x": 10, "t": 3, "y": 1},
        {"a": ("x -> t", 5, 1), "b": ("t -> y", 20, 2)},
        outputs="t y",
        server="b",
        latency_ms=5 + 3 + 2 + 1,  # server-only: 17
    ),
    "output returned twice": Case(
        {"x": 1, "y": 5},
        {"a": ("x -> y", 9, 1)},
        outputs="y y",
        server="a",
        latency_ms=1 + 1 + 5,  # with two downloads it would be 12
    ),
    "input returned": Case(
        {"x": 1, "y": 1},
        {"a": ("x -> y", 9, 1)},
        outputs="x y",
        server="a",
        latency_ms=1 + 1 + 1,
    ),
    "shared tensor": Case(
        {"x": 10, "t": 6, "y": 1, "z": 1},
        {"a": ("x -> t", 1, 1), "b": ("t -> y", 10, 1), "c": ("t -> z", 10, 1)},
        outputs="y z",
        server="b c",
        latency_ms=1 + 6 + (1 + 1) + (1 + 1),  # paid for each reader it would be 17, server-only 15
    ),
    "layer with two outputs": Case(
        {"x": 20, "t": 2, "u": 9, "y": 1, "z": 1},
        {"a": ("x -> t u", 1, 1), "b": ("t -> y", 10, 1), "c": ("u -> z", 1, 1)},
        outputs="y z",
        server="b",
        latency_ms=(1 + 1) + 2 + 1 + 1,  # b and c on the server: 16
    ),
    "two inputs": Case(
        {"p": 1, "q": 30, "t": 40, "u": 2, "y": 1},
        {"a": ("p -> t", 20, 2), "b": ("q -> u", 5, 1), "c": ("t u -> y", 20, 2)},
        outputs="y",
        server="a c",
        latency_ms=5 + (1 + 2) + (2 + 2) + 1,
    ),
    "all on the device": Case(
        {"x": 20, "t": 20, "y": 1},
        {"a": ("x -> t", 5, 1), "b": ("t -> y", 5, 1)},
        outputs="y",
        server="",
        latency_ms=5 + 5,
    ),
    "all on the server": Case(
        {"x": 1, "t": 50, "y": 1},
        {"a": ("x -> t", 10, 1), "b": ("t -> y", 10, 1)},
        outputs="y",
        server="a b",
        latency_ms=1 + (1 + 1) + 1,
    ),
    "server slower on one layer": Case(
        {"x": 10, "t": 4, "u": 2, "y": 1},
        {"a": ("x -> t", 2, 9), "b": ("t -> u", 9, 30), "c": ("u -> y", 40, 4)},
        outputs="y",
        server="c",
        latency_ms=(2 + 9) + 2 + 4 + 1,
    ),
    "server slower between two fast layers": Case(
        {"x": 2, "t": 5, "u": 5, "y": 1},
        {"a": ("x -> t", 30, 1), "b": ("t -> u", 1, 30), "c": ("u -> y", 20, 1)},
        outputs="y",
        server="a b c",
        latency_ms=2 + (1 + 30 + 1) + 1,  # b back on the device would be 11, but is no cut
    ),
    "large output": Case(
        {"x": 1, "y": 10},
        {"a": ("x -> y", 11, 1)},
        outputs="y",
        server="",
        latency_ms=11,  # server-only: 12
    ),
    "round trip that kills the split": replace(CHAIN, round_trip_ms=25, server="", latency_ms=35),
    "round trip that makes a tie": replace(CHAIN, round_trip_ms=24, server="", latency_ms=35),
    "round trip just worth it": replace(CHAIN, round_trip_ms=23, latency_ms=34),
    "loaded server": replace(CHAIN, load=10, server="", latency_ms=35),
    "costs nothing anywhere": Case(
        {"x": 0, "y": 0}, {"a": ("x -> y", 0, 0)}, outputs="y", server="", latency_ms=0
    ),
    "no layers": Case({"x": 1}, {}, outputs="x", server="", latency_ms=0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_latency_by_hand(case: Case) -> None:
    cut = find_cut(case.graph, case.conditions, POWER)
    assert cut.server_layers == set(case.server.split())
    assert make_plan(case.graph, cut).latency_ms(case.conditions) == pytest.approx(case.latency_ms)


@pytest.mark.parametrize(
    ("power", "round_trip_ms", "server", "energy_mj"),
    [
        pytest.param(POWER, 4, "b", 10 + 2 * (3 + 1) + 1 * (2 + 1) + (3 + 4) * 1, id="split"),
        pytest.param(replace(POWER, upload_watts=25), 4, "", 10 + 60, id="dear upload"),
        pytest.param(replace(POWER, upload_watts=24), 4, "", 70, id="tie by the upload"),
        pytest.param(replace(POWER, upload_watts=23), 4, "b", 68, id="dear upload worth it"),
        pytest.param(replace(POWER, download_watts=44), 4, "", 70, id="tie by the download"),
        pytest.param(replace(POWER, download_watts=43), 4, "b", 69, id="dear download worth it"),
        pytest.param(replace(POWER, idle_watts=2), 20, "", 70, id="tie by the round trip"),
        pytest.param(replace(POWER, idle_watts=2), 19, "b", 68, id="long wait worth it"),
        pytest.param(replace(POWER, tail_mj=42), 4, "", 70, id="tie by the tail"),
        pytest.param(replace(POWER, tail_mj=41), 4, "b", 69, id="long tail worth it"),
        pytest.param(replace(POWER, idle_watts=0), 1000, "b", 18, id="waiting is free"),
    ],
)
def test_energy_by_hand(
    power: DevicePower, round_trip_ms: float, server: str, energy_mj: float
) -> None:
    graph = CHAIN.graph  # its layers take 10 and 60 mJ at 2 W
    conditions = replace(LINK, round_trip_ms=round_trip_ms)
    cut = find_cut(graph, conditions, power, Objective.ENERGY)
    assert cut.server_layers == set(server.split())
    assert make_plan(graph, cut).energy_mj(conditions, power) == pytest.approx(energy_mj)


# Under this load CHAIN's split takes 18 ms, device-only 35, server-only 33.
@pytest.mark.parametrize(
    ("entry", "pins", "server", "latency_ms"),
    [
        pytest.param(EntryCharges(14, 0), {}, "b", 32, id="entering the device worth it"),
        pytest.param(EntryCharges(15, 0), {}, "b", 33, id="tie with the server alone"),
        pytest.param(EntryCharges(16, 0), {}, "a b", 33, id="nothing on the device"),
        pytest.param(EntryCharges(0, 8), {}, "b", 34, id="entering the server worth it"),
        pytest.param(EntryCharges(0, 8.5), {}, "", 35, id="tie with the device alone"),
        pytest.param(EntryCharges(50, 0.5), {}, "a b", 34, id="both"),
        pytest.param(EntryCharges(50, 90), {"b": Side.DEVICE}, "", 85, id="pinned to the device"),
        pytest.param(EntryCharges(50, 0), {"a": Side.DEVICE}, "b", 68, id="one pinned"),
        pytest.param(EntryCharges(0, 90), {"b": Side.SERVER}, "b", 198, id="the other pinned"),
    ],
)
def test_entering_a_side_by_hand(
    entry: EntryCharges, pins: Mapping[str, Side], server: str, latency_ms: float
) -> None:
    conditions = replace(CHAIN.conditions, load=2)
    cut = find_cut(CHAIN.graph, conditions, POWER, pins=pins, entry=entry)
    assert cut.server_layers == set(server.split())
    plan = make_plan(CHAIN.graph, cut, entry)
    assert plan.latency_ms(conditions) == pytest.approx(latency_ms)


def test_energy_is_charged_for_entering_too() -> None:
    conditions = replace(LINK, round_trip_ms=4)
    power = replace(POWER, upload_watts=23)  # split 68 mJ, device-only 70, server-only far more
    entered = {
        entry: find_cut(CHAIN.graph, conditions, power, Objective.ENERGY, entry=entry)
        for entry in (EntryCharges(0, 1, 50), EntryCharges(0, 3, 50), EntryCharges(50, 0, 0))
    }
    assert [len(cut.server_layers) for cut in entered.values()] == [1, 0, 1]


@pytest.mark.parametrize(
    ("pins", "server"),
    [
        ({"a": Side.SERVER}, "a b"),
        ({"b": Side.DEVICE}, ""),
        ({"a": Side.DEVICE}, "b"),
        ({"a": Side.DEVICE, "b": Side.SERVER}, "b"),
    ],
)
def test_pins_move_the_cut(pins: Mapping[str, Side], server: str) -> None:
    cut = find_cut(CHAIN.graph, CHAIN.conditions, POWER, pins=pins)
    assert cut.server_layers == set(server.split())


def test_pin_to_the_server_outweighs_any_round_trip() -> None:
    conditions = replace(LINK, round_trip_ms=1e6)
    cut = find_cut(CHAIN.graph, conditions, POWER, pins={"b": Side.SERVER})
    assert cut.server_layers == {"b"}


def _cost(plan: Plan, conditions: Conditions, power: DevicePower, objective: Objective) -> float:
    if objective is Objective.LATENCY:
        return plan.latency_ms(conditions)
    return plan.energy_mj(conditions, power)


def _satisfies(cut: Cut, pins: Mapping[str, Side]) -> bool:
    return all((side is Side.SERVER) == (name in cut.server_layers) for name, side in pins.items())


def _some_pins(data: st.DataObject, graph: LayerGraph) -> dict[str, Side]:
    if not graph.layers:
        return {}
    names = st.sampled_from(sorted(graph.by_name))
    return data.draw(st.dictionaries(names, st.sampled_from(Side), max_size=3))


@thorough
@given(
    st.one_of(layer_graphs(any_costs), encoded_graphs(any_costs)),
    conditions(any_costs),
    powers(any_costs),
    st.sampled_from(Objective),
    entry_charges(any_costs),
    st.data(),
)
def test_agrees_with_brute_force(
    graph: LayerGraph,
    conditions: Conditions,
    power: DevicePower,
    objective: Objective,
    entry: EntryCharges,
    data: st.DataObject,
) -> None:
    pins = _some_pins(data, graph)
    allowed = [cut for cut in all_cuts(graph) if _satisfies(cut, pins)]
    if not allowed:
        with pytest.raises(InfeasibleError):
            find_cut(graph, conditions, power, objective, pins, entry)
        return
    found = find_cut(graph, conditions, power, objective, pins, entry)
    assert _satisfies(found, pins)
    least = min(
        _cost(make_plan(graph, cut, entry), conditions, power, objective) for cut in allowed
    )
    rounding = 1e-6 * (2 + len(graph.layers) + len(graph.tensors))
    found_cost = _cost(make_plan(graph, found, entry), conditions, power, objective)
    assert found_cost == pytest.approx(least, abs=rounding)


@thorough
@given(
    st.one_of(layer_graphs(), encoded_graphs()),
    conditions(),
    powers(),
    st.sampled_from(Objective),
    entry_charges(),
    st.data(),
)
def test_of_equal_cuts_the_device_keeps_most(
    graph: LayerGraph,
    conditions: Conditions,
    power: DevicePower,
    objective: Objective,
    entry: EntryCharges,
    data: st.DataObject,
) -> None:
    pins = _some_pins(data, graph)
    costs = {
        cut: _cost(make_plan(graph, cut, entry), conditions, power, objective)
        for cut in all_cuts(graph)
        if _satisfies(cut, pins)
    }
    if costs:
        best = [cut for cut, cost in costs.items() if cost == min(costs.values())]
        fewest = min(len(cut.server_layers) for cut in best)
        found = find_cut(graph, conditions, power, objective, pins, entry)
        assert found in best
        assert len(found.server_layers) == fewest


@thorough
@given(layer_graphs(), conditions(), powers(), st.sampled_from([-1, 0, 1]))
def test_a_tail_is_worth_what_the_server_saves(
    graph: LayerGraph, conditions: Conditions, power: DevicePower, beyond_mj: float
) -> None:
    def energies(tail_mj: float) -> dict[Cut, float]:
        given = replace(power, tail_mj=tail_mj)
        return {cut: make_plan(graph, cut).energy_mj(conditions, given) for cut in all_cuts(graph)}

    without_tail = energies(tail_mj=0)
    saved_mj = without_tail[Cut.device_only()] - min(without_tail.values())
    tail_mj = max(0, saved_mj + beyond_mj)
    found = find_cut(graph, conditions, replace(power, tail_mj=tail_mj), Objective.ENERGY)
    assert bool(found.server_layers) == (tail_mj < saved_mj)
    with_tail = energies(tail_mj)
    assert with_tail[found] == min(with_tail.values())


@thorough
@given(layer_graphs(), st.data())
def test_large_costs_give_the_same_cut(graph: LayerGraph, data: st.DataObject) -> None:
    """Capacities near the end of 64 bits, and infinite ones on top of them."""
    pins = _some_pins(data, graph)
    scale = 2.0**29

    def scaled(cost: LayerCost) -> LayerCost:
        return LayerCost(cost.device_ms * scale, cost.server_ms * scale, cost.device_mj * scale)

    slow = graph.with_layers(
        replace(layer, cost=scaled(layer.annotated_cost)) for layer in graph.layers
    )
    slow_link = replace(LINK, uplink_mbps=8 / scale, downlink_mbps=8 / scale)
    try:
        expected = find_cut(graph, LINK, POWER, pins=pins)
    except InfeasibleError:
        return
    assert find_cut(slow, slow_link, POWER, pins=pins) == expected


def test_a_nanosecond_decides() -> None:
    def server_layers(device_ms: float) -> frozenset[str]:
        layers = {"a": ("x -> t", 1.0, 5.0), "b": ("t -> y", device_ms, 1.0)}
        graph = tiny_graph({"x": 0, "t": 0, "y": 0}, layers, "y")
        return find_cut(graph, LINK, POWER).server_layers

    assert server_layers(1.0) == set()
    assert server_layers(1.000001) == {"b"}


def test_costs_too_large_to_add_up() -> None:
    with pytest.raises(TargetError) as error:
        find_cut(CHAIN.graph, replace(LINK, uplink_mbps=1e-12), POWER)
    assert str(error.value) == (
        "layers and transfers cost 1.84e+14 ms or mJ together, expected at most 5.76e+11; "
        "check the rates of the network and the layers' costs"
    )


def test_graph_without_costs() -> None:
    graph = CHAIN.graph.with_layers(replace(layer, cost=None) for layer in CHAIN.graph.layers)
    with pytest.raises(GraphError, match="layer 'a' has no cost; run the annotate pass first"):
        find_cut(graph, LINK, POWER)


def _chain(length: int) -> LayerGraph:
    """A chain whose tensors shrink, and whose layers grow cheaper on the server."""
    kilobytes = {f"t{index}": (length - index) ** 2 // length for index in range(length + 1)}
    layers = {
        f"layer{index}": (f"t{index} -> t{index + 1}", 1 + index % 3, 2 - 2 * index / length)
        for index in range(length)
    }
    return tiny_graph(kilobytes, layers, f"t{length}")


def test_pins_against_the_flow_name_both_layers_and_the_path() -> None:
    graph = CASES["diamond"].graph
    with pytest.raises(InfeasibleError) as error:
        find_cut(graph, LINK, POWER, pins={"d": Side.DEVICE, "a": Side.SERVER})
    assert str(error.value) == (
        "layer 'd' is pinned to the device but depends on 'a', which is pinned to the server "
        "(a -> b -> d), and nothing returns from the server to device layers; "
        "drop one of the two pins"
    )


def test_long_path_is_shortened() -> None:
    pins = {"layer0": Side.SERVER, "layer19": Side.DEVICE}
    with pytest.raises(InfeasibleError) as error:
        find_cut(_chain(20), LINK, POWER, pins=pins)
    path = "layer0 -> layer1 -> layer2 -> layer3 -> … -> layer16 -> layer17 -> layer18 -> layer19"
    assert f"({path})" in str(error.value)


def test_ten_thousand_layers_in_a_chain() -> None:
    graph = _chain(10_000)
    costs = [layer.annotated_cost for layer in graph.layers]
    device_ms = [0.0, *accumulate(cost.device_ms for cost in costs)]
    server_ms = [0.0, *accumulate(cost.server_ms for cost in reversed(costs))][::-1]
    returned = graph.outputs[0].nbytes / 1000
    latencies = [
        device + tensor.nbytes / 1000 + server + returned
        for device, tensor, server in zip(device_ms, graph.tensors, server_ms, strict=True)
    ]
    least = min(*latencies[:-1], device_ms[-1])
    plan = make_plan(graph, find_cut(graph, LINK, POWER))
    assert plan.latency_ms(LINK) == pytest.approx(least)
    assert plan.device_layers
    assert plan.server_layers


def test_ten_thousand_layers_that_read_back() -> None:
    length = 10_000
    kilobytes = {f"t{index}": 30 + index * 7919 % 101 for index in range(length + 1)}
    layers = {
        f"layer{index}": (
            " ".join(dict.fromkeys(f"t{max(0, index - back)}" for back in (0, 3, 7)))
            + f" -> t{index + 1}",
            1 + index * 104729 % 5,
            4 - 4 * index / length,
        )
        for index in range(length)
    }
    graph = tiny_graph(kilobytes, layers, f"t{length}")
    plan = make_plan(graph, find_cut(graph, LINK, POWER))
    assert plan.device_layers
    assert plan.server_layers
    names = list(layers)
    for start in range(0, length, 1000):
        straight = make_plan(graph, Cut(frozenset(names[start:])))
        assert plan.latency_ms(LINK) <= straight.latency_ms(LINK) + 1e-3
