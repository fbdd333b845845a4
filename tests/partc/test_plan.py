from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import all_cuts, encoded_graphs, layer_graphs, thorough, tiny_graph

from partc.errors import GraphError
from partc.graph import LayerGraph
from partc.plan import (
    Conditions,
    Cut,
    DevicePower,
    EntryCharges,
    NamedPlan,
    Objective,
    Plan,
    PlanTable,
    Side,
    check_cut,
    make_plan,
    transfer_ms,
)

# Two branches over a shared tensor; y is read inside and returned twice, x is returned as it came.
GRAPH = tiny_graph(
    {"x": 10, "w": 3, "t": 6, "y": 4, "z": 2},
    {
        "a": ("x -> t", 5, 1),
        "b": ("t w -> y", 20, 2),
        "c": ("y t -> z", 30, 4),
    },
    outputs="y z y x",
)
LINK = Conditions(uplink_mbps=4, downlink_mbps=16, round_trip_ms=7)  # 2 and 1/2 ms a kilobyte
POWER = DevicePower(busy_watts=2, idle_watts=0.5, upload_watts=3, download_watts=1.5)


def _cut(*server: str) -> Cut:
    return Cut(frozenset(server))


def _plan(*server: str) -> Plan:
    return make_plan(GRAPH, _cut(*server))


def _crossing(plan: Plan) -> tuple[str, str]:
    """Names of the tensors sent up and down."""
    return (
        " ".join(tensor.name for tensor in plan.upload),
        " ".join(tensor.name for tensor in plan.download),
    )


def test_sides_and_objectives_are_the_words_that_users_type() -> None:
    assert [Side("device"), Side("server")] == list(Side)
    words = ("latency", "energy", "weighted", "throughput")
    assert list(map(Objective, words)) == list(Objective)
    assert json.dumps([Side.DEVICE, Objective.ENERGY]) == '["device", "energy"]'


def test_cuts_know_their_sides() -> None:
    a, b, _ = GRAPH.layers
    assert _cut("b").side(a) is Side.DEVICE
    assert _cut("b").side(b) is Side.SERVER
    assert Cut.device_only() == _cut()
    assert Cut.server_only(GRAPH) == _cut("a", "b", "c")


@pytest.mark.parametrize(
    ("nbytes", "rate_mbps", "expected_ms"),
    [
        (1_000, 8, 1),
        (0, 8, 0),
        (618_348, 1.1, 4_497.07),
        (618_348, 5.85, 845.60),
        (618_348, 18.88, 262.01),
    ],
)
def test_transfer_time(nbytes: int, rate_mbps: float, expected_ms: float) -> None:
    assert transfer_ms(nbytes, rate_mbps) == pytest.approx(expected_ms, rel=1e-5)


@pytest.mark.parametrize(
    ("server", "crossing", "device_ms", "server_ms", "latency_ms", "energy_mj"),
    [
        pytest.param("", ("", ""), 55, 0, 55, 110, id="device-only"),
        pytest.param(
            "a b c",
            ("x w", "y z"),
            0,
            7,
            (10 + 3) * 2 + (4 + 2) / 2 + 7 + 7,
            26 * 3 + 3 * 1.5 + (26 + 3 + 7 + 7) * 0.5,
            id="server-only",
        ),
        pytest.param(
            "b c",
            ("w t", "y z"),
            5,
            6,
            5 + (3 + 6) * 2 + (4 + 2) / 2 + 7 + 6,
            10 + 18 * 3 + 3 * 1.5 + (18 + 3 + 7 + 6) * 0.5,
            id="shared tensor once",
        ),
        pytest.param(
            "c",
            ("t y", "z"),
            25,
            4,
            25 + (6 + 4) * 2 + 2 / 2 + 7 + 4,
            50 + 20 * 3 + 1 * 1.5 + (20 + 1 + 7 + 4) * 0.5,
            id="output made on the device",
        ),
    ],
)
def test_plan_by_hand(
    server: str,
    crossing: tuple[str, str],
    device_ms: float,
    server_ms: float,
    latency_ms: float,
    energy_mj: float,
) -> None:
    plan = _plan(*server.split())
    assert plan.cut == _cut(*server.split())
    assert _crossing(plan) == crossing
    assert (plan.device_ms, plan.server_ms, plan.device_mj) == (device_ms, server_ms, 2 * device_ms)
    assert plan.latency_ms(LINK) == pytest.approx(latency_ms)
    assert plan.energy_mj(LINK, POWER) == pytest.approx(energy_mj)


@pytest.mark.parametrize(
    ("server", "charged_ms", "charged_mj"),
    [("", (8, 0), 24), ("a b c", (0, 3), 0), ("c", (8, 3), 24), ("b c", (8, 3), 24)],
)
def test_a_side_that_computes_is_entered_once(
    server: str, charged_ms: tuple[float, float], charged_mj: float
) -> None:
    cut = _cut(*server.split())
    entered, free = make_plan(GRAPH, cut, EntryCharges(8, 3, 24)), make_plan(GRAPH, cut)
    assert (entered.device_ms - free.device_ms, entered.server_ms - free.server_ms) == charged_ms
    assert entered.device_mj - free.device_mj == charged_mj
    loaded = replace(LINK, load=2)
    assert entered.latency_ms(loaded) - free.latency_ms(loaded) == charged_ms[0] + 2 * charged_ms[1]
    assert entered.energy_mj(loaded, POWER) - free.energy_mj(loaded, POWER) == pytest.approx(
        charged_mj + POWER.idle_watts * 2 * charged_ms[1]
    )


