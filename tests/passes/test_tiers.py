from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    any_costs,
    conditions,
    entry_charges,
    layer_graphs,
    powers,
    thorough,
    tiny_graph,
)

from partc.cost import LATENCY, UPLOAD_NBYTES, Cost, energy
from partc.errors import GraphError, TargetError
from partc.graph import LayerGraph
from partc.passes.chain import Chain, Tier, TierPlan, make_tier_plan
from partc.passes.cut import find_cut
from partc.passes.price import price
from partc.passes.tiers import find_tiers
from partc.plan import Conditions, DevicePower, EntryCharges, Plan, make_plan

LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)  # a kilobyte takes a millisecond
POWER = DevicePower(busy_watts=2, idle_watts=1, upload_watts=3, download_watts=2)
OBJECTIVES = ("latency", "energy", "weighted")


def cost_of(objective: str, power: DevicePower) -> Cost:
    return {
        "latency": LATENCY,
        "energy": energy(power),
        "weighted": LATENCY + energy(power) * 0.5,
    }[objective]


def value(plan: TierPlan, objective: str) -> float:
    return {
        "latency": plan.latency_ms,
        "energy": plan.energy_mj,
        "weighted": plan.latency_ms + 0.5 * plan.energy_mj,
    }[objective]


@st.composite
def chains(
    draw: st.DrawFn,
    graph: LayerGraph,
    costs: st.SearchStrategy[float],
    machines: st.SearchStrategy[int],
) -> Chain:
    count, layers = draw(machines), len(graph.layers)
    times = st.lists(costs, min_size=layers, max_size=layers).map(tuple)
    entries = st.one_of(st.just(0.0), costs)
    return Chain(
        tiers=tuple(Tier(f"m{position}", draw(times), draw(entries)) for position in range(count)),
        links=tuple(draw(conditions(costs)) for _ in range(count - 1)),
        power=draw(powers(costs)),
    )


