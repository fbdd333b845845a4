from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from strategies import graphs_and_cuts, thorough, tiny_graph

from partc.errors import GraphError
from partc.graph import Layer, LayerGraph, Tensor
from partc.passes.segment import build_plan_table
from partc.plan import Cut, EntryCharges, NamedPlan, Plan, PlanTable, Segment, Side, make_plan

Values = dict[str, str]

DIAMOND = tiny_graph(
    {"x": 1, "t": 1, "u": 1, "v": 1, "y": 1},
    {
        "a": ("x -> t", 1, 1),
        "b": ("t -> u", 1, 1),
        "c": ("t -> v", 1, 1),
        "d": ("u v -> y", 1, 1),
    },
    outputs="y",
)


def _cuts(*servers: str) -> list[Cut]:
    return [Cut(frozenset(server.split())) for server in servers]


def _show(table: PlanTable) -> list[str]:
    """One line a segment: ``layers: inputs -> outputs``."""
    return [
        f"{' '.join(segment.layers)}: {_names(segment.inputs)} -> {_names(segment.outputs)}"
        for segment in table.segments
    ]


def _names(tensors: Iterable[Tensor]) -> str:
    return " ".join(tensor.name for tensor in tensors)


@pytest.mark.parametrize(
    ("servers", "segments"),
    [
        pytest.param([], ["a b c d: x -> y"], id="no cut between"),
        pytest.param(["d"], ["a b c: x -> u v", "d: u v -> y"], id="one cut"),
        pytest.param(["b d"], ["a c: x -> t v", "b d: t v -> y"], id="skip over the cut"),
        pytest.param(
            ["d", "b c d"], ["a: x -> t", "b c: t -> u v", "d: u v -> y"], id="two nested cuts"
        ),
        pytest.param(
            ["b d", "c d"],
            ["a: x -> t", "b: t -> u", "c: t -> v", "d: u v -> y"],
            id="two crossing cuts",
        ),
        pytest.param(
            ["c d", "b d"],
            ["a: x -> t", "b: t -> u", "c: t -> v", "d: u v -> y"],
            id="ties go to the first layer, not to the first cut",
        ),
    ],
)
def test_segments_of_a_diamond(servers: Sequence[str], segments: Sequence[str]) -> None:
    table = build_plan_table(DIAMOND, _cuts(*servers))
    assert _show(table) == segments
    assert [segment.name for segment in table.segments] == [
        f"segment_{position}" for position in range(len(segments))
    ]


def test_segments_follow_the_flow_where_the_layers_do_not() -> None:
    graph = tiny_graph(
        {"p": 1, "q": 1, "t": 1, "u": 1, "y": 1},
        {"late": ("p -> t", 1, 1), "early": ("q -> u", 1, 1), "join": ("t u -> y", 1, 1)},
        outputs="y",
    )
    table = build_plan_table(graph, _cuts("late join"))
    assert _show(table) == ["early: q -> u", "late join: p u -> y"]


def test_outputs_read_inside_and_outputs_nobody_reads() -> None:
    graph = tiny_graph(
        {"x": 1, "t": 1, "unused": 1, "u": 1, "y": 1},
        {
            "a": ("x -> t unused", 1, 1),
            "b": ("t -> u", 1, 1),
            "c": ("x u -> y", 1, 1),
        },
        outputs="t y x",
    )
    assert _show(build_plan_table(graph, _cuts("c"))) == ["a b: x -> t u", "c: x u -> y"]


def test_plans_have_names_and_runnable_segments() -> None:
    everything = "a b c d"
    cuts = _cuts("d", "", "b c d", everything, "d")
    table = build_plan_table(DIAMOND, cuts)
    assert [
        (named.name, named.plan.server_layers, named.device_segments, named.server_segments)
        for named in table.plans
    ] == [
        ("server-only", ("a", "b", "c", "d"), (), ("segment_0", "segment_1", "segment_2")),
        ("device-only", (), ("segment_0", "segment_1", "segment_2"), ()),
        ("cut-1", ("d",), ("segment_0", "segment_1"), ("segment_2",)),
        ("cut-2", ("b", "c", "d"), ("segment_0",), ("segment_1", "segment_2")),
    ]
    assert all(named.plan == make_plan(DIAMOND, named.plan.cut) for named in table.plans)