def test_a_graph_without_layers_enters_nothing() -> None:
    plan = make_plan(tiny_graph({"x": 1}, {}, "x"), _cut(), EntryCharges(8, 3, 24))
    assert (plan.device_ms, plan.server_ms, plan.device_mj) == (0, 0, 0)


@pytest.mark.parametrize("charge", [-1.0, float("nan"), float("inf")])
def test_charges_that_are_none(charge: float) -> None:
    with pytest.raises(GraphError, match="a charge must be finite and not negative"):
        EntryCharges(server_ms=charge)


def test_plan_lists_layers_in_the_graphs_order() -> None:
    assert _plan("c", "b").device_layers == ("a",)
    assert _plan("c", "b").server_layers == ("b", "c")


def test_transfer_terms() -> None:
    plan = _plan("b", "c")
    assert (plan.upload_nbytes, plan.download_nbytes) == (9_000, 6_000)
    assert plan.upload_ms(LINK) == pytest.approx(18)
    assert plan.download_ms(LINK) == pytest.approx(3)
    assert plan.transfer_ms(LINK) == pytest.approx(18 + 3 + 7)
    assert _plan().transfer_ms(LINK) == 0


def test_load_slows_the_server_and_leaves_the_device_idle() -> None:
    loaded = replace(LINK, load=3)
    split, local = _plan("b", "c"), _plan()
    extra_ms = 2 * 6
    assert split.latency_ms(loaded) == pytest.approx(split.latency_ms(LINK) + extra_ms)
    assert split.energy_mj(loaded, POWER) == pytest.approx(
        split.energy_mj(LINK, POWER) + 0.5 * extra_ms
    )
    assert local.latency_ms(loaded) == local.latency_ms(LINK)


def test_server_layer_that_needs_nothing_still_pays_the_round_trip() -> None:
    graph = tiny_graph({"x": 1, "k": 1}, {"constant": (" -> k", 5, 1)}, outputs="x")
    plan = make_plan(graph, _cut("constant"))
    assert _crossing(plan) == ("", "")
    assert plan.latency_ms(LINK) == pytest.approx(7 + 1)


@pytest.mark.parametrize("build", [check_cut, make_plan])
@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (_cut("a"), "layer 'b' on the device reads %t, which layer 'a' makes on the server"),
        (_cut("a", "b"), "layer 'c' on the device reads %y, which layer 'b' makes on the server"),
        (_cut("b", "z", "n"), "the cut names layers that 'tiny' lacks: ['n', 'z']"),
    ],
)
def test_broken_cut(build: Callable[[LayerGraph, Cut], object], cut: Cut, message: str) -> None:
    with pytest.raises(GraphError) as error:
        build(GRAPH, cut)
    assert str(error.value) == message


def test_plan_of_a_graph_without_costs() -> None:
    graph = GRAPH.with_layers(replace(layer, cost=None) for layer in GRAPH.layers)
    with pytest.raises(GraphError, match="layer 'a' has no cost; run the annotate pass first"):
        make_plan(graph, Cut.device_only())


def _is_monotone(graph: LayerGraph, cut: Cut) -> bool:
    try:
        check_cut(graph, cut)
    except GraphError:
        return False
    return True


@thorough
@given(layer_graphs(max_layers=6))
def test_check_accepts_exactly_the_monotone_cuts(graph: LayerGraph) -> None:
    names = list(graph.by_name)
    subsets = [
        Cut(frozenset(name for bit, name in enumerate(names) if mask >> bit & 1))
        for mask in range(2 ** len(names))
    ]
    accepted = {cut for cut in subsets if _is_monotone(graph, cut)}
    assert accepted == set(all_cuts(graph))


@thorough
@given(st.one_of(layer_graphs(max_layers=6), encoded_graphs()))
def test_upload_is_what_the_server_lacks(graph: LayerGraph) -> None:
    for cut in all_cuts(graph):
        plan = make_plan(graph, cut)
        assert plan.cut == cut
        uploaded = {tensor.name for tensor in plan.upload}
        assert len(uploaded) == len(plan.upload)
        known = set(uploaded)
        needed: set[str] = set()
        for name in plan.server_layers:
            layer = graph.by_name[name]
            needed |= {tensor.name for tensor in layer.inputs}
            assert needed <= known
            known |= {tensor.name for tensor in layer.outputs}
        assert uploaded <= needed
        assert {tensor.name for tensor in plan.download} == {
            tensor.name for tensor in graph.outputs
        } & (known - uploaded)


def _named(name: str, *server: str) -> NamedPlan:
    return NamedPlan(name, _plan(*server), (), ())


def test_table_finds_a_plan_by_its_cut() -> None:
    split = _named("cut-1", "b", "c")
    table = PlanTable((), (_named("server-only", "a", "b", "c"), _named("device-only"), split))
    assert table.find(_cut("c", "b")) is split
    assert table.find(Cut.device_only()).name == "device-only"
    with pytest.raises(GraphError) as error:
        table.find(_cut("c"))
    assert str(error.value) == "the plan table has no plan with this cut"


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["server-only"],
        ["device-only", "server-only"],
        ["server-only", "device-only", "device-only"],
    ],
)
def test_table_starts_with_the_two_plans_without_a_split(names: list[str]) -> None:
    with pytest.raises(GraphError) as error:
        PlanTable((), tuple(_named(name) for name in names))
    assert str(error.value) == f"a plan table starts with server-only, device-only: {names}"
