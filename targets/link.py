"""Links: what lies between the device and the server."""

from __future__ import annotations

import msgspec

from partc.plan import Conditions, DevicePower
from partc.targets.catalog import (
    Catalog,
    Description,
    require_not_negative,
    require_positive,
)
from partc.targets.target import Target


class RadioState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A state in which a radio stays awake although nothing is sent.

    Raises:
        ValueError: A figure is negative or not finite.
    """

    power_mw: float
    duration_ms: float

    def __post_init__(self) -> None:
        require_not_negative(self, "power_mw", "duration_ms")


class Radio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power of a radio: ``alpha`` times the rate plus ``beta`` while it sends or receives.

    The model is from Huang et al., "A Close Examination of Performance and Power Characteristics
    of 4G LTE Networks" (MobiSys 2012), who found it within 6 % of what they measured.

    Args:
        alpha_up_mw_per_mbps: What a megabit a second adds while it sends.
        alpha_down_mw_per_mbps: What a megabit a second adds while it receives.
        beta_mw: While it sends or receives at any rate.
        tail: The states that it passes through after its last transfer until it sleeps.

    Raises:
        ValueError: A coefficient is negative or not finite.
    """

    alpha_up_mw_per_mbps: float
    alpha_down_mw_per_mbps: float
    beta_mw: float
    tail: tuple[RadioState, ...] = ()

    def __post_init__(self) -> None:
        require_not_negative(self, "alpha_up_mw_per_mbps", "alpha_down_mw_per_mbps", "beta_mw")

    def upload_watts(self, rate_mbps: float) -> float:
        return (self.alpha_up_mw_per_mbps * rate_mbps + self.beta_mw) / 1e3

    def download_watts(self, rate_mbps: float) -> float:
        return (self.alpha_down_mw_per_mbps * rate_mbps + self.beta_mw) / 1e3

    @property
    def tail_mj(self) -> float:
        return sum(state.power_mw * state.duration_ms for state in self.tail) / 1e3


class Link(Description, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network: its rates, its round trip and the device's radio.

    Args:
        uplink_mbps: From the device to the server, in 10^6 bits a second.
        downlink_mbps: From the server to the device.
        round_trip_ms: Of an empty message.
        radio: None for a wire, whose power is part of the machine's.

    Raises:
        ValueError: A rate is not above zero, or the round trip is negative.
    """

    uplink_mbps: float
    downlink_mbps: float
    round_trip_ms: float
    radio: Radio | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "uplink_mbps", "downlink_mbps")
        require_not_negative(self, "round_trip_ms")

    @property
    def conditions(self) -> Conditions:
        """The link as described, with an unloaded server behind it."""
        return Conditions(self.uplink_mbps, self.downlink_mbps, self.round_trip_ms)

    @property
    def upload_watts(self) -> float:
        return self.radio.upload_watts(self.uplink_mbps) if self.radio else 0.0

    @property
    def download_watts(self) -> float:
        return self.radio.download_watts(self.downlink_mbps) if self.radio else 0.0

    @property
    def tail_mj(self) -> float:
        return self.radio.tail_mj if self.radio else 0.0


_CATALOG = Catalog(kind="link", folder="links", type=Link)


def load_link(name_or_path: str) -> Link:
    """Look up a built-in link by name or alias, or read one from a ``.toml`` file.

    Raises:
        TargetError: No such link or file, or the file describes no valid link.
    """
    return _CATALOG.load(name_or_path)


def builtin_links() -> tuple[Link, ...]:
    """The links that come with partc, sorted by name."""
    return _CATALOG.builtins()


def device_power(target: Target, link: Link) -> DevicePower:
    """What a device draws when it is behind a link.

    The radio's figures, the tail's too, come on top of the idle device. They were measured on a
    phone with its screen off, which draws about 10 mW itself (Huang et al., recalled).
    """
    return DevicePower(
        busy_watts=target.busy_watts,
        idle_watts=target.idle_watts,
        upload_watts=link.upload_watts,
        download_watts=link.download_watts,
        tail_mj=link.tail_mj,
        source=_source_of_watts(target),
    )


def _source_of_watts(target: Target) -> str:
    """What the target's description says of its watts."""
    busy, idle = (
        target.sources.get(name, "no source given") for name in ("busy_watts", "idle_watts")
    )
    return busy if busy == idle else f"busy: {busy}; idle: {idle}"
