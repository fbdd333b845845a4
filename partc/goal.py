"""What a user wants a model planned for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TypedDict, TypeVar, cast

from typing_extensions import Unpack

from partc.errors import PartcError
from partc.plan import ConditionRange, Conditions, Interval, Objective, Side
from partc.quantities import parse_nbytes
from partc.targets.link import Link, load_link
from partc.targets.target import Target, load_target

Pins = Mapping[str, str]
"""Patterns of layers, each with the side, ``device`` or ``server``."""


_NETWORK = {
    "uplink_mbps": "--uplink",
    "downlink_mbps": "--downlink",
    "round_trip_ms": "--round-trip",
}

SERVER = "x86-64-v3"
"""The server that plans are for unless another is named."""


@dataclass(frozen=True)
class Constraints:
    """What a plan has to keep; nothing by default.

    Args:
        pins: Patterns of layers and the side on which those layers have to be.
        forbidden: Patterns of layers and the side on which those layers must not be.
        private_until: Layers; nothing that is upstream of one of them may leave the device.
        deadline_ms: The most a request may take.
        energy_mj: The most a request may draw from the device.
        server_ms: The most a request may compute on the server, as loaded as it is.
        upload_nbytes: The most that a request may send.
        device_nbytes: What weights and activations may take on the device.
        split: Whether both sides have to compute, or only one may; None for either.
        max_error: By how much outputs may deviate for how tensors are sent, relative to the largest
            value of each; None if all are to be sent as they are.
    """

    pins: tuple[tuple[str, Side], ...] = ()
    forbidden: tuple[tuple[str, Side], ...] = ()
    private_until: tuple[str, ...] = ()
    deadline_ms: float | None = None
    energy_mj: float | None = None
    server_ms: float | None = None
    upload_nbytes: int | None = None
    device_nbytes: int | None = None
    split: bool | None = None
    max_error: float | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the command line that give what there is."""
        return tuple(
            option
            for name, option in _CONSTRAINTS.items()
            if getattr(self, name) != getattr(Constraints(), name)
        )


_CONSTRAINTS = {
    "pins": "--pin",
    "forbidden": "--forbid",
    "private_until": "--private-until",
    "deadline_ms": "--deadline",
    "energy_mj": "--max-energy",
    "server_ms": "--max-server-time",
    "upload_nbytes": "--max-upload",
    "device_nbytes": "--device-memory",
    "split": "--must-split and --no-split",
    "max_error": "--max-error",
}


@dataclass(frozen=True)
class Goal:
    """What to plan for.

    Args:
        target: The device.
        server: The server.
        links: What may lie between them; the first is the one that a bundle's default is for.
        objective: What a plan is to be best at.
        constraints: What it has to keep.
        ms_per_mj: What a weighted objective takes a millijoule to be worth.
        rate_hz: Requests a second. Where latency is the objective and the plan that is best at it
            cannot keep up, a plan is to be best at throughput.
        server_busy: How many other requests the server computes at once, on average; from what to
            what, if that is not known.
        network: What is known otherwise than from the links: names of conditions, and from what to
            what they may be.
        image_nbytes: Inputs that come as image files, with the size of such a file.
        measure: Whether to time the model's layers where they are to run, instead of predicting.
        rpc: ``HOST:PORT`` of a TVM RPC server on the device, to measure there.
    """

    target: Target
    server: Target
    links: tuple[Link, ...]
    objective: Objective
    constraints: Constraints = Constraints()
    ms_per_mj: float = 0.0
    rate_hz: float = 0.0
    server_busy: Interval = (0.0, 0.0)
    network: tuple[tuple[str, Interval], ...] = ()
    image_nbytes: tuple[tuple[str, int], ...] = ()
    measure: bool = False
    rpc: str | None = None

    @property
    def varies(self) -> bool:
        """Whether some condition is only known to be in a range."""
        return any(low != high for low, high in (self.server_busy, *dict(self.network).values()))

    def require_plain(self, option: str) -> None:
        """Refuse what plans with tensors that are sent as they are cannot keep to.

        Raises:
            PartcError: Names the options that clash.
        """
        given = {"--max-error": self.constraints.max_error is not None}
        given["--input-nbytes"] = bool(self.image_nbytes)
        names = [name for name, is_given in given.items() if is_given]
        if names:
            raise PartcError(
                f"{option} plans with tensors that are sent as they are; leave out "
                f"{' and '.join(names)}"
            )

    def range(self, link: Link) -> ConditionRange:
        """From what to what a link and the server may be expected to be."""
        described = {name: getattr(link.conditions, name) for name in _NETWORK}
        intervals = {name: (value, value) for name, value in described.items()}
        low, high = map(self.server.load_curve.at, self.server_busy)
        return ConditionRange(**{**intervals, **dict(self.network)}, load=(low, high))

    def conditions(self, link: Link) -> Conditions:
        """What a link and an unloaded server are like, or what is known of them otherwise."""
        known = {name: low for name, (low, high) in self.network if low == high}
        load = self.server.load_curve.at(self.server_busy[0])
        return replace(link.conditions, **known, load=load)


