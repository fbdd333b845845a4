from __future__ import annotations

from partc.graph import LayerGraph, Tensor, TensorType
from partc.plan import Cut, Side
from partc.report.drawing import Role, draw


def crossing(graph: LayerGraph, cut: Cut) -> list[tuple[str, str]]:
    edges = draw(graph, cut).edges
    return [(edge.source.name, edge.target.name) for edge in edges if edge.crosses]


def test_every_input_layer_and_output_is_a_node(graph: LayerGraph) -> None:
    drawn = draw(graph, None)
    roles = [node.role for node in drawn.nodes]
    assert roles == [Role.INPUT, *[Role.LAYER] * 4, *[Role.OUTPUT] * 2]
    assert len({node.key for node in drawn.nodes}) == len(drawn.nodes)
    assert {node.side for node in drawn.nodes} == {None}


def test_edges_cross_where_the_sides_differ(graph: LayerGraph, cut: Cut) -> None:
    assert crossing(graph, cut) == [
        ("stem", "left/branch [bold]"),
        ("stem", "<head>"),
        ("right\\branch", "<head>"),
        ("<head>", "scores"),
        ("left/branch [bold]", 'ma"sk'),
    ]


def test_nothing_crosses_without_a_server(graph: LayerGraph) -> None:
    assert crossing(graph, Cut.device_only()) == []


def test_with_the_server_alone_inputs_and_outputs_cross(graph: LayerGraph) -> None:
    assert crossing(graph, Cut.server_only(graph)) == [
        ("image", "stem"),
        ("<head>", "scores"),
        ("left/branch [bold]", 'ma"sk'),
    ]


def test_an_input_that_is_an_output_stays_on_the_device() -> None:
    tensor = Tensor("x", TensorType("float32", ()))
    drawn = draw(LayerGraph("identity", (tensor,), (), (tensor,)), Cut.device_only())
    assert [node.side for node in drawn.nodes] == [Side.DEVICE, Side.DEVICE]
    assert len(drawn.edges) == 1
