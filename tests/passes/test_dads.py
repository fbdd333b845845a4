from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st
from strategies import (
    all_cuts,
    any_costs,
    conditions,
    layer_graphs,
    powers,
    thorough,
    tiny_graph,
    whole_costs,
)

from partc.cost import LATENCY, STAGES, energy
from partc.errors import GraphError
from partc.graph import LayerGraph
from partc.passes.baselines import Problem, dads_choice, dads_cut, partc_cut, published
from partc.passes.dads import search_grid
from partc.plan import Conditions, Cut, check_cut, make_plan

# At 8 Mbit/s a kilobyte takes a millisecond.
LINK = Conditions(uplink_mbps=8, downlink_mbps=8, round_trip_ms=0)

costs = st.one_of(st.just(LATENCY), powers().map(energy))


def problems(times: st.SearchStrategy[float] = whole_costs) -> st.SearchStrategy[Problem]:
    return st.builds(Problem, layer_graphs(times, max_layers=7), costs, conditions(times))


def busy(times: st.SearchStrategy[float] = whole_costs) -> st.SearchStrategy[Problem]:
    graphs = layer_graphs(times, max_layers=6)
    return st.builds(Problem, graphs, st.just(LATENCY), conditions(times), heavy_load=st.just(True))


def latency(graph: LayerGraph, heavy_load: bool = False) -> Problem:
    return Problem(graph, LATENCY, LINK, heavy_load=heavy_load)


def server(cut: Cut | None) -> str:
    assert cut is not None
    return " ".join(sorted(cut.server_layers))


def test_dads_may_choose_what_cannot_be_run() -> None:
    # b is so slow on the server that going back for nothing looks best: 2 + 1 + 1 + 5 + 1.
    graph = tiny_graph(
        {"x": 2, "t": 5, "u": 5, "y": 1},
        {"a": ("x -> t", 30, 1), "b": ("t -> u", 1, 30), "c": ("u -> y", 20, 1)},
        outputs="y",
    )
    assert server(dads_choice(latency(graph))) == "a c"
    assert dads_cut(latency(graph)) is None
    assert server(partc_cut(latency(graph))) == "a b c"


def test_dads_does_so_even_if_the_server_is_always_faster() -> None:
    # Sending q for b takes longer than b on the device: 1 + 1 + 2.
    graph = tiny_graph(
        {"x": 1, "q": 20, "t": 5, "y": 1},
        {"a": ("x -> t", 30, 1), "b": ("t q -> y", 2, 1)},
        outputs="y",
    )
    assert server(dads_choice(latency(graph))) == "a"
    assert dads_cut(latency(graph)) is None
    assert server(partc_cut(latency(graph))) == "a b"


def test_dads_pays_once_for_a_tensor_with_several_readers() -> None:
    graph = tiny_graph(
        {"x": 10, "t": 6, "y": 1, "z": 1},
        {"a": ("x -> t", 1, 9), "b": ("t -> y", 5, 1), "c": ("t -> z", 5, 1)},
        outputs="y z",
    )
    assert (
        server(dads_cut(latency(graph))) == "b c"
    )  # 1 + 6 + 2; device-only is 11, t sent twice 15


@pytest.mark.parametrize(
    ("outputs", "chosen"),
    [
        pytest.param("y z", "", id="both are read: 1 + 11 + 1 + 1 ms is no less than 12"),
        pytest.param("y", "b", id="one is read: 1 + 2 + 1 is less than 11"),
    ],
)
def test_dads_sends_all_read_outputs_of_a_layer_or_none(outputs: str, chosen: str) -> None:
    layers = {"a": ("x -> t u", 1.0, 1.0), "b": ("t -> y", 10.0, 1.0), "c": ("u -> z", 1.0, 30.0)}
    made = {"x": 40, "t": 2, "u": 9, "y": 1, "z": 1}
    if outputs == "y":
        del layers["c"], made["z"]
    graph = tiny_graph(made, layers, outputs)
    assert server(dads_cut(latency(graph))) == chosen
    assert server(partc_cut(latency(graph))) == "b"


def all_sides(graph: LayerGraph) -> Iterator[Cut]:
    """Each side for each layer, whether it can be run or not."""
    for on_server in product([False, True], repeat=len(graph.layers)):
        pairs = zip(graph.layers, on_server, strict=True)
        yield Cut(frozenset(layer.name for layer, remote in pairs if remote))


