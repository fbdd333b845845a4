from __future__ import annotations

from dataclasses import replace

import pytest

from partc.errors import GraphError
from partc.graph import PLAIN, Encoding
from partc.plan import Objective
from partc.report.decision import LATENCY_TERMS, Crossing, Decision


def test_the_terms_add_up_to_the_plans_latency(decision: Decision) -> None:
    for plan in decision.plans.values():
        cost = decision.cost(plan)
        assert cost.latency_ms == pytest.approx(plan.latency_ms(decision.conditions))
        assert sum(term(cost) for term in LATENCY_TERMS.values()) == pytest.approx(cost.latency_ms)


def test_an_objective_reads_its_own_value(decision: Decision) -> None:
    plan, cost = decision.plan, decision.cost(decision.plan)
    weighted = cost.latency_ms + 0.5 * cost.energy_mj
    slowest_ms = max(cost.device_ms, cost.upload_ms + cost.download_ms, cost.server_ms)
    expected = {
        Objective.LATENCY: (cost.latency_ms, "ms"),
        Objective.ENERGY: (cost.energy_mj, "mJ"),
        Objective.WEIGHTED: (weighted, "ms"),
        Objective.THROUGHPUT: (slowest_ms, "ms"),
    }
    for objective, (value, unit) in expected.items():
        aiming = replace(decision, objective=objective, ms_per_mj=0.5)
        assert (aiming.value(plan), aiming.aim.unit) == (pytest.approx(value), unit)


def test_crossings_name_the_layers_at_both_ends(decision: Decision) -> None:
    stem, right, scores, mask = decision.crossings
    assert (stem.upload, stem.made_by) == (True, "stem")
    assert stem.read_by == ("left/branch [bold]", "<head>")
    assert (right.made_by, right.read_by) == ("right\\branch", ("<head>",))
    assert (scores.upload, scores.made_by, scores.read_by) == (False, "<head>", ())
    assert mask.made_by == "left/branch [bold]"
    assert len(decision.layers_at_the_cut) == 4


def test_an_input_that_is_uploaded_has_no_maker(decision: Decision) -> None:
    first = replace(decision, plan=decision.server_only).crossings[0]
    (image, *_) = decision.graph.inputs
    assert first == Crossing(image, True, Encoding(PLAIN, image.nbytes), None, ("stem",))


def test_a_plan_of_another_graph_is_refused(decision: Decision) -> None:
    foreign = replace(decision.plan, device_layers=())
    with pytest.raises(GraphError, match="chosen plan places other layers than 'diamond & co'"):
        replace(decision, plan=foreign)


def test_swapped_plans_are_refused(decision: Decision) -> None:
    with pytest.raises(GraphError, match="device-only must use no server"):
        replace(decision, device_only=decision.server_only)
