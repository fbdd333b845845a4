from __future__ import annotations

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
)

from partc.cost import DEVIATION, LATENCY, STAGES, UPLOAD_NBYTES, Cost, energy
from partc.graph import LayerGraph
from partc.passes.price import price
from partc.plan import Conditions, DevicePower, EntryCharges, make_plan

costs = st.builds(Cost, *[st.floats(0, 5)] * 9)
graphs = st.one_of(layer_graphs(any_costs, max_layers=6), encoded_graphs(any_costs))


@thorough
@given(graphs, conditions(any_costs), powers(), entry_charges())
def test_a_cost_is_what_the_plan_says(
    graph: LayerGraph, at: Conditions, power: DevicePower, entry: EntryCharges
) -> None:
    for cut in all_cuts(graph):
        plan = make_plan(graph, cut, entry)
        assert LATENCY.of(plan, at) == pytest.approx(plan.latency_ms(at))
        assert energy(power).of(plan, at) == pytest.approx(plan.energy_mj(at, power))
        stages_ms = [stage.of(plan, at) for stage in STAGES]
        round_trip_ms = at.round_trip_ms if plan.server_layers else 0.0
        assert sum(stages_ms) + round_trip_ms == pytest.approx(plan.latency_ms(at))
        assert UPLOAD_NBYTES.of(plan, at) == plan.upload_nbytes
        assert DEVIATION.of(plan, at) == plan.deviation


@thorough
@given(graphs, costs, conditions(any_costs), entry_charges())
def test_choices_add_up_to_the_cost(
    graph: LayerGraph, cost: Cost, at: Conditions, entry: EntryCharges
) -> None:
    prices = price(graph, cost, at, entry)
    for cut in all_cuts(graph):
        expected = cost.of(make_plan(graph, cut, entry), at)
        assert prices.of(graph, cut) == pytest.approx(expected, abs=1e-9)
        assert expected <= prices.total + 1e-6


@thorough
@given(graphs, costs, costs, st.floats(0, 9), conditions())
def test_costs_can_be_weighed_and_added(
    graph: LayerGraph, one: Cost, other: Cost, weight: float, at: Conditions
) -> None:
    for cut in all_cuts(graph):
        plan = make_plan(graph, cut)
        expected = one.of(plan, at) + weight * other.of(plan, at)
        assert (one + other * weight).of(plan, at) == pytest.approx(expected, abs=1e-9)