class GoalOptions(TypedDict, total=False):
    """What can be wanted of a plan, besides its machines.

    Args:
        link: What lies between: one or several names that ``partc links`` lists, or ``.toml``
            files; ``wifi`` by default. A bundle holds the best plan for each, and the first one's
            is its default.
        objective: ``latency``, by default; ``energy``; ``throughput``, so that the slowest of
            device, transfer and server is as fast as can be; or ``weighted``, latency plus
            ``ms_per_mj`` times energy.
        ms_per_mj: How many milliseconds a millijoule is worth.
        rate_hz: Requests a second. If the plan that is best at latency cannot keep up, the
            objective is throughput.
        pins: Patterns of layer names, or of kinds as in ``kind:conv2d*``, each with the side on
            which those layers have to be, ``device`` or ``server``.
        forbid: Likewise, with the side on which they must not be.
        private_until: One or several layers: nothing that is upstream of them leaves the device.
        deadline_ms: The most a request may take.
        max_energy_mj: The most a request may draw from the device.
        max_server_ms: The most a request may compute on the server.
        max_upload_nbytes: The most a request may send; on average, if it is compressed.
        device_memory_nbytes: What weights and activations may take on the device.
        split: Whether both sides have to compute, or only one may; either, by default.
        max_error: By how much outputs may deviate, relative to the largest value of each, for
            tensors sent as float16 or uint8, or compressed; 0 allows lossless compression only.
            By default tensors are sent as they are.
        input_nbytes: Inputs that come as JPEG or PNG files, with the size of such a file; only
            whoever computes on one decodes it.
        uplink_mbps: The rate to the server, if not the link's; a pair stands for a range, for which
            every plan is found that is the best one somewhere in it.
        downlink_mbps: The rate back, likewise.
        round_trip_ms: Of an empty message, likewise.
        server_busy: How many other requests the server computes at once, on average, likewise.
        measure: Time the model's layers on both machines instead of predicting.
        rpc: ``HOST:PORT`` of a TVM RPC server on the device, to measure there; else it is measured
            here.
    """

    link: str | Sequence[str]
    objective: str
    ms_per_mj: float
    rate_hz: float
    pins: Pins
    forbid: Pins
    private_until: str | Sequence[str]
    deadline_ms: float | None
    max_energy_mj: float | None
    max_server_ms: float | None
    max_upload_nbytes: int | None
    device_memory_nbytes: int | None
    split: bool | None
    max_error: float | None
    input_nbytes: Mapping[str, int | str]
    uplink_mbps: float | Interval | None
    downlink_mbps: float | Interval | None
    round_trip_ms: float | Interval | None
    server_busy: float | Interval
    measure: bool
    rpc: str | None


def make_goal(target: str, server: str = SERVER, **options: Unpack[GoalOptions]) -> Goal:
    """Look up targets and links by name, or read them from ``.toml`` files.

    Args:
        target: The device: a name that ``partc targets`` lists, or a ``.toml`` file.
        server: The server, likewise.
        options: What is wanted of the plan.

    Raises:
        TargetError: One of them is unknown or described wrongly.
        PartcError: No link is given, there is no such objective or side, a number is out of its
            range, or options contradict each other.
    """
    _check_names(options)
    links = _names(options.get("link", "wifi"))
    if not links:
        raise PartcError("a plan needs at least one link; `partc links` lists them")
    measure, rpc = options.get("measure", False), options.get("rpc")
    if rpc and not measure:
        raise PartcError("--rpc says where to measure, so it needs --measure")
    objective = _objective(options.get("objective", "latency"))
    if options.get("rate_hz") and objective in (Objective.ENERGY, Objective.WEIGHTED):
        raise PartcError(
            "--rate makes throughput the objective where the fastest plan cannot keep up, so it "
            f"goes with --objective latency, not {objective.value}; leave one of them out"
        )
    return Goal(
        target=load_target(target),
        server=load_target(server),
        links=tuple(load_link(name) for name in links),
        objective=objective,
        constraints=_constraints(options),
        ms_per_mj=_weight(objective, options),
        rate_hz=_at_least_zero("--rate is requests a second", options.get("rate_hz", 0.0)),
        server_busy=_busy(options.get("server_busy", 0.0)),
        network=tuple(_network(options)),
        image_nbytes=tuple(_image_nbytes(options)),
        measure=measure,
        rpc=rpc,
    )


