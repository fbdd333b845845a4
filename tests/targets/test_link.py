from __future__ import annotations

from typing import Any

import msgspec
import pytest

from partc.graph import Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.plan import Conditions, Cut, DevicePower, make_plan, transfer_ms
from partc.targets.link import (
    Link,
    Radio,
    RadioState,
    builtin_links,
    device_power,
    load_link,
)
from partc.targets.target import load_target

IMAGE = Tensor("image", TensorType("uint8", (618_348,)))
ANSWER = Tensor("answer", TensorType("uint8", (0,)))
COST = LayerCost(device_ms=7, server_ms=0, device_mj=42)
UPLOAD = LayerGraph(
    "upload", (IMAGE,), (Layer("layer", "toy", (IMAGE,), (ANSWER,), cost=COST),), (ANSWER,)
)


def edited(**fields: Any) -> Link:
    return msgspec.structs.replace(load_link("wifi"), **fields)


def test_the_builtin_links():
    assert [link.name for link in builtin_links()] == ["3g", "cat1", "ethernet", "lte", "wifi"]


@pytest.mark.parametrize(
    ("name", "milliseconds", "joules"),
    [("3g", 4497, 7.98), ("4g", 846, 3.26), ("wifi", 262, 1.44)],
)
def test_an_upload_costs_what_the_field_knows(name: str, milliseconds: int, joules: float):
    link = load_link(name)
    upload_ms = transfer_ms(618_348, link.conditions.uplink_mbps)
    assert round(upload_ms) == milliseconds
    assert round(upload_ms * link.upload_watts / 1e3, 2) == joules


@pytest.mark.parametrize(
    ("name", "joules"), [("3g", 7.00), ("lte", 12.27), ("cat1", 12.27), ("wifi", 0.03)]
)
def test_a_radio_stays_awake_after_a_transfer(name: str, joules: float):
    assert round(load_link(name).tail_mj / 1e3, 2) == joules


def test_an_upload_over_lte_costs_its_tail_as_well():
    lte = load_link("lte")
    machine = msgspec.structs.replace(load_target("raspberry-pi-4"), idle_watts=0)
    plan = make_plan(UPLOAD, Cut.server_only(UPLOAD))
    energy_mj = plan.energy_mj(lte.conditions, device_power(machine, lte))
    assert round(energy_mj / 1e3, 2) == 15.53  # 3.26 without the tail of 11,576 ms at 1.06 W


def test_what_stays_on_the_device_wakes_no_radio():
    lte = load_link("lte")
    plan = make_plan(UPLOAD, Cut.device_only())
    power = device_power(load_target("raspberry-pi-4"), lte)
    assert plan.energy_mj(lte.conditions, power) == 42


def test_receiving_has_its_own_power():
    assert load_link("3g").download_watts == pytest.approx(0.12212 * 2.0275 + 0.81788)


def test_a_wire_needs_no_radio():
    ethernet = load_link("ethernet")
    assert ethernet.radio is None
    assert ethernet.upload_watts == ethernet.download_watts == ethernet.tail_mj == 0


def test_conditions_are_unloaded():
    assert load_link("lte").conditions == Conditions(5.85, 13.76, 55.0, load=1.0)


def test_device_power_joins_machine_and_radio():
    wifi = load_link("wifi")
    sources = {"busy_watts": "a meter", "idle_watts": "a meter"}
    machine = msgspec.structs.replace(load_target("raspberry-pi-4"), sources=sources)
    assert device_power(machine, wifi) == DevicePower(
        busy_watts=6.3,
        idle_watts=3.0,
        upload_watts=wifi.upload_watts,
        download_watts=wifi.download_watts,
        tail_mj=wifi.tail_mj,
        source="a meter",
    )


@pytest.mark.parametrize(
    ("sources", "source"),
    [
        ({}, "no source given"),
        ({"busy_watts": "a meter"}, "busy: a meter; idle: no source given"),
        ({"busy_watts": "a meter", "idle_watts": "a guess"}, "busy: a meter; idle: a guess"),
    ],
)
def test_device_power_says_where_watts_are_from(sources: dict[str, str], source: str):
    machine = msgspec.structs.replace(load_target("native"), sources=sources)
    assert device_power(machine, load_link("wifi")).source == source


@pytest.mark.parametrize("field", ["uplink_mbps", "downlink_mbps"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_rates_must_be_positive(field: str, value: float):
    with pytest.raises(ValueError, match=f"^{field} must be a finite number above zero, not"):
        edited(**{field: value})


def test_a_round_trip_is_not_negative():
    with pytest.raises(ValueError, match="round_trip_ms must be a finite number of at least zero"):
        edited(round_trip_ms=-1)


@pytest.mark.parametrize("field", ["alpha_up_mw_per_mbps", "alpha_down_mw_per_mbps", "beta_mw"])
def test_a_radio_makes_no_power(field: str):
    silent = Radio(alpha_up_mw_per_mbps=0, alpha_down_mw_per_mbps=0, beta_mw=0)
    with pytest.raises(ValueError, match=f"^{field} must be a finite number of at least zero"):
        msgspec.structs.replace(silent, **{field: -1})


@pytest.mark.parametrize("field", ["power_mw", "duration_ms"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_tail_is_finite(field: str, value: float):
    state = RadioState(power_mw=1, duration_ms=1)
    with pytest.raises(ValueError, match=f"^{field} must be a finite number of at least zero"):
        msgspec.structs.replace(state, **{field: value})
