from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    all_cuts,
    any_costs,
    conditions,
    entry_charges,
    layer_graphs,
    tiny_graph,
)

from partc.errors import GraphError
from partc.graph import Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.passes.schedule import ENTRY, Activity, Resource, Schedule, durations, schedule
from partc.plan import FREE_ENTRY, Conditions, Cut, EntryCharges, Plan, Side, make_plan

LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=4)
CLOSE = 1e-6


@st.composite
def cases(
    draw: st.DrawFn, costs: st.SearchStrategy[float] = any_costs
) -> tuple[LayerGraph, Cut, Conditions, EntryCharges]:
    graph = draw(layer_graphs(costs, max_layers=8))
    cut = draw(st.sampled_from(list(all_cuts(graph))))
    return graph, cut, draw(conditions(costs)), draw(entry_charges(costs))


def in_turn(graph: LayerGraph, cut: Cut, at: Conditions, entry: EntryCharges) -> float:
    return make_plan(graph, cut, entry).latency_ms(at)


def critical_path_ms(graph: LayerGraph, cut: Cut, at: Conditions, entry: EntryCharges) -> float:
    """The longest way through layers and transfers, as if each had a machine to itself."""
    took = durations(graph, at, entry)
    done = {tensor.name: (0.0, Side.DEVICE) for tensor in graph.inputs}

    def there(tensor: Tensor) -> float:
        time, side = done[tensor.name]
        return time + (took.upload[tensor.name] + took.half_trip) * (side is Side.DEVICE)

    ends = [0.0]
    for layer in graph.layers:
        if cut.side(layer) is Side.DEVICE:
            ready = max([took.device_entry, *(done[t.name][0] for t in layer.inputs)])
            end = ready + took.device[layer.name]
        else:
            earliest = took.half_trip + took.server_entry
            end = max([earliest, *map(there, layer.inputs)]) + took.server[layer.name]
        done.update((tensor.name, (end, cut.side(layer))) for tensor in layer.outputs)
        ends.append(end)
    for tensor in graph.outputs:
        time, side = done[tensor.name]
        ends.append(time + (took.download[tensor.name] + took.half_trip) * (side is Side.SERVER))
    return max(ends)