def all_placements(graph: LayerGraph, machines: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every placement in which no layer reads what was made further from the device."""

    def extend(placed: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(placed) == len(graph.layers):
            yield placed
            return
        layer = graph.layers[len(placed)]
        makers = [graph.producers.get(tensor.name) for tensor in layer.inputs]
        nearest = max((placed[graph.layers.index(each)] for each in makers if each), default=0)
        for machine in machines:
            if machine >= nearest:
                yield from extend((*placed, machine))

    return extend(())


def by_hand(graph: LayerGraph, chain: Chain, placement: Sequence[int], objective: str) -> float:
    """What a placement costs, step by step and machine by machine, as the issue words it."""
    machine = dict(zip((layer.name for layer in graph.layers), placement, strict=True))
    home = {tensor.name: 0 for tensor in graph.inputs}
    home |= {each.name: machine[layer.name] for layer in graph.layers for each in layer.outputs}
    device_ms = waiting_ms = radio_mj = 0.0
    for position, tier in enumerate(chain.tiers):
        times = [ms for ms, at in zip(tier.layers_ms, placement, strict=True) if at == position]
        if times and position == 0:
            device_ms += tier.entry_ms + sum(times)
        elif times:
            waiting_ms += (tier.entry_ms + sum(times)) * chain.links[position - 1].load
    for position, link in enumerate(chain.links):
        if any(at > position for at in placement):
            waiting_ms += link.round_trip_ms
            radio_mj += chain.power.tail_mj if position == 0 else 0
        for tensor in graph.tensors:
            readers = [machine[layer.name] for layer in graph.consumers[tensor.name]]
            if home[tensor.name] <= position < max(readers, default=0):
                up_ms = 8 * tensor.nbytes / link.uplink_mbps / 1000
                waiting_ms += up_ms
                radio_mj += up_ms * chain.power.upload_watts if position == 0 else 0
            if tensor in graph.outputs and home[tensor.name] > position:
                down_ms = 8 * tensor.nbytes / link.downlink_mbps / 1000
                waiting_ms += down_ms
                radio_mj += down_ms * chain.power.download_watts if position == 0 else 0
    latency_ms = device_ms + waiting_ms
    energy_mj = device_ms * chain.power.busy_watts + radio_mj + waiting_ms * chain.power.idle_watts
    return {
        "latency": latency_ms,
        "energy": energy_mj,
        "weighted": latency_ms + 0.5 * energy_mj,
    }[objective]


def placement_of(graph: LayerGraph, plan: TierPlan) -> tuple[int, ...]:
    at = {name: tier for tier, names in enumerate(plan.layers) for name in names}
    return tuple(at[layer.name] for layer in graph.layers)


@thorough
@given(st.data(), st.sampled_from(OBJECTIVES))
def test_agrees_with_brute_force(data: st.DataObject, objective: str) -> None:
    graph = data.draw(layer_graphs(max_layers=6))
    chain = data.draw(chains(graph, any_costs, st.integers(2, 4)))
    machines = data.draw(
        st.sets(st.integers(0, len(chain.tiers) - 1), min_size=1)
        | st.just(set(range(len(chain.tiers))))
    )
    costs = [
        by_hand(graph, chain, placement, objective)
        for placement in all_placements(graph, sorted(machines))
    ]
    found = find_tiers(graph, chain, cost_of(objective, chain.power), machines)
    assert set(placement_of(graph, found)) <= machines
    rounding = 1e-6 * 4 * (2 + len(graph.layers) + len(graph.tensors))
    assert value(found, objective) == pytest.approx(min(costs), abs=rounding)
    assert value(found, objective) == pytest.approx(
        by_hand(graph, chain, placement_of(graph, found), objective)
    )


@thorough
@given(st.data(), st.sampled_from(OBJECTIVES[:2]))
def test_of_equal_plans_layers_stay_nearest_to_the_device(
    data: st.DataObject, objective: str
) -> None:
    graph = data.draw(layer_graphs(max_layers=5))
    chain = data.draw(chains(graph, st.integers(0, 2).map(float), st.integers(2, 4)))
    costs = {
        placement: by_hand(graph, chain, placement, objective)
        for placement in all_placements(graph, range(len(chain.tiers)))
    }
    best = [placement for placement, cost in costs.items() if cost == min(costs.values())]
    found = placement_of(graph, find_tiers(graph, chain, cost_of(objective, chain.power)))
    assert found in best
    assert sum(found) == min(map(sum, best))


def as_chain(graph: LayerGraph, link: Conditions, power: DevicePower, entry: EntryCharges) -> Chain:
    costs = [layer.annotated_cost for layer in graph.layers]
    device = Tier("device", tuple(cost.device_ms for cost in costs), entry.device_ms)
    server = Tier("server", tuple(cost.server_ms for cost in costs), entry.server_ms)
    return Chain((device, server), (link,), power)


def powered(graph: LayerGraph, watts: float) -> LayerGraph:
    costs = ((layer, layer.annotated_cost) for layer in graph.layers)
    return graph.with_layers(
        replace(layer, cost=replace(cost, device_mj=cost.device_ms * watts))
        for layer, cost in costs
    )


@thorough
@given(
    layer_graphs(),
    conditions(),
    powers(),
    entry_charges(),
    st.sampled_from([*OBJECTIVES, "upload"]),
)
def test_two_machines_are_the_cut(
    graph: LayerGraph,
    link: Conditions,
    power: DevicePower,
    entry: EntryCharges,
    objective: str,
) -> None:
    graph = powered(graph, power.busy_watts)
    entry = replace(entry, device_mj=entry.device_ms * power.busy_watts)
    cost = UPLOAD_NBYTES if objective == "upload" else cost_of(objective, power)
    cut = find_cut(graph, price(graph, cost, link, entry))
    found = find_tiers(graph, as_chain(graph, link, power, entry), cost)
    assert set(found.layers[1]) == cut.server_layers
    same_as(found, make_plan(graph, cut, entry), link, power)


def same_as(found: TierPlan, plan: Plan, link: Conditions, power: DevicePower) -> None:
    assert found.layers == (plan.device_layers, plan.server_layers)
    assert (found.up, found.down) == ((plan.upload,), (plan.download,))
    assert found.transfers_ms == pytest.approx((plan.transfer_ms(link),))
    assert found.latency_ms == pytest.approx(plan.latency_ms(link))
    assert found.energy_mj == pytest.approx(plan.energy_mj(link, power))


GRAPH = tiny_graph(
    {"x": 20, "t": 4, "u": 2, "y": 1},
    {"a": ("x -> t", 5, 0), "b": ("t -> u", 30, 0), "c": ("u -> y", 40, 0)},
    "y",
)


def three(
    edge_ms: tuple[float, ...] = (2, 6, 8),
    cloud_ms: tuple[float, ...] = (1, 4, 2),
    links: tuple[Conditions, ...] = (LINK, LINK),
    entries_ms: tuple[float, ...] = (0, 0, 0),
    power: DevicePower = POWER,
) -> Chain:
    device, edge, cloud = entries_ms
    return Chain(
        (
            Tier("device", (5, 30, 40), device),
            Tier("edge", edge_ms, edge),
            Tier("cloud", cloud_ms, cloud),
        ),
        links,
        power,
    )


@pytest.mark.parametrize(
    ("chain", "placement", "latency_ms"),
    [
        # a on the device, t up, b on the edge, u up, c in the cloud, y over both links back.
        (three(), (0, 1, 2), 5 + 4 + 6 + 2 + 2 + (1 + 1)),
        (three(cloud_ms=(1, 4, 20)), (0, 1, 1), 5 + 4 + (6 + 8) + 1),
        (three(edge_ms=(2, 20, 30)), (0, 2, 2), 5 + (4 + 4) + (4 + 2) + (1 + 1)),
        (three(entries_ms=(0, 3, 0)), (0, 2, 2), 5 + (4 + 4) + (4 + 2) + (1 + 1)),
        (three(entries_ms=(0, 0, 6)), (0, 1, 1), 5 + 4 + (6 + 8) + 1),
        (three(entries_ms=(15, 0, 0)), (1, 1, 2), 20 + (2 + 6) + 2 + 2 + (1 + 1)),
        (three(links=(LINK, replace(LINK, round_trip_ms=4))), (0, 1, 1), 5 + 4 + (6 + 8) + 1),
        (
            three(links=(replace(LINK, round_trip_ms=4), LINK)),
            (0, 1, 2),
            5 + 4 + 6 + 2 + 2 + (1 + 1) + 4,
        ),
        (three(links=(LINK, replace(LINK, uplink_mbps=4))), (0, 1, 2), 5 + 4 + 6 + 4 + 2 + (1 + 1)),
        (three(links=(LINK, replace(LINK, downlink_mbps=1))), (0, 1, 1), 5 + 4 + (6 + 8) + 1),
        (three(links=(LINK, replace(LINK, load=3))), (0, 1, 1), 5 + 4 + (6 + 8) + 1),
        (three(links=(replace(LINK, round_trip_ms=99), LINK)), (0, 0, 0), 75),
    ],
    ids=[
        *("all three", "slow cloud", "slow edge", "edge dear to enter", "cloud dear to enter"),
        *("device dear to enter", "far cloud", "far edge", "slow uplink", "slow downlink"),
        *("busy cloud", "too far"),
    ],
)
def test_latency_by_hand(chain: Chain, placement: tuple[int, ...], latency_ms: float) -> None:
    found = find_tiers(GRAPH, chain, LATENCY)
    assert placement_of(GRAPH, found) == placement
    assert found.latency_ms == latency_ms


def test_a_machine_in_between_passes_on_without_being_entered() -> None:
    plan = find_tiers(GRAPH, three(edge_ms=(9, 99, 99), entries_ms=(0, 50, 3)), LATENCY)
    assert plan.layers == (("a",), (), ("b", "c"))
    assert plan.up_nbytes == (4_000, 4_000)
    assert plan.down_nbytes == (1_000, 1_000)
    assert plan.compute_ms == (5, 0, 3 + 4 + 2)
    assert plan.last == 2


def test_the_device_pays_for_its_own_link_and_waits_for_the_others() -> None:
    slow = replace(LINK, uplink_mbps=4, downlink_mbps=2, round_trip_ms=7)
    chain = three(links=(LINK, slow), power=replace(POWER, tail_mj=10))
    plan = make_tier_plan(GRAPH, chain, (0, 1, 2))
    waiting_ms = (4 + 6) + (2 * 2 + 2 + 4 + 7) + 1
    assert plan.latency_ms == 5 + waiting_ms
    assert plan.energy_mj == 5 * 2 + (4 * 3 + 1 * 2 + 10) + waiting_ms * 1
    assert plan.transfers_ms == (4 + 1, 4 + 4 + 7)


def test_energy_and_latency_choose_differently() -> None:
    hungry = three(power=replace(POWER, upload_watts=30))
    assert find_tiers(GRAPH, hungry, LATENCY).layers[0] == ("a",)
    assert find_tiers(GRAPH, hungry, energy(hungry.power)).layers[0] == ("a", "b")


def test_the_tail_of_the_radio_keeps_layers_at_home() -> None:
    tailed = three(cloud_ms=(1, 4, 20), power=replace(POWER, tail_mj=150))
    assert find_tiers(GRAPH, tailed, energy(POWER)).layers == (("a",), ("b", "c"), ())
    plan = find_tiers(GRAPH, tailed, energy(tailed.power))
    assert plan.layers == (("a", "b", "c"), (), ())
    assert plan.energy_mj == 75 * 2


def test_what_several_machines_read_travels_over_each_link_once() -> None:
    graph = tiny_graph(
        {"x": 3, "t": 2, "u": 1, "y": 1, "z": 1},
        {
            "a": ("x -> t", 1, 0),
            "b": ("t -> u", 1, 0),
            "c": ("t u -> y", 1, 0),
            "d": ("t -> z", 1, 0),
        },
        "y z t",
    )
    chain = replace(three(), tiers=tuple(Tier(name, (1,) * 4) for name in "abc"))
    plan = make_tier_plan(graph, chain, (0, 1, 2, 2))
    assert [[tensor.name for tensor in each] for each in plan.up] == [["t"], ["t", "u"]]
    assert [[tensor.name for tensor in each] for each in plan.down] == [["y", "z"], ["y", "z"]]
    plan = make_tier_plan(graph, chain, (0, 1, 2, 1))
    assert [[tensor.name for tensor in each] for each in plan.up] == [["t"], ["t", "u"]]
    plan = make_tier_plan(graph, chain, (1, 2, 2, 2))
    assert [[tensor.name for tensor in each] for each in plan.up] == [["x"], ["t"]]
    assert [[tensor.name for tensor in each] for each in plan.down] == [["y", "z", "t"], ["y", "z"]]


def test_no_layers() -> None:
    graph = replace(GRAPH, layers=(), outputs=GRAPH.inputs)
    chain = replace(three(), tiers=tuple(Tier(name, (), 5.0) for name in "abc"))
    plan = find_tiers(graph, chain, LATENCY)
    assert (plan.layers, plan.latency_ms) == (((), (), ()), 0)


def test_nothing_goes_back_to_a_machine_nearer_to_the_device() -> None:
    with pytest.raises(GraphError) as error:
        make_tier_plan(GRAPH, three(), (0, 2, 1))
    assert str(error.value) == (
        "layer 'c' on machine 1 reads %u, which is made further from the device, on machine 2"
    )


@pytest.mark.parametrize(
    ("tiers", "links", "found"),
    [
        ((), (), "0 machines, 0 links and times for no layers"),
        ((3,), (), "1 machines, 0 links and times for 3 layers"),
        ((3, 3, 3), (LINK,), "3 machines, 1 links and times for 3 layers"),
        ((3, 3), (LINK, LINK), "2 machines, 2 links and times for 3 layers"),
        ((3, 2), (LINK,), "2 machines, 1 links and times for 2, 3 layers"),
    ],
)
def test_what_is_no_chain(
    tiers: tuple[int, ...], links: tuple[Conditions, ...], found: str
) -> None:
    with pytest.raises(GraphError) as error:
        Chain(tuple(Tier("m", (1.0,) * layers) for layers in tiers), links, POWER)
    assert str(error.value) == (
        "a chain has two machines or more that know the same layers, and a link between each two, "
        f"not {found}"
    )


@pytest.mark.parametrize("times", [((-1.0,), 0.0), ((math.inf,), 0.0), ((1.0,), math.nan)])
def test_times_that_are_none(times: tuple[tuple[float, ...], float]) -> None:
    with pytest.raises(GraphError, match="times on jetson must be finite and not negative"):
        Tier("jetson", *times)


def test_costs_too_large_to_add_up() -> None:
    reason = r"layers and transfers cost 2.16e\+14 ms or mJ together.*; check the rates of the net"
    with pytest.raises(TargetError, match=reason):
        find_tiers(GRAPH, three(links=(LINK, replace(LINK, uplink_mbps=1e-12))), LATENCY)


@thorough
@given(st.data())
def test_large_costs_give_the_same_plan(data: st.DataObject) -> None:
    """Capacities near the end of 64 bits, and infinite ones on top of them."""
    graph = data.draw(layer_graphs(max_layers=6))
    chain = data.draw(chains(graph, st.integers(0, 20).map(float), st.just(3)))
    scale = 2.0**29
    large = Chain(
        tuple(
            Tier(tier.name, tuple(ms * scale for ms in tier.layers_ms), tier.entry_ms * scale)
            for tier in chain.tiers
        ),
        tuple(
            Conditions(
                link.uplink_mbps / scale,
                link.downlink_mbps / scale,
                link.round_trip_ms * scale,
                link.load,
            )
            for link in chain.links
        ),
        chain.power,
    )
    assert find_tiers(graph, large, LATENCY).layers == find_tiers(graph, chain, LATENCY).layers


def test_a_thousand_layers_on_four_machines() -> None:
    """Against a walk along the chain that carries the least latency of ending on each machine."""
    length, machines = 1_000, 4
    kilobytes = {f"t{index}": 1 + index * 7919 % 101 for index in range(length + 1)}
    layers = {f"l{index}": (f"t{index} -> t{index + 1}", 0, 0) for index in range(length)}
    graph = tiny_graph(kilobytes, layers, f"t{length}")
    times = [
        tuple((1 + index * 7 % 5) * (1 + abs(4 * index / length - at)) for index in range(length))
        for at in range(machines)
    ]
    chain = Chain(tuple(Tier(f"m{at}", each) for at, each in enumerate(times)), (LINK,) * 3, POWER)
    least = [float(kilobytes["t0"] * machine) for machine in range(machines)]
    for index in range(length):
        if index:
            kb = kilobytes[f"t{index}"]
            for machine in range(1, machines):
                least[machine] = min(least[machine], least[machine - 1] + kb)
        least = [before + times[machine][index] for machine, before in enumerate(least)]
    returned = kilobytes[f"t{length}"]
    expected = min(before + returned * machine for machine, before in enumerate(least))
    plan = find_tiers(graph, chain, LATENCY)
    assert plan.latency_ms == pytest.approx(expected)
    assert all(plan.layers)


@pytest.mark.parametrize("fast_at_home", ["b", "c"])
def test_a_tensor_is_sent_if_either_reader_needs_it(fast_at_home: str) -> None:
    """Even if another layer is worth the way, so that both machines compute anyway."""
    graph = tiny_graph(
        {"x": 50, "t": 50, "s": 1, "y": 1, "z": 1, "w": 1},
        {
            "a": ("x -> t s", 1, 0),
            "b": ("t -> y", 1, 0),
            "c": ("t -> z", 1, 0),
            "d": ("s -> w", 1, 0),
        },
        "y z w",
    )
    at_home = (1, *(1 if name == fast_at_home else 30 for name in "bc"), 300)
    tiers = (Tier("device", at_home), *(Tier(name, (1, 1, 1, 1)) for name in ("edge", "cloud")))
    plan = find_tiers(graph, replace(three(), tiers=tiers), LATENCY)
    assert plan.layers == (("a", "b", "c"), ("d",), ())


def test_only_what_the_device_sends_counts_as_uploaded() -> None:
    pinned = find_tiers(GRAPH, three(), UPLOAD_NBYTES + LATENCY * 1e-3, machines=(1, 2))
    assert pinned.layers == ((), ("a", "b"), ("c",))
