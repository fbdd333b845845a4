from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from strategies import tiny_graph

from partc import tiering
from partc.cost import LATENCY
from partc.errors import PartcError, TargetError
from partc.goal import make_goal
from partc.graph import LayerGraph
from partc.passes.annotate import annotate, entry_charges
from partc.passes.cut import find_cut
from partc.passes.price import price
from partc.plan import Objective, make_plan
from partc.report.tiers import Tiering
from partc.targets.predictor import Prediction, UnknownLayerError, predictor_for
from partc.targets.target import Target
from partc.tiering import TierGoal, make_tier_goal, plan_tiers

MACHINES = ("raspberry-pi-4", "jetson", "x86-64-v3")
LINKS = ("wifi", "ethernet")


def graph() -> LayerGraph:
    """Three layers that grow heavier, and tensors that shrink."""
    drawn = tiny_graph(
        {"x": 600, "t": 60, "u": 20, "y": 1},
        {"a": ("x -> t", 0, 0), "b": ("t -> u", 0, 0), "c": ("u -> y", 0, 0)},
        "y",
    )
    flops = {"a": 10**8, "b": 10**9, "c": 10**10}
    return drawn.with_layers(
        replace(layer, cost=None, flops=flops[layer.name]) for layer in drawn.layers
    )


def plan(
    tiers: tuple[str, ...] = MACHINES, links: tuple[str, ...] = LINKS, **options: Any
) -> Tiering:
    goal = make_goal("native", "native", **options)
    return plan_tiers(graph(), make_tier_goal(tiers, links, goal))


def test_others_are_pairs_with_the_device_and_each_machine_alone() -> None:
    found = plan()
    names = [target.name for target in make_tier_goal(MACHINES, LINKS, make_goal("native")).targets]
    pi, jetson, server = names
    assert found.machines == (pi, jetson, server)
    assert [title for title, _ in found.others] == [
        f"{pi} and {jetson}",
        f"{pi} and {server}",
        f"{pi} only",
        f"{jetson} only",
        f"{server} only",
    ]
    others = dict(found.others)
    assert not others[f"{pi} and {jetson}"].layers[2]
    assert not others[f"{pi} and {server}"].layers[1]
    for place, name in enumerate(names):
        assert len(others[f"{name} only"].layers[place]) == 3


@pytest.mark.parametrize(
    "options", [{}, {"objective": "energy"}, {"objective": "weighted", "ms_per_mj": 0.1}]
)
def test_no_other_is_better(options: dict[str, Any]) -> None:
    found = plan(**options)
    assert all(found.value(found.plan) <= found.value(other) for _, other in found.others)


def test_a_weighted_objective_lies_between_its_parts() -> None:
    quick, frugal = plan(links=("lte", "wifi")), plan(links=("lte", "wifi"), objective="energy")
    assert quick.plan.layers != frugal.plan.layers
    for ms_per_mj, part in ((1e-6, quick), (1e3, frugal)):
        weighted = plan(links=("lte", "wifi"), objective="weighted", ms_per_mj=ms_per_mj)
        assert (weighted.objective, weighted.ms_per_mj) == (Objective.WEIGHTED, ms_per_mj)
        assert weighted.plan.layers == part.plan.layers


def test_the_device_is_the_first_machine_and_its_radio_the_first_link() -> None:
    device, link = make_goal("raspberry-pi-4").target, make_goal("native", link="lte").links[0]
    power = plan(links=("lte", "ethernet")).plan.chain.power
    assert (power.busy_watts, power.idle_watts) == (device.busy_watts, device.idle_watts)
    assert (power.upload_watts, power.tail_mj) == (link.upload_watts, link.tail_mj)


