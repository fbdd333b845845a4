"""What a user wants a model planned for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from partc.errors import PartcError
from partc.plan import Conditions, Objective, Side
from partc.targets.link import Link, load_link
from partc.targets.target import Target, load_target

Pins = Mapping[str, str]
"""Patterns of layer names, each with the side, ``device`` or ``server``."""


@dataclass(frozen=True)
class Goal:
    """What to plan for.

    Args:
        target: The device.
        server: The server.
        links: What may lie between them; the first is the one that a bundle's default is for.
        objective: What a plan is to be best at.
        pins: Patterns of layer names and the side on which those layers have to be.
        server_busy: How many other requests the server computes at once, on average.
        measure: Whether to time the model's layers where they are to run, instead of predicting.
        rpc: ``HOST:PORT`` of a TVM RPC server on the device, to measure there.
    """

    target: Target
    server: Target
    links: tuple[Link, ...]
    objective: Objective
    pins: tuple[tuple[str, Side], ...]
    server_busy: float = 0.0
    measure: bool = False
    rpc: str | None = None

    def conditions(self, link: Link) -> Conditions:
        """What a link and the server are expected to be like."""
        return replace(link.conditions, load=self.server.load_curve.at(self.server_busy))


def make_goal(
    target: str,
    server: str = "x86-64-v3",
    link: str | Sequence[str] = "wifi",
    objective: str = "latency",
    pins: Pins | None = None,
    server_busy: float = 0.0,
    measure: bool = False,
    rpc: str | None = None,
) -> Goal:
    """Look up targets and links by name, or read them from ``.toml`` files.

    Raises:
        TargetError: One of them is unknown or described wrongly.
        PartcError: No link is given, there is no such objective or side, a server cannot be so
            busy, or a board's address is given although nothing is to be measured there.
    """
    links = (link,) if isinstance(link, str) else tuple(dict.fromkeys(link))
    if not links:
        raise PartcError("a plan needs at least one link; `partc links` lists them")
    if rpc and not measure:
        raise PartcError("--rpc says where to measure, so it needs --measure")
    if not 0 <= server_busy < math.inf:
        raise PartcError(
            "--server-busy is how many other requests the server computes, 0 or more, "
            f"not {server_busy:g}"
        )
    return Goal(
        target=load_target(target),
        server=load_target(server),
        links=tuple(load_link(name) for name in links),
        objective=_objective(objective),
        pins=tuple((pattern, _side(side, pattern)) for pattern, side in (pins or {}).items()),
        server_busy=server_busy,
        measure=measure,
        rpc=rpc,
    )


def _objective(name: str) -> Objective:
    try:
        return Objective(name)
    except ValueError as error:
        known = " or ".join(objective.value for objective in Objective)
        raise PartcError(f"the objective is {known}, not {name!r}") from error


def _side(name: str, pattern: str) -> Side:
    try:
        return Side(name)
    except ValueError as error:
        raise PartcError(
            f"layers can be pinned to the device or the server; pin {pattern!r} says {name!r}"
        ) from error
