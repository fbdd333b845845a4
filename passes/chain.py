"""A chain of machines, and plans that spread a model over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from partc.errors import GraphError
from partc.graph import LayerGraph, Tensor
from partc.plan import Conditions, DevicePower, transfer_ms


@dataclass(frozen=True)
class Tier:
    """A machine of a chain, and what a graph's layers take on it.

    Args:
        name: Of the machine.
        layers_ms: What each layer takes, in the graph's order.
        entry_ms: What a request takes besides, if any layer runs here.

    Raises:
        GraphError: A time is negative or not finite.
    """

    name: str
    layers_ms: tuple[float, ...]
    entry_ms: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(ms) and ms >= 0 for ms in (*self.layers_ms, self.entry_ms)):
            raise GraphError(f"times on {self.name} must be finite and not negative")


@dataclass(frozen=True)
class Chain:
    """Machines in a row, each with a link to the next.

    Args:
        tiers: The first is the device, where inputs are and outputs are wanted.
        links: What lies behind each machine but the last, and the load of the machine behind that.
        power: What the device draws, its radio being that of the first link.

    Raises:
        GraphError: There are fewer than two machines, or not one link between each two, or the
            machines do not know the same number of layers.
    """

    tiers: tuple[Tier, ...]
    links: tuple[Conditions, ...]
    power: DevicePower

    def __post_init__(self) -> None:
        counts = {len(tier.layers_ms) for tier in self.tiers}
        if len(self.tiers) < 2 or len(self.links) != len(self.tiers) - 1 or len(counts) > 1:
            raise GraphError(
                "a chain has two machines or more that know the same layers, and a link between "
                f"each two, not {len(self.tiers)} machines, {len(self.links)} links and times for "
                f"{', '.join(map(str, sorted(counts))) or 'no'} layers"
            )

    @property
    def loads(self) -> tuple[float, ...]:
        """How many times longer each machine takes than alone; the device serves nobody else."""
        return (1.0, *(link.load for link in self.links))


@dataclass(frozen=True)
class TierPlan:
    """Which machine of a chain runs which layers, and what its links carry.

    Args:
        chain: The machines and links.
        layers: Of each machine, in the graph's order.
        layers_ms: What they take together on each machine, unloaded.
        up: Tensors that each link carries away from the device, in the graph's order.
        down: Outputs of the model that each link carries back.
    """

    chain: Chain
    layers: tuple[tuple[str, ...], ...]
    layers_ms: tuple[float, ...]
    up: tuple[tuple[Tensor, ...], ...]
    down: tuple[tuple[Tensor, ...], ...]

    @property
    def last(self) -> int:
        """The machine that is furthest from the device of those that have layers."""
        return max((tier for tier, layers in enumerate(self.layers) if layers), default=0)

    @property
    def compute_ms(self) -> tuple[float, ...]:
        """Time on each machine, as loaded as it is, with what entering it takes."""
        chain = self.chain
        parts = zip(chain.tiers, chain.loads, self.layers, self.layers_ms, strict=True)
        return tuple(
            (tier.entry_ms + layers_ms) * load if layers else 0.0
            for tier, load, layers, layers_ms in parts
        )

    @property
    def up_nbytes(self) -> tuple[int, ...]:
        return tuple(map(_nbytes, self.up))

    @property
    def down_nbytes(self) -> tuple[int, ...]:
        return tuple(map(_nbytes, self.down))

    @property
    def up_ms(self) -> tuple[float, ...]:
        rates = (link.uplink_mbps for link in self.chain.links)
        return tuple(map(transfer_ms, self.up_nbytes, rates))

    @property
    def down_ms(self) -> tuple[float, ...]:
        rates = (link.downlink_mbps for link in self.chain.links)
        return tuple(map(transfer_ms, self.down_nbytes, rates))

    @property
    def round_trips_ms(self) -> tuple[float, ...]:
        """Of each link, up to the last machine that has layers."""
        links = enumerate(self.chain.links)
        return tuple(link.round_trip_ms if index < self.last else 0.0 for index, link in links)

    @property
    def transfers_ms(self) -> tuple[float, ...]:
        """What each link costs: both directions and its round trip."""
        parts = zip(self.up_ms, self.down_ms, self.round_trips_ms, strict=True)
        return tuple(map(sum, parts))

    @property
    def latency_ms(self) -> float:
        return sum(self.compute_ms) + sum(self.transfers_ms)

    @property
    def energy_mj(self) -> float:
        """Energy of the device: computing, its radio, and idling whenever it does not compute.

        The radio's tail is charged in full, as to a request that no other follows before its end.
        """
        power, device_ms = self.chain.power, self.compute_ms[0]
        radio_mj = (
            self.up_ms[0] * power.upload_watts
            + self.down_ms[0] * power.download_watts
            + (power.tail_mj if self.last else 0.0)
        )
        idle_mj = (self.latency_ms - device_ms) * power.idle_watts
        return device_ms * power.busy_watts + radio_mj + idle_mj


def make_tier_plan(graph: LayerGraph, chain: Chain, placement: Sequence[int]) -> TierPlan:
    """Work out what a placement runs where and sends over which link.

    Args:
        graph: Layers; what they cost is in the chain.
        chain: The machines and links.
        placement: The machine of each layer, counted from the device, in the graph's order.

    Raises:
        GraphError: A layer would read what a machine further from the device made.
    """
    tiers = dict(zip((layer.name for layer in graph.layers), placement, strict=True))
    made, needed = _journeys(graph, tiers)
    places, hops = range(len(chain.tiers)), range(len(chain.links))
    returned = dict.fromkeys(graph.outputs)
    return TierPlan(
        chain=chain,
        layers=tuple(
            tuple(name for name, tier in tiers.items() if tier == place) for place in places
        ),
        layers_ms=tuple(
            sum(ms for ms, tier in zip(machine.layers_ms, placement, strict=True) if tier == place)
            for place, machine in enumerate(chain.tiers)
        ),
        up=tuple(
            tuple(each for each in graph.tensors if made[each.name] <= hop < needed[each.name])
            for hop in hops
        ),
        down=tuple(tuple(each for each in returned if hop < made[each.name]) for hop in hops),
    )


def _journeys(
    graph: LayerGraph, tiers: Mapping[str, int]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Where each tensor is made, and how far from the device it is read."""
    made = dict.fromkeys((tensor.name for tensor in graph.inputs), 0)
    needed: dict[str, int] = {}
    for layer in graph.layers:
        tier = tiers[layer.name]
        for tensor in layer.inputs:
            if made[tensor.name] > tier:
                raise GraphError(
                    f"layer {layer.name!r} on machine {tier} reads %{tensor.name}, which is made "
                    f"further from the device, on machine {made[tensor.name]}"
                )
            needed[tensor.name] = max(needed.get(tensor.name, 0), tier)
        made.update((tensor.name, tier) for tensor in layer.outputs)
    return made, {name: needed.get(name, 0) for name in made}


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