def test_two_machines_are_charged_as_elsewhere() -> None:
    found = plan(("raspberry-pi-4", "x86-64-v3"), ("wifi",))
    goal = make_goal("raspberry-pi-4", "x86-64-v3")
    near, far, link = goal.target, goal.server, goal.links[0]
    costed = annotate(
        graph(),
        predictor_for(near),
        predictor_for(far),
        near.busy_watts,
        near.cold_share,
        far.cold_share,
    )
    entry = entry_charges(near, far)
    cut = find_cut(costed, price(costed, LATENCY, link.conditions, entry))
    expected = make_plan(costed, cut, entry)
    assert found.plan.layers == (expected.device_layers, expected.server_layers)
    assert found.plan.latency_ms == pytest.approx(expected.latency_ms(link.conditions))
    assert [title for title, _ in found.others] == [f"{near.name} only", f"{far.name} only"]


def test_a_machine_that_has_waited_is_slower() -> None:
    goal = make_tier_goal(MACHINES, LINKS, make_goal("native"))
    device, *further = goal.targets

    def alone_ms(**waiting: float) -> float:
        changed = msgspec.structs.replace(device, **waiting)
        found = plan_tiers(graph(), TierGoal((changed, *further), goal.links))
        return dict(found.others)[f"{device.name} only"].latency_ms

    warm_ms = alone_ms(cold_share=0.0, entry_ms=0.0)
    assert alone_ms(cold_share=0.5, entry_ms=7.0) == pytest.approx(1.5 * warm_ms + 7)


def test_a_link_may_come_twice() -> None:
    goal = make_tier_goal(MACHINES, ("wifi", "wifi"), make_goal("native"))
    assert [link.name for link in goal.links] == ["wifi", "wifi"]


@pytest.mark.parametrize(
    ("tiers", "links", "message"),
    [
        (
            ("native",),
            (),
            "--tiers names two machines or more, the device first, as in "
            "raspberry-pi-4,jetson,x86-64-v3, not 1",
        ),
        (
            MACHINES,
            ("wifi",),
            "3 tiers need 2 links between them, in their order, but 1 came: wifi; "
            "give --link once for each",
        ),
        (
            MACHINES,
            ("wifi", "lte", "wifi"),
            "3 tiers need 2 links between them, in their order, but 3 came: wifi, lte, wifi; "
            "give --link once for each",
        ),
    ],
)
def test_what_is_no_chain(tiers: tuple[str, ...], links: tuple[str, ...], message: str) -> None:
    with pytest.raises(PartcError) as error:
        make_tier_goal(tiers, links, make_goal("native"))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"deadline_ms": 5.0, "max_error": 0.1}, "--deadline and --max-error"),
        ({"pins": {"a": "device"}, "forbid": {"b": "device"}}, "--pin and --forbid"),
        ({"rate_hz": 5.0}, "--rate"),
        ({"server_busy": 2.0}, "--server-busy"),
        ({"uplink_mbps": 2.0}, "--uplink, --downlink and --round-trip"),
        ({"measure": True, "rate_hz": 1.0}, "--rate and --measure"),
    ],
)
def test_what_is_for_two_machines(options: dict[str, Any], what: str) -> None:
    with pytest.raises(PartcError) as error:
        plan(**options)
    assert str(error.value) == (
        f"--tiers goes with --objective alone; leave out {what}, for two machines only"
    )


def test_throughput_is_no_sum() -> None:
    with pytest.raises(PartcError, match="not for throughput; choose another --objective"):
        plan(objective="throughput")


def test_machines_are_looked_up() -> None:
    with pytest.raises(TargetError, match="no target is called 'jetsom'"):
        plan(("raspberry-pi-4", "jetsom", "x86-64-v3"))


def test_layers_that_a_machine_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful:
        def predict(self, _: Any) -> list[Prediction | None]:
            return [None, Prediction(1.0, 0.0), None]

    def choose(target: Target) -> Any:
        return Forgetful() if target.name == "x86-64-v3" else predictor_for(target)

    monkeypatch.setattr(tiering, "predictor_for", choose)
    with pytest.raises(UnknownLayerError) as error:
        plan()
    assert str(error.value) == (
        "there is no predicted time on x86-64-v3 for 'a' (toy), 'c' (toy); profile it anew, or "
        "leave its profile out"
    )
