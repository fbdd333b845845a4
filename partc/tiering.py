"""Plans for more machines than a device and a server: a chain of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from partc.cost import aim_of
from partc.errors import PartcError
from partc.goal import Goal
from partc.graph import LayerGraph
from partc.passes.chain import Chain, Tier, TierPlan
from partc.passes.tiers import find_tiers
from partc.plan import Objective
from partc.report.tiers import Tiering
from partc.targets.features import Described
from partc.targets.link import Link, device_power, load_link
from partc.targets.predictor import UnknownLayerError, predictor_for
from partc.targets.target import Target, load_target


@dataclass(frozen=True)
class TierGoal:
    """What a user wants a model planned for.

    Args:
        targets: The machines, the device first.
        links: What lies between each two neighbours.
        objective: What a plan is to be best at.
        ms_per_mj: What a weighted objective takes a millijoule to be worth.

    Raises:
        PartcError: There are fewer than two machines, not one link between each two, or an
            objective that is no sum.
    """

    targets: tuple[Target, ...]
    links: tuple[Link, ...]
    objective: Objective = Objective.LATENCY
    ms_per_mj: float = 0.0

    def __post_init__(self) -> None:
        if len(self.targets) < 2:
            raise PartcError(
                "--tiers names two machines or more, the device first, as in "
                f"raspberry-pi-4,jetson,x86-64-v3, not {len(self.targets)}"
            )
        if len(self.links) != len(self.targets) - 1:
            raise PartcError(
                f"{len(self.targets)} tiers need {len(self.targets) - 1} links between them, in "
                f"their order, but {len(self.links)} came: "
                f"{', '.join(link.name for link in self.links)}; give --link once for each"
            )
        if self.objective is Objective.THROUGHPUT:
            raise PartcError(
                "--tiers are planned for latency, energy or both weighted, not for throughput; "
                "choose another --objective"
            )


def make_tier_goal(tiers: Sequence[str], links: Sequence[str], goal: Goal) -> TierGoal:
    """Look up machines and links by name, or read them from ``.toml`` files.

    Args:
        tiers: Names that ``partc targets`` lists, or files; the device first.
        links: Names that ``partc links`` lists, or files; one for each two neighbours, which may
            be the same.
        goal: What else is wanted; its machines and links are not used.

    Raises:
        TargetError: A machine or a link is unknown or described wrongly.
        PartcError: They are no chain, or something is wanted that is for two machines only.
    """
    _refuse_what_two_machines_keep(goal)
    return TierGoal(
        targets=tuple(map(load_target, tiers)),
        links=tuple(map(load_link, links)),
        objective=goal.objective,
        ms_per_mj=goal.ms_per_mj,
    )


def _refuse_what_two_machines_keep(goal: Goal) -> None:
    given = {
        **dict.fromkeys(goal.constraints.options, True),
        "--rate": bool(goal.rate_hz),
        "--server-busy": any(goal.server_busy),
        "--uplink, --downlink and --round-trip": bool(goal.network),
        "--input-nbytes": bool(goal.image_nbytes),
        "--measure": goal.measure,
    }
    refused = [what for what, is_given in given.items() if is_given]
    if refused:
        raise PartcError(
            f"--tiers goes with --objective alone; leave out {' and '.join(refused)}, for two "
            "machines only"
        )


def plan_tiers(graph: LayerGraph, goal: TierGoal) -> Tiering:
    """Find the best plan on a chain of machines, and the best on fewer of them.

    Args:
        graph: Layers; costs that they have are not used.
        goal: What to plan for.

    Raises:
        UnknownLayerError: A machine's predictor does not know some layers; names them.
    """
    layers = Described(graph.layers)
    chain = Chain(
        tiers=tuple(
            Tier(target.name, _layers_ms(layers, target), target.entry_ms)
            for target in goal.targets
        ),
        links=tuple(link.conditions for link in goal.links),
        power=device_power(goal.targets[0], goal.links[0]),
    )
    (cost,) = aim_of(goal.objective, chain.power, goal.ms_per_mj).costs

    def find(machines: Sequence[int]) -> TierPlan:
        return find_tiers(graph, chain, cost, machines)

    return Tiering(
        model=graph.name,
        objective=goal.objective,
        links=tuple(link.name for link in goal.links),
        plan=find(range(len(chain.tiers))),
        others=tuple(_others(chain, find)),
        ms_per_mj=goal.ms_per_mj,
    )


def _others(
    chain: Chain, find: Callable[[Sequence[int]], TierPlan]
) -> Iterator[tuple[str, TierPlan]]:
    """The best plans of the device with one other machine, and of each machine alone."""
    device, *further = chain.tiers
    if len(further) > 1:
        for place, tier in enumerate(further, 1):
            yield f"{device.name} and {tier.name}", find((0, place))
    for place, tier in enumerate(chain.tiers):
        yield f"{tier.name} only", find((place,))


def _layers_ms(layers: Described, target: Target) -> tuple[float, ...]:
    """What each layer takes on a machine that has waited."""
    predictions = predictor_for(target).predict(layers)
    pairs = list(zip(layers, predictions, strict=True))
    unknown = [f"{layer.name!r} ({layer.kind})" for layer, known in pairs if not known]
    if unknown:
        raise UnknownLayerError(
            f"there is no predicted time on {target.name} for {', '.join(unknown)}; "
            "profile it anew, or leave its profile out"
        )
    return tuple((1 + target.cold_share) * each.latency_ms for each in predictions if each)
