"""The optimal placement of a graph on a chain of machines, as closures of least weight.

From each machine on, a layer is there or nearer to the device, and a tensor is needed there or not:
yes-or-no choices. A yes of a layer implies one from the machine before on, and, as nothing a
machine made goes back to one nearer to the device, yeses of its readers. A layer that reads a
tensor needs it where it is. What a choice costs is what a machine, or what carrying a tensor one
machine further, costs more. So the best choices are a closure (:mod:`partc.passes.closure`); for
two machines it is the cut of :mod:`partc.passes.cut`.

That levels of a chain become layers of one minimum cut is from Ishikawa, "Exact Optimization for
Markov Random Fields with Convex Priors" (IEEE TPAMI 2003).

What a machine or a link costs once, however much it is used, is no such choice. Placements that
compute on the same machines pay the same for it. So for a set of machines the best choices are
found as if it were free; and if they leave out some of these machines, no placement that uses at
least the machines that they do use is better, and only sets that lack one of those remain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from partc.cost import Cost
from partc.graph import LayerGraph
from partc.passes.chain import Chain, TierPlan, make_tier_plan
from partc.passes.choices import Choices, find_choices
from partc.passes.closure import LARGEST_SUM, Integers, find_closure
from partc.passes.price import UNITS_PER_MILLI, Array, check_total, returned_nbytes
from partc.plan import transfer_ms

_LARGEST_UNITS = LARGEST_SUM / 2  # a cost counts in two differences at most


def find_tiers(
    graph: LayerGraph, chain: Chain, cost: Cost, machines: Collection[int] | None = None
) -> TierPlan:
    """The plan that costs least; among equals the one with its layers nearest to the device.

    Args:
        graph: Layers; what they take on each machine is in the chain.
        chain: The machines and links.
        cost: What is minimised, as the device sees it: to it, all that happens behind its own
            link is time of a server.
        machines: Those that may have layers, counted from the device; the others only pass on what
            crosses them, and are not entered. All, by default.

    Returns:
        An exact optimum, up to rounding of each cost to a nanosecond or a nanojoule.

    Raises:
        TargetError: The costs are too large to add up.
    """
    every = frozenset(range(len(chain.tiers)) if machines is None else machines)
    candidates = _candidates(find_choices(graph), _price(graph, chain, cost), every)
    _, best = min(candidates, key=lambda each: (each[0], int(each[1].sum())))
    return make_tier_plan(graph, chain, best.tolist())


def _candidates(
    choices: Choices, prices: _Prices, every: frozenset[int]
) -> Iterator[tuple[int, Integers]]:
    """Placements, machines by layer, of which one is the best; with their costs."""
    waiting, seen = [every], {every}
    while waiting:
        machines = waiting.pop()
        cost, placement = _place(choices, prices, sorted(machines))
        yield cost + prices.once(placement), placement
        for used in np.unique(placement).tolist():
            fewer = machines - {used}
            if fewer and fewer not in seen:
                seen.add(fewer)
                waiting.append(fewer)


@dataclass(frozen=True)
class _Prices:
    """What every choice costs, in whole nanoseconds or nanojoules.

    Args:
        layers: Of every layer on every machine, with the way back of the outputs it makes;
            machines x layers.
        carried: Of bringing every tensor from the device to every machine; machines x tensors.
        entries: Of computing on every machine at all.
        reaching: Of every machine's being the last that computes.
    """

    layers: Integers
    carried: Integers
    entries: Integers
    reaching: Integers

    def once(self, placement: Integers) -> int:
        """What a placement costs besides its choices."""
        entering = self.entries[np.unique(placement)].sum()
        return int(entering + self.reaching[placement.max(initial=0)])


def _price(graph: LayerGraph, chain: Chain, cost: Cost) -> _Prices:
    """Work out what every choice costs.

    Raises:
        TargetError: The costs are too large to add up.
    """
    links, behind = chain.links, [cost.server_ms] * (len(chain.links) - 1)
    busy = cost.device_ms + cost.device_mj * chain.power.busy_watts
    weights = np.array([busy, *(cost.server_ms * link.load for link in links)])
    computing = weights[:, None] * np.array([tier.layers_ms for tier in chain.tiers])

    sizes = np.array([tensor.nbytes for tensor in graph.tensors], float)
    uplinks = [link.uplink_mbps for link in links]
    up = _transfers([cost.upload_ms, *behind], sizes, uplinks)
    up[0] += cost.upload_nbytes * sizes
    downlinks = [link.downlink_mbps for link in links]
    down = _transfers([cost.download_ms, *behind], returned_nbytes(graph), downlinks)

    round_trips = cost.round_trip_ms * np.array([link.round_trip_ms for link in links])
    round_trips[0] += cost.asking
    parts = (
        computing + _up_to_each_machine(down),
        _up_to_each_machine(up),
        weights * [tier.entry_ms for tier in chain.tiers],
        _up_to_each_machine(round_trips),
    )
    check_total(
        float(parts[0].sum() + up.sum() + parts[2].sum() + round_trips.sum()), _LARGEST_UNITS
    )
    return _Prices(*(np.rint(part * UNITS_PER_MILLI).astype(np.int64) for part in parts))


def _transfers(weights: Sequence[float], sizes: Array, mbps: Sequence[float]) -> Array:
    """What carrying so many bytes costs on each link; links x sizes."""
    byte_ms = [transfer_ms(1, rate) for rate in mbps]
    return np.outer(np.array(weights) * byte_ms, sizes)


def _up_to_each_machine(links: Array) -> Array:
    """Sums over the links between the device and each machine."""
    return np.concatenate([np.zeros_like(links[:1]), links.cumsum(axis=0)])


def _place(choices: Choices, prices: _Prices, machines: Sequence[int]) -> tuple[int, Integers]:
    """The best of the placements on some machines, and what its choices cost."""
    layers, carried = prices.layers[machines], prices.carried[machines]
    steps = zip(np.diff(layers, axis=0), np.diff(carried, axis=0), strict=True)
    weights = np.array([choices.weigh(*step) for step in steps], np.int64)
    weights = weights.reshape(len(machines) - 1, choices.count)
    at = np.arange(weights.size, dtype=np.int64).reshape(weights.shape)
    chosen = find_closure(
        weights.ravel(),
        np.concatenate([at[:, choices.causes].ravel(), at[1:].ravel()]),
        np.concatenate([at[:, choices.effects].ravel(), at[:-1].ravel()]),
    ).reshape(weights.shape)
    nearest = layers[0].sum() + carried[0][(choices.makers < 0) & (choices.needed >= 0)].sum()
    further = chosen[:, : layers.shape[1]].sum(axis=0)
    return int(nearest + weights[chosen].sum()), np.array(machines, np.int64)[further]
