from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from strategies import all_cuts, layer_graphs, tiny_graph

from partc.graph import LayerGraph
from partc.passes.choices import Choices, find_choices
from partc.plan import Cut, make_plan


def _agree(choices: Choices, chosen: tuple[bool, ...]) -> bool:
    return not any(
        chosen[cause] and not chosen[effect]
        for cause, effect in zip(choices.causes, choices.effects, strict=True)
    )


@given(layer_graphs(max_layers=5))
def test_every_cut_is_a_way_to_choose_and_costs_what_the_choices_add_up_to(
    graph: LayerGraph,
) -> None:
    choices = find_choices(graph)
    layers = np.arange(len(graph.layers), dtype=np.int64) * 7 - 11
    tensors = np.array([tensor.nbytes for tensor in graph.tensors], np.int64)
    weights = choices.weigh(layers, tensors)
    costs: dict[Cut, int] = {}
    for chosen in product((False, True), repeat=choices.count):
        if _agree(choices, chosen):
            names = (layer.name for layer, yes in zip(graph.layers, chosen, strict=False) if yes)
            cut, cost = Cut(frozenset(names)), int(weights[list(chosen)].sum())
            costs[cut] = min(cost, costs.get(cut, cost))
    assert costs == {
        cut: sum(
            int(more)
            for layer, more in zip(graph.layers, layers, strict=True)
            if layer.name in cut.server_layers
        )
        + make_plan(graph, cut).upload_nbytes
        for cut in all_cuts(graph)
    }


def test_only_what_several_layers_read_is_a_choice_of_its_own() -> None:
    kilobytes = dict.fromkeys("x t u y z".split(), 1)
    layers = {
        "a": ("x -> t u", 1.0, 1.0),
        "b": ("t -> y", 1.0, 1.0),
        "c": ("t u -> z", 1.0, 1.0),
    }
    choices = find_choices(tiny_graph(kilobytes, layers, "y z"))
    by_name = dict(zip("x t u y z".split(), choices.needed.tolist(), strict=True))
    assert by_name == {"x": 0, "t": 3, "u": 2, "y": 1, "z": 2}
    assert choices.count == 4
