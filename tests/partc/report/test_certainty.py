from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.plan import Objective, Side
from partc.report.certainty import add_errors, find_contest, plan_error
from partc.report.decision import Decision

SOURCES = st.tuples(st.sampled_from(Side), st.sampled_from(["softmax", "pooling", "convolution"]))
ERRORS = st.lists(st.tuples(SOURCES, st.floats(0, 1e6)), max_size=12)


@given(ERRORS)
def test_a_sum_is_surer_than_its_parts_at_worst_and_no_surer_than_if_all_were_apart(
    errors: list[tuple[tuple[Side, str], float]],
) -> None:
    parts = [error for _, error in errors]
    total = add_errors(errors)
    assert math.hypot(*parts) * (1 - 1e-9) <= total <= sum(parts) * (1 + 1e-9)


def test_errors_of_one_source_add_up_and_those_of_two_do_not() -> None:
    device, server = (Side.DEVICE, "pooling"), (Side.SERVER, "pooling")
    assert add_errors([(device, 3.0), (device, 4.0)]) == 7.0
    assert add_errors([(device, 3.0), (server, 4.0)]) == 5.0
    assert add_errors([(device, 3.0), (device, -3.0)]) == 0.0
    assert add_errors([]) == 0.0


def test_a_plan_is_as_unsure_as_its_layers_where_they_run(doubtful: Decision) -> None:
    chosen = plan_error(doubtful, doubtful.plan)
    on_device = (12.5 * 0.5, 0.5 * 0.5)
    on_server = (2 * 1.5 * 0.5, 2 * 4.25 * 0.25)  # under twice the load
    cost = doubtful.cost(doubtful.plan)
    assert chosen.device * cost.device_ms == pytest.approx(math.hypot(*on_device))
    assert chosen.server * cost.server_ms == pytest.approx(math.hypot(*on_server))
    assert chosen.latency * cost.latency_ms == pytest.approx(math.hypot(*on_device, *on_server))


def test_energy_is_computing_on_the_device_and_waiting_for_the_server(doubtful: Decision) -> None:
    chosen = plan_error(doubtful, doubtful.plan)
    computing_mj = (125.0 * 0.5, 5 * 0.5)
    waiting_mj = (2.0 * 2 * 1.5 * 0.5, 2.0 * 2 * 4.25 * 0.25)  # at two watts
    energy_mj = doubtful.cost(doubtful.plan).energy_mj
    assert chosen.energy * energy_mj == pytest.approx(math.hypot(*computing_mj, *waiting_mj))


def test_like_layers_on_one_machine_are_wrong_together(doubtful: Decision) -> None:
    device_only = plan_error(doubtful, doubtful.device_only)
    convolutions_ms = 12.5 * 0.5 + 31.25 * 0.25
    expected_ms = math.hypot(convolutions_ms, 0.5 * 0.5, 88 * 0.125)
    assert device_only.latency * 132.25 == pytest.approx(expected_ms)


def test_a_side_without_layers_has_no_error(doubtful: Decision) -> None:
    assert plan_error(doubtful, doubtful.device_only).server == 0.0
    assert plan_error(doubtful, doubtful.server_only).device == 0.0


def test_terms_of_the_link_are_taken_as_given(doubtful: Decision) -> None:
    error = plan_error(doubtful, doubtful.plan)
    assert error.of_term("device") == error.device
    assert error.of_term("server") == error.server
    assert error.of_term("upload") == error.of_term("round trip") == 0.0


def test_only_layers_that_change_sides_make_a_contest_unsure(doubtful: Decision) -> None:
    contest = find_contest(doubtful)
    assert contest is not None
    assert contest.title == "device only"
    assert contest.margin == pytest.approx(132.25 - 67.83296)
    moved_ms = (31.25 * 0.25, 88 * 0.125, 2 * 1.5 * 0.5, 2 * 4.25 * 0.25)
    assert contest.error == pytest.approx(math.hypot(*moved_ms))
    assert not contest.is_close


def test_a_contest_is_about_the_objective(doubtful: Decision) -> None:
    contest = find_contest(replace(doubtful, objective=Objective.ENERGY))
    assert contest is not None
    assert contest.title == "server only"
    assert contest.margin == pytest.approx(454.05248 - 300.06968)


def test_a_margin_within_the_error_is_close(close: Decision) -> None:
    contest = find_contest(close)
    assert contest is not None
    assert 0 < contest.margin < contest.error
    assert contest.is_close


def test_the_chosen_plan_does_not_compete_with_itself(doubtful: Decision) -> None:
    contest = find_contest(replace(doubtful, plan=doubtful.device_only))
    assert contest is not None
    assert contest.title == "server only"


def test_a_better_plan_that_pins_rule_out_does_not_compete(doubtful: Decision) -> None:
    assert find_contest(replace(doubtful, plan=doubtful.server_only)) is None