def test_plans_pay_for_entering_their_sides() -> None:
    entry = EntryCharges(device_ms=3, server_ms=4, device_mj=6)
    table = build_plan_table(DIAMOND, _cuts("d"), entry)
    assert [named.plan for named in table.plans] == [
        make_plan(DIAMOND, named.plan.cut, entry) for named in table.plans
    ]


def test_model_without_layers() -> None:
    graph = tiny_graph({"x": 1}, {}, outputs="x")
    table = build_plan_table(graph, [])
    assert table.segments == ()
    assert [named.name for named in table.plans] == ["server-only", "device-only"]


def test_cut_that_returns_to_the_device() -> None:
    message = "layer 'b' on the device reads %t, which layer 'a' makes on the server"
    with pytest.raises(GraphError, match=message):
        build_plan_table(DIAMOND, _cuts("a"))


def _run_layer(layer: Layer, values: Values) -> None:
    """A toy meaning for every layer, from which each input and its place can be told."""
    read = ", ".join(values[tensor.name] for tensor in layer.inputs)
    for position, tensor in enumerate(layer.outputs):
        made = f"{layer.name}.{position}({read})"
        values[tensor.name] = sha256(made.encode()).hexdigest()


def _run_segments(
    graph: LayerGraph, segments: Mapping[str, Segment], names: Sequence[str], values: Values
) -> None:
    """Run segments as functions that see their inputs only and return their outputs only."""
    for name in names:
        segment = segments[name]
        inside = {tensor.name: values[tensor.name] for tensor in segment.inputs}
        for layer in segment.layers:
            _run_layer(graph.by_name[layer], inside)
        values |= {tensor.name: inside[tensor.name] for tensor in segment.outputs}


def _run_plan(graph: LayerGraph, table: PlanTable, named: NamedPlan) -> Values:
    segments = {segment.name: segment for segment in table.segments}
    device = {tensor.name: tensor.name for tensor in graph.inputs}
    _run_segments(graph, segments, named.device_segments, device)
    server = {tensor.name: device[tensor.name] for tensor in named.plan.upload}
    _run_segments(graph, segments, named.server_segments, server)
    device |= {tensor.name: server[tensor.name] for tensor in named.plan.download}
    return {tensor.name: device[tensor.name] for tensor in graph.outputs}


@thorough
@given(graphs_and_cuts())
def test_every_plan_computes_what_the_layers_compute(case: tuple[LayerGraph, list[Cut]]) -> None:
    graph, cuts = case
    table = build_plan_table(graph, cuts)
    values = {tensor.name: tensor.name for tensor in graph.inputs}
    for layer in graph.layers:
        _run_layer(layer, values)
    expected = {tensor.name: values[tensor.name] for tensor in graph.outputs}
    for named in table.plans:
        assert _run_plan(graph, table, named) == expected


@thorough
@given(graphs_and_cuts())
def test_segments_part_the_layers_in_topological_order(
    case: tuple[LayerGraph, list[Cut]],
) -> None:
    graph, cuts = case
    table = build_plan_table(graph, cuts)
    placed = [name for segment in table.segments for name in segment.layers]
    assert sorted(placed) == sorted(graph.by_name)
    known = {tensor.name for tensor in graph.inputs}
    for segment in table.segments:
        assert segment.layers
        assert known >= {tensor.name for tensor in segment.inputs}
        known |= {tensor.name for tensor in segment.outputs}


@thorough
@given(graphs_and_cuts())
def test_segments_are_as_large_as_the_plans_allow(case: tuple[LayerGraph, list[Cut]]) -> None:
    graph, cuts = case
    table = build_plan_table(graph, cuts)
    assert {named.plan.cut for named in table.plans} >= set(cuts)
    sides = [
        {_sides(layer, [named.plan for named in table.plans]) for layer in segment.layers}
        for segment in table.segments
    ]
    assert all(len(vectors) == 1 for vectors in sides)
    assert len({vector for vectors in sides for vector in vectors}) == len(table.segments)


def _sides(layer: str, plans: Iterable[Plan]) -> tuple[Side, ...]:
    return tuple(Side.SERVER if layer in plan.server_layers else Side.DEVICE for plan in plans)
