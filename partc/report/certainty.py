"""How sure a decision's numbers are: errors of layers, added up to errors of plans."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from partc.cost import LATENCY, Cost, energy
from partc.graph import Layer
from partc.plan import Plan, Side
from partc.report.decision import Decision
from partc.targets.families import family

_Source: TypeAlias = tuple[Side, str]


@dataclass(frozen=True)
class PlanError:
    """Standard deviations of a plan's costs, relative to them; of a cost of nothing, zero."""

    device: float
    server: float
    latency: float
    energy: float

    def of_term(self, title: str) -> float:
        """That of a term of the latency, by its title; the link's terms are taken as given."""
        return {"device": self.device, "server": self.server}.get(title, 0.0)


@dataclass(frozen=True)
class Contest:
    """The chosen plan and the next best that needs no planner.

    Args:
        title: What reports call the other plan.
        margin: How much more of the objective it takes, in ms or mJ.
        error: The standard deviation of ``margin``.
    """

    title: str
    margin: float
    error: float

    @property
    def is_close(self) -> bool:
        return self.margin < self.error


def add_errors(errors: Iterable[tuple[_Source, float]]) -> float:
    """The standard deviation of a sum of layers' costs.

    Errors that have the same source, one family of layers on one machine, are taken to be the
    same error: they add up, and cancel where their signs differ. One regression predicts them
    all, so if it is off, it is off for all of them in the same direction; the root of the sum of
    squares would promise that a deep network of like layers is predicted ever better. Between
    sources, errors are taken to be independent, so there it is the root of the sum of squares:
    families are fitted apart, and the two machines are measured apart.

    Args:
        errors: Of every layer, its source and its standard deviation in ms or mJ, negative where
            the layer's cost is subtracted.
    """
    sums: defaultdict[_Source, float] = defaultdict(float)
    for source, error in errors:
        sums[source] += error
    return math.hypot(*sums.values())


def plan_error(decision: Decision, plan: Plan) -> PlanError:
    """How sure a plan's costs are, the link's terms being taken as given."""
    cost = decision.cost(plan)
    times = list(_errors(decision, plan, LATENCY))
    device, server = (
        add_errors(pair for pair in times if pair[0][0] is side)
        for side in (Side.DEVICE, Side.SERVER)
    )
    return PlanError(
        device=_relative(device, cost.device_ms),
        server=_relative(server, cost.server_ms),
        latency=_relative(add_errors(times), cost.latency_ms),
        energy=_relative(
            add_errors(_errors(decision, plan, energy(decision.power))), cost.energy_mj
        ),
    )


def find_contest(decision: Decision) -> Contest | None:
    """Who comes next behind the chosen plan.

    None if no plan does: there is one placement only, or pins rule out what would be better.
    """
    contests = (
        _contest(decision, title, plan)
        for title, plan in decision.plans.items()
        if plan.cut != decision.plan.cut
    )
    behind = (contest for contest in contests if contest.margin >= 0)
    return min(behind, key=lambda contest: contest.margin, default=None)


def _contest(decision: Decision, title: str, plan: Plan) -> Contest:
    """Layers that lie on the same side in both plans are the same in both and so never count."""
    errors = _errors(decision, plan, decision.aim.largest(plan, decision.conditions))
    best = decision.aim.largest(decision.plan, decision.conditions)
    subtracted = ((source, -error) for source, error in _errors(decision, decision.plan, best))
    margin = decision.value(plan) - decision.value(decision.plan)
    return Contest(title, margin, add_errors(chain(errors, subtracted)))


def _errors(decision: Decision, plan: Plan, cost: Cost) -> Iterator[tuple[_Source, float]]:
    """What every layer adds to the uncertainty of a plan's cost, in ms or mJ."""
    cut = plan.cut
    for layer in decision.graph.layers:
        side = cut.side(layer)
        yield (side, family(layer)), _error(decision, layer, side, cost)


def _error(decision: Decision, layer: Layer, side: Side, cost: Cost) -> float:
    known = layer.annotated_cost
    if side is Side.DEVICE:
        return known.device_error * (
            cost.device_ms * known.device_ms + cost.device_mj * known.device_mj
        )
    return known.server_error * cost.server_ms * known.server_ms * decision.conditions.load


def _relative(error: float, cost: float) -> float:
    return error / cost if cost else 0.0