def dads_stages(problem: Problem, cut: Cut) -> tuple[float, float, float]:
    """What DADS's paper says that a placement costs: the device's layers, sending, the server's."""
    graph, cost, at = problem.graph, published(problem.cost), problem.conditions
    near = far = sending = 0.0
    for layer in graph.layers:
        times = layer.annotated_cost
        if layer.name in cut.server_layers:
            far += cost.server_ms * times.server_ms * at.load
        else:
            near += cost.device_ms * times.device_ms + cost.device_mj * times.device_mj
    makes = [(tensor,) for tensor in graph.inputs]
    makes += [layer.outputs for layer in graph.layers if layer.name not in cut.server_layers]
    for made in makes:
        readers = [reader.name for tensor in made for reader in graph.consumers[tensor.name]]
        if cut.server_layers.intersection(readers):
            read = sum(tensor.nbytes for tensor in made if graph.consumers[tensor.name])
            sending += cost.upload_ms * read * 8 / (at.uplink_mbps * 1e3)
    return near, sending, far


def dads_cost(problem: Problem, cut: Cut) -> float:
    return sum(dads_stages(problem, cut))


@thorough
@given(problems())
def test_dads_is_the_least_of_its_own_cost(problem: Problem) -> None:
    chosen = dads_choice(problem)
    least = min(dads_cost(problem, cut) for cut in all_sides(problem.graph))
    assert dads_cost(problem, chosen) == pytest.approx(least, abs=1e-9)
    try:
        check_cut(problem.graph, chosen)
    except GraphError:
        event("infeasible")
        assert dads_cut(problem) is None
    else:
        assert dads_cut(problem) == chosen


@thorough
@given(problems(any_costs))
def test_dads_is_the_least_of_its_own_cost_up_to_rounding(problem: Problem) -> None:
    least = min(dads_cost(problem, cut) for cut in all_sides(problem.graph))
    chosen = dads_cost(problem, dads_choice(problem))
    assert chosen == pytest.approx(least, abs=1e-12 * (1 + problem.published_price.total))


# Heavy load --------------------------------------------------------------------------------------


def slowest_ms(problem: Problem, cut: Cut) -> float:
    plan = make_plan(problem.graph, cut)
    return max(stage.of(plan, problem.conditions) for stage in STAGES)


def halves(input_kb: int, middle_kb: int, device_ms: float, server_ms: float) -> LayerGraph:
    """Two layers alike, and an output of no bytes."""
    sizes = {"x": input_kb, "t": middle_kb, "y": 0}
    layers = {"a": ("x -> t", device_ms, server_ms), "b": ("t -> y", device_ms, server_ms)}
    return tiny_graph(sizes, layers, "y")


def test_under_heavy_load_dads_takes_longer_to_take_more_requests() -> None:
    # Split: 12, 12 and 4 ms, and all on the device: 24 ms, which is less than their sum.
    graph = halves(40, 12, 12, 4)
    assert server(dads_cut(latency(graph))) == ""
    assert server(dads_cut(latency(graph, heavy_load=True))) == "b"
    assert min(slowest_ms(latency(graph), cut) for cut in all_cuts(graph)) == 12


def test_what_is_the_minimum_for_no_weights_is_not_found() -> None:
    # The split's 12, 12 and 2 ms are more than the mean of 24, 0 and 0 and of 0, 19 and 4, whatever
    # weights these have. So one of them is always less, and the best of these takes 19.
    graph = halves(19, 12, 12, 2)
    assert server(dads_cut(latency(graph, heavy_load=True))) == "a b"
    assert slowest_ms(latency(graph), Cut.server_only(graph)) == 19
    assert min(slowest_ms(latency(graph), cut) for cut in all_cuts(graph)) == 12


def test_dads_searches_between_the_first_weights() -> None:
    # The split's 20, 21 and 0 ms are less than 40, 0 and 0 and than 0, 44 and 0 only if the device
    # weighs more than 1.05 and less than 1.15.
    graph = halves(44, 21, 20, 0)
    assert server(dads_cut(latency(graph, heavy_load=True))) == "b"


def test_dads_searches_between_these_again_while_that_helps() -> None:
    # In turn, 95, 75, 50 and no ms on the device and 0, 21, 49 and 108 ms of sending. From one to
    # the next weighs the device by 1.05, 1.12 and 1.18: 1.1 finds the second, and only hundredths
    # the third, of which the largest is least.
    graph = tiny_graph(
        {"x": 108, "t": 49, "u": 21, "y": 0},
        {"a": ("x -> t", 50, 0), "b": ("t -> u", 25, 0), "c": ("u -> y", 20, 0)},
        outputs="y",
    )
    assert server(dads_cut(latency(graph, heavy_load=True))) == "b c"


