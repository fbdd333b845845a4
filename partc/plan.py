"""What the planner decides: cuts, plans, segments and the table of plans of a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import TypeAlias

from partc.errors import GraphError
from partc.graph import Encoding, Layer, LayerGraph, Tensor


class Side(str, Enum):
    """Where a layer runs."""

    DEVICE = "device"
    SERVER = "server"


class Objective(str, Enum):
    """What a plan is chosen for."""

    LATENCY = "latency"
    ENERGY = "energy"
    WEIGHTED = "weighted"
    THROUGHPUT = "throughput"


@dataclass(frozen=True)
class Cut:
    """What is decided of a graph.

    Args:
        server_layers: The layers that run on the server; all others run on the device.
        encodings: Tensors that are sent otherwise than as they are given, in the graph's order,
            each with the name of its encoding.
    """

    server_layers: frozenset[str]
    encodings: tuple[tuple[str, str], ...] = ()

    def side(self, layer: Layer) -> Side:
        return Side.SERVER if layer.name in self.server_layers else Side.DEVICE

    @staticmethod
    def device_only() -> Cut:
        return Cut(frozenset())

    @staticmethod
    def server_only(graph: LayerGraph) -> Cut:
        return Cut(frozenset(layer.name for layer in graph.layers))


@dataclass(frozen=True)
class Conditions:
    """What the network is like while a plan runs.

    Rates in Mbit/s, the round trip in ms; ``load`` multiplies the server's time.
    """

    uplink_mbps: float
    downlink_mbps: float
    round_trip_ms: float
    load: float = 1.0

    def __post_init__(self) -> None:
        rates = (self.uplink_mbps, self.downlink_mbps)
        others = (self.round_trip_ms, self.load)
        if not all(map(math.isfinite, rates + others)) or min(rates) <= 0 or min(others) < 0:
            raise GraphError(f"rates must be above zero, round trip and load not below: {self}")


CONDITION_NAMES = tuple(field.name for field in fields(Conditions))
_RATES = 2
"""How many of the conditions, the first ones, are rates."""

Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class ConditionRange:
    """From what to what each of the conditions may be; both ends are the same if it is known.

    Args:
        uplink_mbps: Rate to the server.
        downlink_mbps: Rate back.
        round_trip_ms: Of an empty message.
        load: How many times longer the server takes than alone.

    Raises:
        GraphError: An end is not finite, the lower is above the upper, or a rate is not positive.
    """

    uplink_mbps: Interval
    downlink_mbps: Interval
    round_trip_ms: Interval
    load: Interval = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name, (low, high) in zip(CONDITION_NAMES, self.intervals, strict=True):
            least = math.ulp(0.0) if name.endswith("mbps") else 0.0
            if not (least <= low <= high < math.inf):
                raise GraphError(f"{name} goes from less to more, not from {low:g} to {high:g}")

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Of every condition, in the order of :class:`Conditions`."""
        return self.uplink_mbps, self.downlink_mbps, self.round_trip_ms, self.load

    @cached_property
    def varying(self) -> tuple[int, ...]:
        """Positions of the conditions that are not known."""
        return tuple(n for n, (low, high) in enumerate(self.intervals) if low < high)

    def at(self, point: Iterable[float]) -> Conditions:
        """The conditions at a point of the unit cube, whose axes are those that vary.

        Rates lie by their reciprocals, from the highest rate to the lowest.
        """
        places = dict(zip(self.varying, point, strict=True))
        values: list[float] = []
        for axis, (low, high) in enumerate(self.intervals):
            if axis not in places:
                values.append(low)
            elif axis < _RATES:
                values.append(1 / ((1 - places[axis]) / high + places[axis] / low))
            else:
                values.append((1 - places[axis]) * low + places[axis] * high)
        return Conditions(*values)


@dataclass(frozen=True)
class DevicePower:
    """What the device draws.

    Args:
        busy_watts: While it computes.
        idle_watts: While it waits.
        upload_watts: Of its radio while it sends, on top of idling.
        download_watts: Of its radio while it receives, on top of idling.
        tail_mj: Of its radio after a request that used it, on top of idling.
        source: Where the watts of computing and waiting are from.
    """

    busy_watts: float
    idle_watts: float
    upload_watts: float
    download_watts: float
    tail_mj: float = 0.0
    source: str = "no source given"


