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
from numpy.typing import NDArray

from partc.cost import Cost
from partc.errors import TargetError
from partc.graph import LayerGraph
from partc.passes.chain import Chain, TierPlan, make_tier_plan
from partc.passes.closure import LARGEST_SUM, Integers, find_closure
from partc.plan import transfer_ms

_UNITS_PER_MILLI = 1e6  # costs are whole nanoseconds or nanojoules
_LARGEST_TOTAL = LARGEST_SUM / 2 / _UNITS_PER_MILLI  # a cost counts in two differences at most

_Floats = NDArray[np.float64]


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
    prices, reads = _price(graph, chain, cost), _read(graph)
    placements = _candidates(prices, reads, every)
    best = min(placements, key=lambda each: (prices.of(each, reads), int(each.sum())))
    return make_tier_plan(graph, chain, best.tolist())


def _candidates(prices: _Prices, reads: _Reads, every: frozenset[int]) -> Iterator[Integers]:
    """Placements of which one is the best."""
    waiting, seen = [every], {every}
    while waiting:
        machines = waiting.pop()
        placement = _place(prices, reads, sorted(machines))
        yield placement
        for used in np.unique(placement).tolist():
            fewer = machines - {used}
            if fewer and fewer not in seen:
                seen.add(fewer)
                waiting.append(fewer)


@dataclass(frozen=True)
class _Reads:
    """Who reads what: positions in ``graph.layers`` and ``graph.tensors``.

    Args:
        makers: The layer that makes each tensor; -1 for the model's inputs.
        read: Tensors, as often as they are read,
        readers: and the layers that read them.
    """

    makers: Integers
    read: Integers
    readers: Integers


def _read(graph: LayerGraph) -> _Reads:
    layers = np.arange(len(graph.layers))
    positions = {tensor.name: position for position, tensor in enumerate(graph.tensors)}
    read = [positions[tensor.name] for layer in graph.layers for tensor in layer.inputs]
    made_by = np.repeat(layers, [len(layer.outputs) for layer in graph.layers])
    return _Reads(
        makers=np.concatenate([np.full(len(graph.inputs), -1), made_by]),
        read=np.array(read, np.int64),
        readers=np.repeat(layers, [len(layer.inputs) for layer in graph.layers]),
    )


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

    def of(self, placement: Integers, reads: _Reads) -> int:
        """What a placement costs; machines by layer."""
        made = np.append(placement, 0)[reads.makers]
        needed = made.copy()
        np.maximum.at(needed, reads.read, placement[reads.readers])
        tensors = np.arange(len(made))
        carrying = self.carried[needed, tensors] - self.carried[made, tensors]
        computing = self.layers[placement, np.arange(len(placement))]
        once = self.entries[np.unique(placement)].sum() + self.reaching[placement.max(initial=0)]
        return int(carrying.sum() + computing.sum() + once)


def _price(graph: LayerGraph, chain: Chain, cost: Cost) -> _Prices:
    """Work out what every choice costs.

    Raises:
        TargetError: The costs are too large to add up.
    """
    links, behind = chain.links, [cost.server_ms] * (len(chain.links) - 1)
    busy = cost.device_ms + cost.device_mj * chain.power.busy_watts
    weights = np.array([busy, *(cost.server_ms * link.load for link in links)])
    computing = weights[:, None] * np.array([tier.layers_ms for tier in chain.tiers])

    sizes = [tensor.nbytes for tensor in graph.tensors]
    uplinks = [link.uplink_mbps for link in links]
    up = _transfers([cost.upload_ms, *behind], sizes, uplinks)
    up[0] += cost.upload_nbytes * np.array(sizes)
    downlinks = [link.downlink_mbps for link in links]
    down = _transfers([cost.download_ms, *behind], _returned_nbytes(graph), downlinks)

    round_trips = cost.round_trip_ms * np.array([link.round_trip_ms for link in links])
    round_trips[0] += cost.asking
    parts = (
        computing + _up_to_each_machine(down),
        _up_to_each_machine(up),
        weights * [tier.entry_ms for tier in chain.tiers],
        _up_to_each_machine(round_trips),
    )
    _check_total(float(parts[0].sum() + up.sum() + parts[2].sum() + round_trips.sum()))
    return _Prices(*(np.rint(part * _UNITS_PER_MILLI).astype(np.int64) for part in parts))


def _transfers(weights: Sequence[float], sizes: Sequence[int], mbps: Sequence[float]) -> _Floats:
    """What carrying so many bytes costs on each link; links x sizes."""
    links = zip(weights, mbps, strict=True)
    return np.array(
        [[weight * transfer_ms(size, rate) for size in sizes] for weight, rate in links]
    )


def _returned_nbytes(graph: LayerGraph) -> list[int]:
    """How many bytes of the model's outputs each layer makes."""
    outputs = {tensor.name for tensor in graph.outputs}
    return [
        sum(tensor.nbytes for tensor in layer.outputs if tensor.name in outputs)
        for layer in graph.layers
    ]


def _up_to_each_machine(links: _Floats) -> _Floats:
    """Sums over the links between the device and each machine."""
    return np.concatenate([np.zeros_like(links[:1]), links.cumsum(axis=0)])


def _check_total(total: float) -> None:
    if not total <= _LARGEST_TOTAL:
        raise TargetError(
            f"layers and transfers cost {total:.3g} ms or mJ together, expected at most "
            f"{_LARGEST_TOTAL:.3g}; check the links' rates and the layers' costs"
        )


def _place(prices: _Prices, reads: _Reads, machines: Sequence[int]) -> Integers:
    """The best of the placements on some machines, if computing on these at all is free.

    Choices are the layers, then the tensors that several layers read, for each machine but the
    first whether they are there or further on.
    """
    computing = np.diff(prices.layers[machines], axis=0).T
    carrying = np.diff(prices.carried[machines], axis=0).T
    layers, steps = computing.shape
    shared = np.bincount(reads.read, minlength=len(reads.makers)) > 1
    width = layers + np.count_nonzero(shared)
    # What one layer reads is needed where that is; what none reads, where it is made.
    needed = reads.makers.copy()
    needed[reads.read] = reads.readers
    needed[shared] = np.arange(layers, width)

    weights = np.zeros((width + 1, steps), np.int64)  # what belongs to inputs' makers goes last
    weights[:layers] = computing
    np.add.at(weights, needed, carrying)
    np.subtract.at(weights, reads.makers, carrying)

    made, several = reads.makers[reads.read] >= 0, shared[reads.read]
    causes = np.concatenate([reads.makers[reads.read][made], reads.readers[several]])
    effects = np.concatenate([reads.readers[made], needed[reads.read[several]]])
    choices = np.arange(width * steps, dtype=np.int64).reshape(width, steps)
    chosen = find_closure(
        weights[:width].ravel(),
        np.concatenate([choices[causes].ravel(), choices[:layers, 1:].ravel()]),
        np.concatenate([choices[effects].ravel(), choices[:layers, :-1].ravel()]),
    )
    further = chosen.reshape(width, steps)[:layers].sum(axis=1)
    return np.array(machines, np.int64)[further]