def _check_names(options: Mapping[str, object]) -> None:
    """Refuse options that would be ignored."""
    for name in options.keys() - GoalOptions.__annotations__.keys():
        known = list(GoalOptions.__annotations__)
        close = get_close_matches(name, known, 1) or [each for each in known if name in each]
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise PartcError(f"there is no option {name!r}; {hint}the options are {', '.join(known)}")


def _network(options: GoalOptions) -> Iterator[tuple[str, Interval]]:
    """What is said of the network."""
    given = {name: options.get(name) for name in _NETWORK}
    for name, value in given.items():
        if value is not None:
            low, high = _interval(value)
            least = 0 if name == "round_trip_ms" else math.ulp(0)
            if not least <= low <= high < math.inf:
                raise PartcError(
                    f"{_NETWORK[name]} is above zero and goes from less to more, "
                    f"not {low:g}..{high:g}"
                )
            yield name, (low, high)


def _image_nbytes(options: GoalOptions) -> Iterator[tuple[str, int]]:
    for name, size in options.get("input_nbytes", {}).items():
        nbytes = parse_nbytes("--input-nbytes", size) if isinstance(size, str) else size
        if nbytes <= 0:
            raise PartcError(f"--input-nbytes {name} is the size of a file, not {nbytes} bytes")
        yield name, nbytes


def _max_error(given: float | None) -> float | None:
    if given is not None and not 0 <= given < 1:
        raise PartcError(
            "--max-error is a share of an output's largest value, from 0, lossless, to below 1, "
            f"not {given:g}"
        )
    return given


def _busy(given: float | Interval) -> Interval:
    what = "--server-busy is how many other requests the server computes"
    low, high = (_at_least_zero(what, each) for each in _interval(given))
    if low > high:
        raise PartcError(f"--server-busy goes from less to more, not {low:g}..{high:g}")
    return low, high


def _interval(given: float | Interval) -> Interval:
    low, high = given if isinstance(given, Sequence) else (given, given)
    return low, high


def _constraints(options: GoalOptions) -> Constraints:
    pins, forbidden = _items(options.get("pins")), _items(options.get("forbid"))
    return Constraints(
        pins=tuple((pattern, _side(side, pattern)) for pattern, side in pins),
        forbidden=tuple((pattern, _side(side, pattern)) for pattern, side in forbidden),
        private_until=_names(options.get("private_until", ())),
        deadline_ms=_limit("--deadline", "ms", options.get("deadline_ms")),
        energy_mj=_limit("--max-energy", "mJ", options.get("max_energy_mj")),
        server_ms=_limit("--max-server-time", "ms", options.get("max_server_ms")),
        upload_nbytes=_limit("--max-upload", "bytes", options.get("max_upload_nbytes")),
        device_nbytes=_limit("--device-memory", "bytes", options.get("device_memory_nbytes")),
        split=options.get("split"),
        max_error=_max_error(options.get("max_error")),
    )


def _items(pins: Pins | None) -> Sequence[tuple[str, str]]:
    if not isinstance(cast("object", pins or {}), Mapping):
        raise PartcError(f"pins are patterns with sides, as in {{'stem*': 'device'}}, not {pins!r}")
    return list((pins or {}).items())


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Each once."""
    return (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))


def _objective(name: str) -> Objective:
    try:
        return Objective(name)
    except ValueError as error:
        known = ", ".join(objective.value for objective in Objective)
        raise PartcError(f"the objective is one of {known}, not {name!r}") from error


def _weight(objective: Objective, options: GoalOptions) -> float:
    given = options.get("ms_per_mj", 0.0)
    if bool(given) != (objective is Objective.WEIGHTED):
        raise PartcError(
            "--objective weighted and --ms-per-mj, how many ms a mJ is worth, go together"
        )
    return _at_least_zero("--ms-per-mj is how many ms a mJ is worth", given)


def _side(name: str, pattern: str) -> Side:
    try:
        return Side(name)
    except ValueError as error:
        raise PartcError(
            f"layers can be pinned to the device or the server; pin {pattern!r} says {name!r}"
        ) from error


_Number = TypeVar("_Number", int, float)


def _limit(option: str, unit: str, most: _Number | None) -> _Number | None:
    if most is not None and not 0 <= most < math.inf:
        raise PartcError(f"{option} is a number of {unit}, 0 or more, not {most:g}")
    return most


def _at_least_zero(what: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise PartcError(f"{what}, 0 or more, not {value:g}")
    return value
