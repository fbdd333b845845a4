from __future__ import annotations

from dataclasses import replace

from partc.report.decision import Decision
from partc.report.summary import describe_conditions, headline


def test_all_layers_on_one_machine_read_so(decision: Decision) -> None:
    server_only = replace(decision, plan=decision.server_only)
    assert headline(server_only).startswith("diamond & co: all 4 layers on x86-64-v3; 136.6 ms")


def test_machines_of_one_name_keep_their_counts(decision: Decision) -> None:
    twins = replace(decision, server="jetson")
    assert "2 layers on jetson and 2 layers on jetson" in headline(twins)


def test_an_unloaded_server_needs_no_mention(decision: Decision) -> None:
    unloaded = replace(decision, conditions=replace(decision.conditions, load=1.0))
    assert "slower" in describe_conditions(decision)
    assert "slower" not in describe_conditions(unloaded)
