"""A placement that goes to and fro between the machines: as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.text import Text

from partc.graph import Layer, LayerGraph
from partc.passes.switches import Placement
from partc.plan import Objective, Side
from partc.quantities import format_mj, format_ms
from partc.report.json import indented
from partc.report.terminal import make_table, thousands


@dataclass(frozen=True)
class Switching:
    """A placement, and the best cut beside it.

    Args:
        graph: Annotated.
        objective: What is minimised.
        machines: The names of the device and the server.
        link: The link's name.
        placement: Where every layer is.
        cost: What the placement costs, in ms or mJ.
        bound: What any placement with so many switches costs at least.
        cut_cost: What the best plan with one switch costs; None if none keeps layers where they
            have to be.
        unit: Of the costs.
    """

    graph: LayerGraph
    objective: Objective
    machines: tuple[str, str]
    link: str
    placement: Placement
    cost: float
    bound: float
    cut_cost: float | None
    unit: str

    @property
    def gap(self) -> float:
        """How much less another placement may cost, relative to this one; 0 if none does."""
        return max(0.0, 1 - self.bound / self.cost) if self.cost else 0.0

    @property
    def returns(self) -> bool:
        """Whether a layer on the device reads what the server made, which no plan has."""
        return any(
            self.placement.phases[reader.name] % 2 == 0
            for tensor in self.placement.download
            for reader in self.graph.consumers[tensor.name]
        )

    def machine(self, phase: int) -> str:
        """The name of the machine of a phase."""
        return self.machines[phase % 2]

    def layers(self, phase: int) -> Sequence[Layer]:
        """The layers of a phase."""
        return [each for each in self.graph.layers if self.placement.phases[each.name] == phase]


class PhaseRow(msgspec.Struct, frozen=True):
    """A phase in the JSON form."""

    machine: str
    side: Side
    layers: tuple[str, ...]
    compute_ms: float


class SwitchingReport(msgspec.Struct, frozen=True):
    """What ``partc plan --switches --json`` prints; costs are in ms or mJ, by the objective."""

    objective: Objective
    link: str
    cost: float
    bound: float
    one_switch_cost: float | None
    upload: tuple[str, ...]
    download: tuple[str, ...]
    phases: tuple[PhaseRow, ...]


def switching_json(found: Switching) -> str:
    """The output of ``partc plan --switches --json``."""
    report = SwitchingReport(
        objective=found.objective,
        link=found.link,
        cost=found.cost,
        bound=found.bound,
        one_switch_cost=found.cut_cost,
        upload=tuple(tensor.name for tensor in found.placement.upload),
        download=tuple(tensor.name for tensor in found.placement.download),
        phases=tuple(
            PhaseRow(
                machine=found.machine(phase),
                side=Side.SERVER if phase % 2 else Side.DEVICE,
                layers=tuple(layer.name for layer in found.layers(phase)),
                compute_ms=_compute_ms(found, phase),
            )
            for phase in found.placement.used
        ),
    )
    return indented(report)


def print_switching(found: Switching, console: Console) -> None:
    """Print what runs where, one phase after the other, and what that is worth."""
    headline, *lines = describe(found)
    console.print(Text(headline, style="bold"))
    for line in lines:
        console.print(Text(line))
    console.print()
    table = make_table(None, "machine", ">layers", ">compute ms", "first", "last")
    for phase in found.placement.used:
        layers = found.layers(phase)
        names = (Text(layers[0].name), Text(layers[-1].name))
        row = (found.machine(phase), str(len(layers)), f"{_compute_ms(found, phase):,.3f}")
        table.add_row(*row, *names)
    console.print(table)
    sent = {"upload": found.placement.upload, "download": found.placement.download}
    if any(sent.values()):
        travels = make_table("tensors that travel", "way", "tensor", "type", ">kB")
        for way, tensors in sent.items():
            for tensor in tensors:
                row = (way, Text(tensor.name), Text(str(tensor.type)), thousands(tensor.nbytes))
                travels.add_row(*row)
        console.print()
        console.print(travels)


def describe(found: Switching) -> Iterator[str]:
    """What was chosen, what that is worth and what becomes of it, a sentence a line."""
    form = format_mj if found.unit == "mJ" else format_ms
    way = " -> ".join(_describe_phase(found, phase) for phase in found.placement.used)
    yield f"{found.graph.name}: {way}; {form(found.cost)}"
    yield f"least {found.objective.value} over {found.link}: {_describe_gain(found, form)}"
    if found.gap:
        yield f"not proven to be the best: {found.gap:.1%} less may be possible"
    if found.returns:
        yield (
            "shown only, neither compiled nor run: in a bundle no layer on the device reads what "
            "the server made"
        )


def _describe_phase(found: Switching, phase: int) -> str:
    count = len(found.layers(phase))
    return f"{count} {'layer' if count == 1 else 'layers'} on {found.machine(phase)}"


def _describe_gain(found: Switching, form: Callable[[float], str]) -> str:
    if found.cut_cost is None:
        return "no plan that goes to the server once has all layers where they have to be"
    better = 1 - found.cost / found.cut_cost if found.cut_cost else 0.0
    gain = f"{better:.1%} less than" if better > 5e-4 else "no less than"
    return f"{gain} the best plan that goes to the server once, {form(found.cut_cost)}"


def _compute_ms(found: Switching, phase: int) -> float:
    costs = [layer.annotated_cost for layer in found.layers(phase)]
    return float(sum(cost.server_ms if phase % 2 else cost.device_ms for cost in costs))