def test_under_heavy_load_dads_may_choose_what_cannot_be_run() -> None:
    graph = tiny_graph(
        {"x": 2, "t": 5, "u": 5, "y": 1},
        {"a": ("x -> t", 30, 4), "b": ("t -> u", 4, 30), "c": ("u -> y", 20, 1)},
        outputs="y",
    )
    assert server(dads_choice(latency(graph, heavy_load=True))) == "a c"  # 4, 2 + 0 and 5 ms
    assert dads_cut(latency(graph, heavy_load=True)) is None


def test_where_nothing_is_worth_sending_all_stays_on_the_device() -> None:
    graph = halves(19, 12, 5, 0)
    assert server(dads_cut(latency(graph, heavy_load=True))) == ""
    assert server(dads_cut(latency(tiny_graph({"x": 1}, {}, "x"), heavy_load=True))) == ""


@thorough
@given(busy(st.one_of(whole_costs, any_costs)))
def test_under_heavy_load_dads_keeps_its_bound(problem: Problem) -> None:
    """Of its own problem, in which the server may feed the device."""
    chosen = max(dads_stages(problem, dads_choice(problem)))
    least = min(max(dads_stages(problem, cut)) for cut in all_sides(problem.graph))
    assert least * (1 - 1e-9) <= chosen <= 3 * least * (1 + 1e-9) + 1e-9
    event("optimal" if chosen <= least * (1 + 1e-9) else "not optimal")


@thorough
@given(busy())
def test_no_plan_of_dads_beats_the_exact_bottleneck(problem: Problem) -> None:
    chosen = dads_cut(problem)
    assume(chosen is not None)
    assert chosen is not None
    least = min(slowest_ms(problem, cut) for cut in all_cuts(problem.graph))
    assert slowest_ms(problem, chosen) >= least - 1e-9


@thorough
@given(busy())
def test_under_heavy_load_dads_is_no_slower_than_any_first_weights_allow(problem: Problem) -> None:
    """Algorithm 2 to the letter, up to its first refinement, with the worst of equal cuts."""
    sides = [dads_stages(problem, cut) for cut in all_sides(problem.graph)]
    device, server = sides[0][0], sides[-1][2]
    makers = [(tensor,) for tensor in problem.graph.inputs]
    makers += [layer.outputs for layer in problem.graph.layers]
    sent = [
        sum(t.nbytes for t in made if problem.graph.consumers[t.name])
        * 8
        / (problem.conditions.uplink_mbps * 1e3)
        for made in makers
    ]
    shortest = min((each for each in sent if each), default=math.inf)
    assume(max(device, server) / shortest < 12)
    worst = math.inf
    for near in range(int(device / shortest + 1e-9) + 1):
        for far in range(int(server / shortest + 1e-9) + 1):
            weighted = [near * e + t + far * c for e, t, c in sides]
            equals = [
                max(side)
                for side, cost in zip(sides, weighted, strict=True)
                if cost <= min(weighted) + 1e-9
            ]
            worst = min(worst, max(equals))
    assert max(dads_stages(problem, dads_choice(problem))) <= worst + 1e-9


stage_tables = st.lists(st.tuples(*3 * [st.integers(0, 12).map(float)]), min_size=1, max_size=6)
steps = st.sampled_from([1.0, 0.5, 0.1])
origins = st.tuples(*2 * [st.integers(0, 3).map(float)])
sizes = st.tuples(*2 * [st.floats(0, 4)])


@thorough
@given(stage_tables, origins, sizes, steps)
def test_a_grid_is_searched_as_if_point_by_point(
    table: list[tuple[float, float, float]],
    low: tuple[float, float],
    size: tuple[float, float],
    step: float,
) -> None:
    stages = np.array(table)
    high = (low[0] + size[0], low[1] + size[1])
    chosen, point = search_grid(stages, low, high, step)
    best: tuple[float, tuple[float, float]] = math.inf, (0.0, 0.0)
    for near in low[0] + step * np.arange(math.floor(size[0] / step + 1e-9) + 1):
        for far in low[1] + step * np.arange(math.floor(size[1] / step + 1e-9) + 1):
            values = stages @ (near, 1.0, far)
            equals = stages[values <= values.min() + 1e-9]
            found = equals.max(axis=1).min()
            if found <= best[0]:
                best = found, (near, far)
    assert stages[chosen].max() == best[0]
    if (stages.max(axis=1) == best[0]).sum() == 1:
        assert point == pytest.approx(best[1])
