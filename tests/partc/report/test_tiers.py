from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from strategies import tiny_graph

from partc.cost import LATENCY
from partc.passes.chain import Chain, Tier
from partc.passes.tiers import find_tiers
from partc.plan import Conditions, DevicePower, Objective
from partc.report.terminal import report_console
from partc.report.tiers import Tiering, print_tiers, tiers_json

GRAPH = tiny_graph(
    {"x": 20, "t": 4, "u": 2, "y": 1},
    {"a": ("x -> t", 5, 0), "b": ("t -> u", 30, 0), "c": ("u -> y", 40, 0)},
    "y",
)
CHAIN = Chain(
    tiers=(
        Tier("raspberry-pi-4", (5, 30, 40), 0.5),
        Tier("[jetson]", (2, 4.5, 18), 0.25),
        Tier("x86-64-v3", (1, 4, 2)),
    ),
    links=(Conditions(8, 8, 3), Conditions(16, 32, 0.5)),
    power=DevicePower(6, 2, 1.5, 1, 4, source="a meter"),
)


def tiering(chain: Chain = CHAIN) -> Tiering:
    return Tiering(
        model="tiny",
        objective=Objective.LATENCY,
        links=("wifi", "ethernet"),
        plan=find_tiers(GRAPH, chain, LATENCY),
        others=(
            ("raspberry-pi-4 and x86-64-v3", find_tiers(GRAPH, chain, LATENCY, (0, 2))),
            ("[jetson] only", find_tiers(GRAPH, chain, LATENCY, (1,))),
        ),
    )


def text(found: Tiering) -> str:
    file = io.StringIO()
    print_tiers(found, report_console(file))
    return file.getvalue()


def test_golden_text(golden: Callable[[str, str], None]) -> None:
    golden("tiers.txt", text(tiering()))


def test_golden_json(golden: Callable[[str, str], None]) -> None:
    golden("tiers.json", tiers_json(tiering()))


def test_energy_tells_what_the_device_draws() -> None:
    found = text(replace(tiering(), objective=Objective.ENERGY))
    assert "\nleast energy\n" in found
    assert "\ndevice power: 6 W busy, 2 W idle; a meter\n" in found
    assert "energy / chosen" in found


def test_a_weighted_sum_says_what_a_millijoule_is_worth() -> None:
    weighted = replace(tiering(), objective=Objective.WEIGHTED, ms_per_mj=0.25)
    assert "\nleast latency and energy, a mJ taken for 0.25 ms\n" in text(weighted)
    plan = weighted.plan
    assert weighted.value(plan) == plan.latency_ms + 0.25 * plan.energy_mj
    assert replace(weighted, objective=Objective.ENERGY).value(plan) == plan.energy_mj


def test_one_machine_has_all_layers() -> None:
    far = replace(CHAIN, links=(Conditions(8, 8, 300), CHAIN.links[1]))
    assert text(tiering(far)).startswith(
        "tiny: all 3 layers on raspberry-pi-4; 75.5 ms, 453.0 mJ\n"
    )


def test_what_costs_nothing_is_related_to_nothing() -> None:
    free = replace(CHAIN, tiers=tuple(Tier(tier.name, (0, 0, 0)) for tier in CHAIN.tiers))
    chosen = next(line for line in text(tiering(free)).splitlines() if line.startswith("chosen"))
    assert chosen.split()[-1] == "-"


def test_json_adds_up() -> None:
    report = json.loads(tiers_json(tiering()))
    times = [row["compute_ms"] for row in report["tiers"]]
    times += [row["transfer_ms"] for row in report["links"]]
    assert report["latency_ms"] == pytest.approx(sum(times))
