from __future__ import annotations

from typing import Any

import msgspec
import pytest

from partc.plan import Conditions, DevicePower, transfer_ms
from partc.targets.link import Link, Radio, builtin_links, device_power, load_link
from partc.targets.target import load_target


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


def test_receiving_has_its_own_power():
    assert load_link("3g").download_watts == pytest.approx(0.12212 * 2.0275 + 0.81788)


def test_a_wire_needs_no_radio():
    ethernet = load_link("ethernet")
    assert ethernet.radio is None
    assert ethernet.upload_watts == ethernet.download_watts == 0


def test_conditions_are_unloaded():
    assert load_link("lte").conditions == Conditions(5.85, 13.76, 55.0, load=1.0)


def test_device_power_joins_machine_and_radio():
    wifi = load_link("wifi")
    assert device_power(load_target("raspberry-pi-4"), wifi) == DevicePower(
        busy_watts=6.3,
        idle_watts=3.0,
        upload_watts=wifi.upload_watts,
        download_watts=wifi.download_watts,
    )


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
    coefficients = {"alpha_up_mw_per_mbps": 0, "alpha_down_mw_per_mbps": 0, "beta_mw": 0}
    with pytest.raises(ValueError, match=f"^{field} must be a finite number of at least zero"):
        Radio(**{**coefficients, field: -1})
