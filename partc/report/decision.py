"""What the planner decided, with everything that it rests on; every report is made from this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from partc.cost import Aim, aim_of
from partc.errors import GraphError
from partc.graph import PLAIN, Encoding, Layer, LayerGraph, Tensor
from partc.plan import Conditions, DevicePower, Objective, Plan, Side


@dataclass(frozen=True)
class PlanCost:
    """What a plan costs under given conditions, term by term.

    ``server_ms`` is the time on the loaded server, so that the terms add up to ``latency_ms``.
    """

    device_ms: float
    upload_ms: float
    server_ms: float
    download_ms: float
    round_trip_ms: float
    energy_mj: float

    @property
    def transfer_ms(self) -> float:
        return self.upload_ms + self.download_ms + self.round_trip_ms

    @property
    def latency_ms(self) -> float:
        return self.device_ms + self.transfer_ms + self.server_ms


LATENCY_TERMS: Mapping[str, Callable[[PlanCost], float]] = {
    "device": lambda cost: cost.device_ms,
    "upload": lambda cost: cost.upload_ms,
    "server": lambda cost: cost.server_ms,
    "download": lambda cost: cost.download_ms,
    "round trip": lambda cost: cost.round_trip_ms,
}
"""The terms of a latency in the order in which they pass, by the titles that reports give them."""


def plan_cost(plan: Plan, conditions: Conditions, power: DevicePower) -> PlanCost:
    """The terms of a plan's latency, and the energy that it takes from the device."""
    return PlanCost(
        device_ms=plan.device_ms,
        upload_ms=plan.upload_ms(conditions),
        server_ms=plan.server_ms * conditions.load,
        download_ms=plan.download_ms(conditions),
        round_trip_ms=conditions.round_trip_ms if plan.server_layers else 0.0,
        energy_mj=plan.energy_mj(conditions, power),
    )


@dataclass(frozen=True)
class Crossing:
    """A tensor that travels over the link, and the layers at its ends.

    Args:
        tensor: What travels.
        upload: From the device to the server, or back.
        encoding: How it is sent.
        made_by: Nothing for an input of the model.
        read_by: Layers on the other side; nothing for an output of the model.
    """

    tensor: Tensor
    upload: bool
    encoding: Encoding
    made_by: str | None
    read_by: tuple[str, ...]


@dataclass(frozen=True)
class Decision:
    """A plan, what it was chosen for, and the two plans that need no planner.

    Args:
        graph: Annotated.
        objective: What the plan is best at.
        target: The device's name.
        server: The server's name.
        link: The link's name.
        conditions: What the link and the server are expected to be like.
        power: What the device draws.
        plan: The chosen plan.
        device_only: The plan that leaves every layer on the device.
        server_only: The plan that sends the model's inputs away.
        server_busy: How many other requests the server is expected to compute at once.
        rate_hz: How many requests a second were asked for, if that was said.
        ms_per_mj: What a weighted objective takes a millijoule to be worth.
        gap: How much better than the chosen plan another one may be, relative to it, if the
            planner could not prove that none is.
        keeping: What it had to keep, as a user says it.
        breaking: Titles of those of the other plans that do not keep it.

    Raises:
        GraphError: A plan does not place the graph's layers, or one that is said to use one
            side only uses both.
    """

    graph: LayerGraph
    objective: Objective
    target: str
    server: str
    link: str
    conditions: Conditions
    power: DevicePower
    plan: Plan
    device_only: Plan
    server_only: Plan
    server_busy: float = 0.0
    rate_hz: float = 0.0
    ms_per_mj: float = 0.0
    gap: float = 0.0
    keeping: tuple[str, ...] = ()
    breaking: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = {layer.name for layer in self.graph.layers}
        for title, plan in self.plans.items():
            if {*plan.device_layers, *plan.server_layers} != names:
                raise GraphError(f"the {title} plan places other layers than {self.graph.name!r}")
        if self.device_only.server_layers or self.server_only.device_layers:
            raise GraphError("device-only must use no server and server-only no device")

    @property
    def plans(self) -> Mapping[str, Plan]:
        """The three plans that a report compares, by the titles it gives them."""
        return {
            "chosen": self.plan,
            "device only": self.device_only,
            "server only": self.server_only,
        }

    def cost(self, plan: Plan) -> PlanCost:
        return plan_cost(plan, self.conditions, self.power)

    @property
    def aim(self) -> Aim:
        """What the plan was chosen to minimise."""
        return aim_of(self.objective, self.power, self.ms_per_mj)

    def value(self, plan: Plan) -> float:
        """What the objective makes of a plan."""
        return self.aim.of(plan, self.conditions)

    @property
    def slowest_ms(self) -> float:
        """What the slowest of device, transfer and server takes, before a request can follow."""
        return aim_of(Objective.THROUGHPUT, self.power).of(self.plan, self.conditions)

    def machine(self, side: Side) -> str:
        """The name of the machine on a side."""
        return self.target if side is Side.DEVICE else self.server

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """What travels in the chosen plan: first what the device sends, then what it gets."""
        plan = self.plan
        return (
            *(
                self._crossing(*sent, True)
                for sent in zip(plan.upload, plan.encodings, strict=True)
            ),
            *(self._crossing(each, Encoding(PLAIN, each.nbytes), False) for each in plan.download),
        )

    @property
    def layers_at_the_cut(self) -> tuple[Layer, ...]:
        """The layers that make or read a tensor that travels, in the graph's order."""
        found = {
            name for crossing in self.crossings for name in (crossing.made_by, *crossing.read_by)
        }
        return tuple(layer for layer in self.graph.layers if layer.name in found)

    def _crossing(self, tensor: Tensor, encoding: Encoding, upload: bool) -> Crossing:
        maker = self.graph.producers.get(tensor.name)
        readers = (layer.name for layer in self.graph.consumers[tensor.name])
        remote = set(self.plan.server_layers)
        return Crossing(
            tensor=tensor,
            upload=upload,
            encoding=encoding,
            made_by=maker and maker.name,
            read_by=tuple(name for name in readers if upload and name in remote),
        )
