"""What Neurosurgeon was evaluated on: its applications, between its devices and its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
from applications import APPLICATIONS, Application

from partc import lower
from partc.cost import Cost
from partc.graph import LayerGraph
from partc.passes.annotate import annotate, entry_charges
from partc.passes.baselines import PLANNERS, Problem
from partc.passes.encode import take_images
from partc.plan import Conditions, Cut, DevicePower, Plan, make_plan
from partc.targets.link import Link, device_power, load_link
from partc.targets.predictor import predictor_for
from partc.targets.target import Target, load_target

LINKS = ("wifi", "lte", "3g")
MEASURED_ON = "IMC"
_INPUT = "input"  # as networks made of `torch.nn.Sequential` call it


@dataclass(frozen=True)
class Machines:
    """Devices and the server that they ask.

    Args:
        title: What their times are from.
        devices: All behind the same links.
    """

    title: str
    devices: tuple[Target, ...]
    server: Target


@dataclass(frozen=True)
class Case:
    """An application between a device and a server.

    Args:
        graph: The application's layers, with their costs.
    """

    application: Application
    graph: LayerGraph
    device: Target
    server: Target
    link: Link

    @property
    def conditions(self) -> Conditions:
        return self.link.conditions

    @property
    def power(self) -> DevicePower:
        return device_power(self.device, self.link)

    def choose(self, planner: str, cost: Cost, conditions: Conditions | None = None) -> Plan | None:
        """What a planner of :data:`PLANNERS` chooses; None if that cannot be run."""
        entry = entry_charges(self.device, self.server)
        problem = Problem(self.graph, cost, conditions or self.conditions, entry)
        cut = PLANNERS[planner](problem)
        return None if cut is None else self.plan(cut)

    def best(self, cost: Cost, conditions: Conditions | None = None) -> Plan:
        chosen = self.choose("partc", cost, conditions)
        assert chosen is not None
        return chosen

    def plan(self, cut: Cut) -> Plan:
        return make_plan(self.graph, cut, entry_charges(self.device, self.server))

    @property
    def device_only(self) -> Plan:
        return self.plan(Cut.device_only())

    @property
    def cloud_only(self) -> Plan:
        return self.plan(Cut.server_only(self.graph))


def lower_application(application: Application) -> LayerGraph:
    """The layers of an application, without what they could be compiled from.

    The weights of all applications together would take gigabytes. What the paper's client sends as
    an image comes as one, and is normalised in a layer.
    """
    model, example = application.build()
    images = {} if application.image_nbytes is None else {_INPUT: "imagenet"}
    graph = lower(model, examples=example, preprocess=images)
    return graph.with_layers(replace(layer, payload=None) for layer in graph.layers)


def make_cases(graphs: Mapping[str, LayerGraph], machines: Machines) -> list[Case]:
    """Every application on every device behind every link."""
    links = [load_link(name) for name in LINKS]
    return [
        Case(application, annotated, device, machines.server, link)
        for device in machines.devices
        for application in APPLICATIONS
        for annotated in [_annotate(application, graphs, device, machines.server)]
        for link in links
    ]


def _annotate(
    application: Application, graphs: Mapping[str, LayerGraph], device: Target, server: Target
) -> LayerGraph:
    predictors = predictor_for(device), predictor_for(server)
    shares = device.cold_share, server.cold_share
    graph = annotate(graphs[application.name], *predictors, device.busy_watts, *shares)
    nbytes = application.image_nbytes
    return graph if nbytes is None else take_images(graph, {_INPUT: nbytes}, device, server)


# Machines ----------------------------------------------------------------------------------------


def data_sheets() -> Machines:
    """The paper's, as fast as a roofline over their data sheets says."""
    devices = tk1_cpu(), load_target("jetson-tk1")
    return Machines("rooflines over data sheets", devices, load_target("tesla-k40"))


def tk1_cpu() -> Target:
    """The processor beside the GPU of a Jetson TK1.

    Four Cortex-A15 at 2.3 GHz, each with a multiply-add of four lanes a cycle, and the board's
    memory. Watts are the board's, at most; what else is assumed is what the Raspberry Pi 4's is.
    """
    gpu, other = load_target("jetson-tk1"), load_target("raspberry-pi-4")
    return msgspec.structs.replace(
        gpu,
        name="jetson-tk1-cpu",
        description="NVIDIA Jetson TK1, 4 CPU cores",
        threads=4,
        peak_gflops=4 * 2.3 * 8,
        launch_overhead_us=other.launch_overhead_us,
        achieved_fraction=other.achieved_fraction,
    )


_ALEXNET_MS = {"jetson-tk1-cpu": 382.0, "jetson-tk1": 81.0, "tesla-k40": 6.0}
"""What the paper measured, in figure 3; recalled, not re-read.

It agrees with what summaries quote of the paper: over 3G, sending the image (870 ms) takes 2.3
times as long as computing on the CPU, and over Wi-Fi (95 ms) the server has 6 % of the time.
"""


def as_slow_as_measured(graphs: Mapping[str, LayerGraph]) -> Machines:
    """The same, each slowed down by what AlexNet took longer in the paper than by its roofline."""
    given = data_sheets()

    def slowed(target: Target) -> Target:
        layers = predictor_for(target).predict(graphs[MEASURED_ON].layers)
        alexnet_ms = sum(each.latency_ms for each in layers if each)
        return _slower(target, _ALEXNET_MS[target.name] / alexnet_ms)

    devices, server = tuple(map(slowed, given.devices)), slowed(given.server)
    times = ", ".join(
        f"{_ALEXNET_MS[each.name]:g} ms on {each.name}" for each in (*devices, server)
    )
    return Machines(f"rooflines scaled to the paper's times of AlexNet: {times}", devices, server)


def _slower(target: Target, times: float) -> Target:
    return msgspec.structs.replace(
        target,
        achieved_fraction=target.achieved_fraction / times,
        memory_bandwidth_gb_s=target.memory_bandwidth_gb_s / times,
        launch_overhead_us=target.launch_overhead_us * times,
    )


def measured(device: str, server: str) -> Machines:
    """What two files describe, with the profiles that they name."""
    targets = load_target(device), load_target(server)
    title = "measured: " + " and ".join(target.name for target in targets)
    return Machines(title, targets[:1], targets[1])


def by_device(cases: Sequence[Case]) -> dict[str, list[Case]]:
    names = dict.fromkeys(case.device.name for case in cases)
    return {name: [case for case in cases if case.device.name == name] for name in names}
