from __future__ import annotations

from hypothesis import given
from strategies import all_cuts, layer_graphs, thorough, tiny_graph

from partc.graph import LayerGraph
from partc.passes.memory import device_nbytes
from partc.plan import Cut, Side

GRAPH = tiny_graph(
    {"x": 1, "t": 10, "u": 20, "v": 40, "y": 2},
    {
        "a": ("x -> t", 1, 1),
        "b": ("t -> u", 1, 1),
        "c": ("u -> v", 1, 1),
        "d": ("t v -> y", 1, 1),
    },
    "y",
)


def test_by_hand() -> None:
    assert device_nbytes(GRAPH, Cut.device_only()) == 1000 * (3 + 10 + 20 + 40)
    assert device_nbytes(GRAPH, Cut.server_only(GRAPH)) == 3000
    # t is held until the server has answered
    assert device_nbytes(GRAPH, Cut(frozenset("d"))) == 1000 * (3 + 10 + 20 + 40)
    assert device_nbytes(GRAPH, Cut(frozenset("cd"))) == 1000 * (3 + 10 + 20)


def _by_walking(graph: LayerGraph, cut: Cut) -> int:
    """Run the device's layers in order, and drop tensors that nothing needs any more."""
    device = [layer for layer in graph.layers if cut.side(layer) is Side.DEVICE]
    always = {t.name: t.nbytes for t in (*graph.inputs, *graph.outputs)}
    sent = {t.name for layer in graph.layers if layer not in device for t in layer.inputs}
    held: dict[str, int] = {}
    most = 0
    for layer in device:
        held.update({t.name: t.nbytes for t in layer.outputs if t.name not in always})
        most = max(most, sum(held.values()))
        position = graph.layers.index(layer)
        needed = {t.name for later in graph.layers[position + 1 :] for t in later.inputs} | sent
        held = {name: nbytes for name, nbytes in held.items() if name in needed}
    return sum(always.values()) + sum(layer.weight_nbytes for layer in device) + most


@thorough
@given(layer_graphs(max_layers=7))
def test_it_is_what_a_walk_holds(graph: LayerGraph) -> None:
    for cut in all_cuts(graph):
        assert device_nbytes(graph, cut) == _by_walking(graph, cut)