@dataclass(frozen=True)
class EntryCharges:
    """What a side pays once if it computes anything, whatever it computes.

    Args:
        device_ms: Time on the device.
        server_ms: Time on the server, unloaded.
        device_mj: Energy that the device draws meanwhile.
    """

    device_ms: float = 0.0
    server_ms: float = 0.0
    device_mj: float = 0.0

    def __post_init__(self) -> None:
        charges = (self.device_ms, self.server_ms, self.device_mj)
        if not all(math.isfinite(charge) and charge >= 0 for charge in charges):
            raise GraphError(f"a charge must be finite and not negative: {self}")


FREE_ENTRY = EntryCharges()


@dataclass(frozen=True)
class Plan:
    """A cut with the tensors that cross it and the coefficients of its cost.

    Args:
        device_layers: In the graph's order.
        server_layers: In the graph's order.
        upload: Tensors that the device sends; in the graph's order, no tensor twice.
        encodings: How each of these is sent.
        download: Outputs of the model that the server makes and sends back.
        device_ms: Time of the device's layers, if it has any of entering them, and of encoding.
        server_ms: The same of the server, unloaded, which decodes.
        device_mj: Energy that the device draws during ``device_ms``.
    """

    device_layers: tuple[str, ...]
    server_layers: tuple[str, ...]
    upload: tuple[Tensor, ...]
    encodings: tuple[Encoding, ...]
    download: tuple[Tensor, ...]
    device_ms: float
    server_ms: float
    device_mj: float

    @property
    def upload_nbytes(self) -> int:
        return sum(encoding.nbytes for encoding in self.encodings)

    @property
    def deviation(self) -> float:
        """By how much outputs differ at most: what single encodings do to them adds up at most."""
        return sum(encoding.deviation for encoding in self.encodings)

    @property
    def download_nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.download)

    @property
    def cut(self) -> Cut:
        sent = zip(self.upload, self.encodings, strict=True)
        return Cut(
            frozenset(self.server_layers),
            tuple((tensor.name, how.name) for tensor, how in sent if not how.as_given),
        )

    def upload_ms(self, conditions: Conditions) -> float:
        return transfer_ms(self.upload_nbytes, conditions.uplink_mbps)

    def download_ms(self, conditions: Conditions) -> float:
        return transfer_ms(self.download_nbytes, conditions.downlink_mbps)

    def transfer_ms(self, conditions: Conditions) -> float:
        """What the link costs: both directions and, if the server is asked, a round trip."""
        round_trip_ms = conditions.round_trip_ms if self.server_layers else 0.0
        return self.upload_ms(conditions) + self.download_ms(conditions) + round_trip_ms

    def latency_ms(self, conditions: Conditions) -> float:
        server_ms = self.server_ms * conditions.load
        return self.device_ms + self.transfer_ms(conditions) + server_ms

    def energy_mj(self, conditions: Conditions, power: DevicePower) -> float:
        """Energy of the device: computing, the radio, and idling whenever it does not compute.

        The radio's tail is charged in full, as to a request that no other follows before its end.
        """
        waiting_ms = self.latency_ms(conditions) - self.device_ms
        radio_mj = (
            self.upload_ms(conditions) * power.upload_watts
            + self.download_ms(conditions) * power.download_watts
            + (power.tail_mj if self.server_layers else 0.0)
        )
        return self.device_mj + radio_mj + waiting_ms * power.idle_watts


def transfer_ms(nbytes: int, rate_mbps: float) -> float:
    """Time to send ``nbytes`` at ``rate_mbps`` megabits (10^6) per second."""
    return nbytes * 8 / (rate_mbps * 1e3)


def make_plan(graph: LayerGraph, cut: Cut, entry: EntryCharges = FREE_ENTRY) -> Plan:
    """Work out what crosses a cut and what it costs.

    Args:
        graph: An annotated graph.
        cut: Which of its layers run on the server.
        entry: What each side pays that has layers.

    Raises:
        GraphError: The cut names no layer of the graph, sends a tensor from the server back to a
            device layer, or the graph is not annotated.
    """
    check_cut(graph, cut)
    server = [layer for layer in graph.layers if cut.side(layer) is Side.SERVER]
    device = [layer for layer in graph.layers if cut.side(layer) is Side.DEVICE]
    made_on_server = {tensor.name for layer in server for tensor in layer.outputs}
    upload = crossing(graph, cut)
    encodings = _find_encodings(graph, cut, upload)
    device_ms = _add(entry.device_ms, (layer.annotated_cost.device_ms for layer in device))
    server_ms = _add(entry.server_ms, (layer.annotated_cost.server_ms for layer in server))
    device_mj = _add(entry.device_mj, (layer.annotated_cost.device_mj for layer in device))
    return Plan(
        device_layers=tuple(layer.name for layer in device),
        server_layers=tuple(layer.name for layer in server),
        upload=upload,
        encodings=encodings,
        download=_unique(tensor for tensor in graph.outputs if tensor.name in made_on_server),
        device_ms=device_ms + sum(each.encode_ms for each in encodings),
        server_ms=server_ms + sum(each.decode_ms for each in encodings),
        device_mj=device_mj + sum(each.encode_mj for each in encodings),
    )


