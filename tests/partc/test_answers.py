from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Run, assert_refused


def test_json_is_as_reviewed(
    run: Run, tiny_model: Path, golden: Callable[[str, str], None]
) -> None:
    result = run("plan", tiny_model, "--target", "jetson-tx2", "--pin", "head=server", "--json")
    assert result.status == 0
    golden("cli.tiny.plan.json", result.out)


def test_json_is_all_there_is_on_standard_output(run: Run, tiny_model: Path) -> None:
    result = run("plan", tiny_model, "--target", "jetson", "--json", "--objective", "energy")
    assert json.loads(result.out)["objective"] == "energy"
    assert result.err == "Importing the model\n"


def test_every_link_has_a_decision(run: Run, tiny_model: Path) -> None:
    result = run("plan", tiny_model, "--target", "jetson", "--link", "lte", "--link", "wifi")
    assert result.out.count("least latency over") == 2


def test_a_range_of_conditions_has_a_table(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    options = ["--target", "jetson-tx2", "--uplink", "0.1..1000", "--round-trip", 0]
    table = run("plan", tiny_model, *options, "--plot", tmp_path / "p.svg")
    assert (table.status, "somewhere" in table.out) == (0, True)
    assert "round trip ms 0" in table.out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    report = json.loads(run("plan", tiny_model, *options, "--json").out)
    assert report["range"]["uplink_mbps"] == [0.1, 1000]


def test_the_trade_between_latency_and_energy(run: Run, tiny_model: Path) -> None:
    options = ["--target", "jetson-tx2", "--pareto"]
    assert "is best at both latency and energy" in run("plan", tiny_model, *options).out
    report = json.loads(run("plan", tiny_model, *options, "--json").out)
    assert len(report["plans"]) == 1
    refused = run("plan", tiny_model, *options, "--uplink", "1..2")
    assert_refused(
        refused, "--pareto and a range of conditions are different questions; ask one at a time"
    )


def test_layers_may_return_to_the_device(run: Run, tiny_model: Path) -> None:
    options = ["--target", "jetson-tx2", "--switches", 2]
    assert "goes to the server once" in run("plan", tiny_model, *options).out
    report = json.loads(run("plan", tiny_model, *options, "--json").out)
    assert [phase["side"] for phase in report["phases"]] == ["device"]
    refused = run("plan", tiny_model, *options, "--deadline", 3)
    assert_refused(refused, "leave out other limits")


def test_machines_in_a_row(run: Run, tiny_model: Path) -> None:
    options = ["--tiers", "raspberry-pi-4,jetson,x86-64-v3", "--link", "wifi"]
    found = run("plan", tiny_model, *options, "--link", "ethernet")
    assert (found.status, "jetson" in found.out) == (0, True)
    report = json.loads(run("plan", tiny_model, *options, "--link", "ethernet", "--json").out)
    assert [link["link"] for link in report["links"]] == ["wifi", "ethernet"]
    assert_refused(run("plan", tiny_model, *options), "3 tiers need 2 links between them")
    both = run("plan", tiny_model, *options, "--target", "native")
    assert_refused(both, "--target NAME, the device, or --tiers NAME,NAME,…; both came")
    server = run("plan", tiny_model, *options, "--server", "native")
    assert_refused(server, "--tiers names all machines; leave out --server native")
    refused = run("plan", tiny_model, *options, "--link", "ethernet", "--compare")
    assert_refused(refused, "--tiers and --compare are different questions")


def test_what_overlaps_has_a_timeline(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    options = ["--target", "jetson-tx2", "--overlap"]
    found = run("plan", tiny_model, *options, "--plot", tmp_path / "t.svg")
    assert (found.status, "device" in found.out) == (0, True)
    assert (tmp_path / "t.svg").read_text().startswith("<?xml")
    report = json.loads(run("plan", tiny_model, *options, "--json").out)
    assert report["latency_ms"] == max(each["end_ms"] for each in report["activities"])
    assert_refused(run("plan", tiny_model, *options, "--objective", "energy"), "--overlap is")


def test_other_planners_are_compared(run: Run, tiny_model: Path) -> None:
    options = ["--target", "jetson-tx2", "--compare"]
    table = run("plan", tiny_model, *options).out
    for planner in ("partc", "neurosurgeon", "maui", "dads", "device-only", "server-only"):
        assert f"\n{planner} " in table
    assert "planners" in json.loads(run("plan", tiny_model, *options, "--json").out)
    refused = run("plan", tiny_model, *options, "--pareto")
    assert_refused(refused, "--pareto and --compare are different questions")


def test_limits_are_said_and_kept(run: Run, tiny_model: Path) -> None:
    options = ["--max-upload", "1kB", "--deadline", 500, "--must-split"]
    report = run("plan", tiny_model, "--target", "jetson-tx2", *options).out
    assert "keeping --deadline 500 ms, --max-upload 1.0 kB, --must-split" in report
    assert "1 layer on jetson-tx2 and 1 layer" in report.replace("layers", "layer")


def test_throughput_says_how_many_requests(run: Run, tiny_model: Path) -> None:
    report = run("plan", tiny_model, "--target", "native", "--objective", "throughput").out
    assert "highest throughput over wifi" in report
    assert "slowest stage / chosen" in report


def test_a_busy_server_is_planned_for(run: Run, tiny_model: Path) -> None:
    options = ["--target", "jetson-tx2", "--pin", "*=server"]
    report = run("plan", tiny_model, *options, "--server-busy", 2).out
    assert "server computing 2 other requests: 3 times slower" in report
    alone, busy = (
        json.loads(run("plan", tiny_model, *options, "--server-busy", count, "--json").out)
        for count in (0, 2)
    )
    assert busy["plan"]["server_ms"] == pytest.approx(3 * alone["plan"]["server_ms"])


def test_the_shape_of_an_input_may_be_given(run: Run, tiny_model: Path) -> None:
    result = run("plan", tiny_model, "--target", "jetson", "--shape", "x:0=1,3,8,8", "--json")
    assert result.status == 0