@given(cases())
def test_overlap_never_takes_longer_than_one_thing_after_the_other(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    assert schedule(*case).latency_ms <= in_turn(*case) + CLOSE


@given(cases())
def test_it_takes_no_less_than_its_longest_way_and_its_busiest_resource(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    found = schedule(*case)
    assert found.latency_ms >= critical_path_ms(*case) - CLOSE
    for resource in Resource:
        assert found.latency_ms >= found.busy_ms(resource) - CLOSE


@given(cases())
def test_every_resource_does_what_the_plan_asks_of_it(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    graph, cut, at, entry = case
    plan, found = make_plan(graph, cut, entry), schedule(*case)
    expected = {
        Resource.DEVICE: (plan.device_ms, plan.device_layers),
        Resource.UPLINK: (plan.upload_ms(at), _names(plan, Resource.UPLINK)),
        Resource.SERVER: (plan.server_ms * at.load, plan.server_layers),
        Resource.DOWNLINK: (plan.download_ms(at), _names(plan, Resource.DOWNLINK)),
    }
    for resource, (busy_ms, names) in expected.items():
        assert found.busy_ms(resource) == pytest.approx(busy_ms)
        done = [each.what for each in found.on(resource) if each.what != ENTRY]
        assert sorted(done) == sorted(names)
        assert done.count(ENTRY) <= 1


def _names(plan: Plan, way: Resource) -> list[str]:
    return [tensor.name for tensor in (plan.upload if way is Resource.UPLINK else plan.download)]


@given(cases())
def test_a_resource_does_one_thing_at_a_time(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    found = schedule(*case)
    for resource in Resource:
        activities = found.on(resource)
        for before, after in pairwise(activities):
            assert before.start_ms <= before.end_ms <= after.start_ms


@given(cases())
def test_nothing_starts_before_what_it_needs_is_there(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    graph, cut, at, _ = case
    found = schedule(*case)
    ran = {each.what: each for w in (Resource.DEVICE, Resource.SERVER) for each in found.on(w)}
    sent = {each.what: each for each in found.on(Resource.UPLINK)}
    made = {tensor.name: 0.0 for tensor in graph.inputs}
    for layer in graph.layers:
        for tensor in layer.inputs:
            maker = graph.producers.get(tensor.name)
            local = maker is None or cut.side(maker) is Side.DEVICE
            if cut.side(layer) is Side.SERVER and local:
                needed = sent[tensor.name].end_ms + at.round_trip_ms / 2
            else:
                needed = made[tensor.name]
            assert ran[layer.name].start_ms >= needed
        made.update((tensor.name, ran[layer.name].end_ms) for tensor in layer.outputs)
    for way in (Resource.UPLINK, Resource.DOWNLINK):
        for each in found.on(way):
            assert each.start_ms >= made[each.what]


@given(cases())
def test_the_link_sends_what_is_ready_first_and_does_not_wait(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    graph, found = case[0], schedule(*case)
    made = {tensor.name: 0.0 for tensor in graph.inputs}
    for each in (*found.on(Resource.DEVICE), *found.on(Resource.SERVER)):
        outputs = graph.by_name[each.what].outputs if each.what != ENTRY else ()
        made |= {tensor.name: each.end_ms for tensor in outputs}
    for way in (Resource.UPLINK, Resource.DOWNLINK):
        free = 0.0
        for each in found.on(way):
            assert each.start_ms == max(free, made[each.what])
            free = each.end_ms
        ready = [made[each.what] for each in found.on(way)]
        assert ready == sorted(ready)


@given(cases())
def test_the_server_never_waits_while_a_layer_is_ready(
    case: tuple[LayerGraph, Cut, Conditions, EntryCharges],
) -> None:
    """And does first what comes first in the graph."""
    graph, _, at, _ = case
    found = schedule(*case)
    there = {e.what: e.end_ms + at.round_trip_ms / 2 for e in found.on(Resource.UPLINK)}
    ran = [each for each in found.on(Resource.SERVER) if each.what != ENTRY]
    for each in ran:
        there |= {tensor.name: each.end_ms for tensor in graph.by_name[each.what].outputs}
    order = {layer.name: position for position, layer in enumerate(graph.layers)}
    free = ([e.end_ms for e in found.on(Resource.SERVER) if e.what == ENTRY] or [0.0])[0]
    for position, each in enumerate(ran):
        left = ran[position:]
        ready = {
            e.what: max(
                [at.round_trip_ms / 2, *(there[t.name] for t in graph.by_name[e.what].inputs)]
            )
            for e in left
        }
        assert each.start_ms == max(free, min(ready.values()))
        able = [name for name, time in ready.items() if time <= each.start_ms]
        assert each.what == min(able, key=order.__getitem__)
        free = each.end_ms


@given(layer_graphs(any_costs), conditions(any_costs), entry_charges(any_costs))
def test_on_the_device_alone_one_thing_follows_the_other(
    graph: LayerGraph, at: Conditions, entry: EntryCharges
) -> None:
    case = (graph, Cut.device_only(), at, entry)
    assert schedule(*case).latency_ms == in_turn(*case)


@given(
    st.lists(st.tuples(any_costs, any_costs, st.integers(0, 20)), min_size=1, max_size=6),
    conditions(any_costs),
    entry_charges(any_costs),
    st.data(),
)
def test_on_a_chain_one_thing_follows_the_other(
    costs: list[tuple[float, float, int]], at: Conditions, entry: EntryCharges, data: st.DataObject
) -> None:
    tensors = [Tensor("x", TensorType("uint8", (3000,)))]
    layers: list[Layer] = []
    for number, (device_ms, server_ms, kilobytes) in enumerate(costs):
        tensors.append(Tensor(f"t{number}", TensorType("uint8", (1000 * kilobytes,))))
        cost = LayerCost(device_ms, server_ms, 0)
        layers.append(Layer(f"l{number}", "toy", (tensors[-2],), (tensors[-1],), cost=cost))
    graph = LayerGraph("chain", (tensors[0],), tuple(layers), (tensors[-1],))
    case = (graph, data.draw(st.sampled_from(list(all_cuts(graph)))), at, entry)
    assert schedule(*case).latency_ms == pytest.approx(in_turn(*case))


FORK = tiny_graph(
    {"x": 1, "t": 3, "u": 2, "v": 1, "y": 5},
    {
        "a": ("x -> t", 2, 1),
        "b": ("x -> u", 6, 2),
        "c": ("t -> v", 9, 4),
        "d": ("u v -> y", 9, 3),
    },
    "y",
)


def test_by_hand() -> None:
    """The device makes u while t is sent and c is computed."""
    entry = EntryCharges(device_ms=1, server_ms=0.5)
    assert schedule(FORK, Cut(frozenset("cd")), LINK, entry) == Schedule(
        (
            Activity(ENTRY, Resource.DEVICE, 0, 1),
            Activity("a", Resource.DEVICE, 1, 3),
            Activity("b", Resource.DEVICE, 3, 9),
            Activity("t", Resource.UPLINK, 3, 6),
            Activity("u", Resource.UPLINK, 9, 11),
            Activity(ENTRY, Resource.SERVER, 8, 8.5),
            Activity("c", Resource.SERVER, 8.5, 12.5),
            Activity("d", Resource.SERVER, 13, 16),
            Activity("y", Resource.DOWNLINK, 16, 21),
        ),
        latency_ms=23,
    )


def test_load_slows_the_server_and_its_entry() -> None:
    busy = Conditions(8, 8, 0, load=3)
    found = schedule(FORK, Cut.server_only(FORK), busy, EntryCharges(server_ms=1))
    assert found.busy_ms(Resource.SERVER) == 3 * (1 + 1 + 2 + 4 + 3)


def test_a_device_that_computes_on_after_the_answer() -> None:
    graph = tiny_graph(
        {"x": 1, "t": 1, "u": 1}, {"a": ("x -> t", 5, 1), "b": ("x -> u", 50, 1)}, "t u"
    )
    assert schedule(graph, Cut(frozenset("a")), LINK).latency_ms == 50


def test_a_layer_that_reads_nothing_waits_for_word_of_the_request() -> None:
    graph = tiny_graph({"x": 1, "t": 1}, {"a": ("-> t", 5, 1)}, "t x")
    found = schedule(graph, Cut(frozenset("a")), LINK)
    assert found.on(Resource.SERVER) == (Activity("a", Resource.SERVER, 2, 3),)
    assert found.latency_ms == 6


def test_a_graph_without_layers() -> None:
    graph = tiny_graph({"x": 1}, {}, "x")
    entry = EntryCharges(1, 1, 1)
    assert schedule(graph, Cut.device_only(), LINK, entry) == Schedule((), 0)


def test_a_cut_that_cannot_be() -> None:
    with pytest.raises(GraphError, match="layer 'd' on the device reads %u"):
        schedule(FORK, Cut(frozenset("b")), LINK, FREE_ENTRY)