def crossing(graph: LayerGraph, cut: Cut) -> tuple[Tensor, ...]:
    """The tensors that the device sends."""
    server = [layer for layer in graph.layers if cut.side(layer) is Side.SERVER]
    read = {tensor.name for layer in server for tensor in layer.inputs}
    read.difference_update(tensor.name for layer in server for tensor in layer.outputs)
    return tuple(tensor for tensor in graph.tensors if tensor.name in read)


def _find_encodings(graph: LayerGraph, cut: Cut, upload: Iterable[Tensor]) -> tuple[Encoding, ...]:
    """How a cut sends each tensor.

    Raises:
        GraphError: The cut names a tensor that does not cross, or an unknown encoding.
    """
    wanted = dict(cut.encodings)
    found: list[Encoding] = []
    for tensor in upload:
        known = {encoding.name: encoding for encoding in graph.encodings_of(tensor)}
        name = wanted.pop(tensor.name, next(iter(known)))
        if name not in known:
            raise GraphError(
                f"%{tensor.name} cannot be sent as {name!r}, but as {', '.join(known)}"
            )
        found.append(known[name])
    if wanted:
        raise GraphError(f"the cut encodes tensors that do not cross: {', '.join(wanted)}")
    return tuple(found)


def _add(entry: float, costs: Iterable[float]) -> float:
    """The cost of layers and of entering them, or nothing if there are none."""
    known = list(costs)
    return sum(known, entry) if known else 0.0


def check_cut(graph: LayerGraph, cut: Cut) -> None:
    """Refuse a cut in which a device layer reads what the server made.

    Raises:
        GraphError: Names the two layers.
    """
    unknown = cut.server_layers - graph.by_name.keys()
    if unknown:
        raise GraphError(f"the cut names layers that {graph.name!r} lacks: {sorted(unknown)}")
    for layer in graph.layers:
        if cut.side(layer) is Side.SERVER:
            continue
        for tensor in layer.inputs:
            producer = graph.producers.get(tensor.name)
            if producer is not None and cut.side(producer) is Side.SERVER:
                raise GraphError(
                    f"layer {layer.name!r} on the device reads %{tensor.name}, "
                    f"which layer {producer.name!r} makes on the server"
                )


def _unique(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(dict.fromkeys(tensors))


@dataclass(frozen=True)
class Segment:
    """Layers that lie on the same side in every plan of a bundle; compiled as one function.

    Args:
        name: ``segment_0``, ``segment_1``, … in topological order.
        layers: In the graph's order.
        inputs: Tensors from outside the segment, in the graph's order.
        outputs: Tensors that something outside reads or the model returns.
    """

    name: str
    layers: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class NamedPlan:
    """A plan of a table, under the name that a user asks for it by.

    Args:
        name: ``server-only``, ``device-only`` or ``cut-1``, ``cut-2``, …
        device_segments: Names, in an order in which they can run.
        server_segments: Names, in an order in which they can run.
    """

    name: str
    plan: Plan
    device_segments: tuple[str, ...]
    server_segments: tuple[str, ...]


@dataclass(frozen=True)
class PlanTable:
    """The plans of a bundle over the segments they share.

    ``plans[0]`` is ``server-only`` and ``plans[1]`` ``device-only``; a plan's position is its
    version on the server.
    """

    segments: tuple[Segment, ...]
    plans: tuple[NamedPlan, ...]

    def __post_init__(self) -> None:
        names = [named.name for named in self.plans]
        if names[:2] != ["server-only", "device-only"] or len(set(names)) < len(names):
            raise GraphError(f"a plan table starts with server-only, device-only: {names}")

    def find(self, cut: Cut) -> NamedPlan:
        """The plan with this cut.

        Raises:
            GraphError: The table holds no such plan.
        """
        for named in self.plans:
            if named.plan.cut == cut:
                return named
        raise GraphError("the plan table has no plan with this cut")
