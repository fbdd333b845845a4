"""Placements that go to and fro between device and server, as an integer programme.

A cut goes to the server once. Networks that are narrow inside and wide at both ends, such as
autoencoders, and those that make much of little may be better off if layers behind the server's are
on the device again (JointDNN: Eshratifar, Abrishami and Pedram, IEEE TMC 2019). Layers are then
in phases, the even ones on the device and the odd ones on the server, and no edge leads to an
earlier phase.
"""
# OR-Tools declares its types only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from ortools.sat.python import cp_model

from partc.cost import Cost
from partc.errors import InfeasibleError, PartcError
from partc.graph import Layer, LayerGraph, Tensor
from partc.passes.price import Price, price
from partc.passes.programme import Linear, NoSolutionError, UndecidedError, solve, units_for
from partc.plan import FREE_ENTRY, Conditions, EntryCharges, Side, transfer_ms


@dataclass(frozen=True)
class Placement:
    """A phase for every layer: even ones are on the device, odd ones on the server.

    Args:
        phases: By layer name.
        upload: Tensors that the device sends, each once.
        download: Tensors that the server sends, each once.
    """

    phases: Mapping[str, int]
    upload: tuple[Tensor, ...]
    download: tuple[Tensor, ...]

    def side(self, layer: Layer) -> Side:
        return Side.SERVER if self.phases[layer.name] % 2 else Side.DEVICE

    @property
    def used(self) -> tuple[int, ...]:
        """The phases that have layers, in order."""
        return tuple(sorted(set(self.phases.values())))


@dataclass(frozen=True)
class SwitchingProblem:
    """What to place.

    Args:
        graph: An annotated graph.
        cost: What is minimised.
        conditions: What the link and the server are like.
        entry: What a side pays each time that it is given layers to compute.
    """

    graph: LayerGraph
    cost: Cost
    conditions: Conditions
    entry: EntryCharges = FREE_ENTRY

    @cached_property
    def _price(self) -> Price:
        """What every choice costs, but for what returns and for asking at all."""
        rest = replace(self.cost, download_ms=0.0, asking=0.0)
        return price(self.graph, rest, self.conditions, self.entry)

    @cached_property
    def layers(self) -> Mapping[str, tuple[float, float]]:
        """What each layer costs on the device, and on the server."""
        sides = zip(self._price.device.tolist(), self._price.server.tolist(), strict=True)
        return dict(zip(self.graph.by_name, sides, strict=True))

    @cached_property
    def uploads(self) -> Mapping[str, float]:
        """What sending each tensor costs."""
        names = (tensor.name for tensor in self.graph.tensors)
        return dict(zip(names, self._price.upload.tolist(), strict=True))

    def download(self, tensor: Tensor) -> float:
        """What sending a tensor back costs."""
        return self.cost.download_ms * transfer_ms(tensor.nbytes, self.conditions.downlink_mbps)

    def enter(self, phase: int) -> float:
        """What a phase costs that has layers: entering it and, on the server, a round trip."""
        return self._price.server_entry if phase % 2 else self._price.device_entry

    def total(self, placement: Placement) -> float:
        """What a placement costs."""
        layers = sum(self.layers[name][phase % 2] for name, phase in placement.phases.items())
        sent = sum(self.uploads[tensor.name] for tensor in placement.upload)
        returned = sum(map(self.download, placement.download))
        asking = self.cost.asking if any(phase % 2 for phase in placement.used) else 0.0
        return layers + sent + returned + sum(map(self.enter, placement.used)) + asking


def place(graph: LayerGraph, phases: Mapping[str, int]) -> Placement:
    """Work out what travels if layers are in given phases."""
    on_server = {layer.name: phases[layer.name] % 2 == 1 for layer in graph.layers}
    returned = {tensor.name for tensor in graph.outputs}
    upload: list[Tensor] = []
    download: list[Tensor] = []
    for tensor in graph.tensors:
        producer = graph.producers.get(tensor.name)
        readers = [on_server[reader.name] for reader in graph.consumers[tensor.name]]
        if producer is not None and on_server[producer.name]:
            if tensor.name in returned or not all(readers):
                download.append(tensor)
        elif any(readers):
            upload.append(tensor)
    return Placement(dict(phases), tuple(upload), tuple(download))


def find_placement(
    problem: SwitchingProblem, switches: int, pins: Mapping[str, Side] = {}
) -> tuple[Placement, float]:
    """The placement that costs least with at most so many switches between the sides.

    Args:
        problem: What to place.
        switches: How often a path through the graph may change sides, beginning on the device.
        pins: The side on which a layer must run, by layer name.

    Returns:
        The placement, and what any costs at least: the same, up to rounding of each choice to a
        nanosecond or a nanojoule, if the optimum was proven.

    Raises:
        InfeasibleError: No placement agrees with the pins.
        PartcError: The solver found none within its effort, although there may be one.
    """
    programme = _Programme(problem, switches)
    programme.pin(pins)
    return programme.solve()


class _Programme:
    """The integer programme: for every layer and phase, whether the layer is in it or later."""

    def __init__(self, problem: SwitchingProblem, switches: int) -> None:
        self._problem, self._graph = problem, problem.graph
        self._model = cp_model.CpModel()
        self._phases = range(1, switches + 1)
        self._later: dict[str, list[Linear]] = {}
        self._server: dict[str, Linear] = {}
        for layer in self._graph.layers:
            self._add_layer(layer)
        self._connect()

    def pin(self, pins: Mapping[str, Side]) -> None:
        for name, side in pins.items():
            self._model.add(self._server[name] == (side is Side.SERVER))

    def _add_layer(self, layer: Layer) -> None:
        later = [self._model.new_bool_var(f"{layer.name} {phase}") for phase in self._phases]
        for first, second in pairwise(later):
            self._model.add_implication(second, first)
        server = self._model.new_bool_var(layer.name)
        self._model.add(server == sum(each * (-1) ** n for n, each in enumerate(later)))
        self._later[layer.name], self._server[layer.name] = later, server

    def _connect(self) -> None:
        """No edge leads to an earlier phase."""
        for layer in self._graph.layers:
            for tensor in layer.inputs:
                producer = self._graph.producers.get(tensor.name)
                if producer is not None:
                    pairs = zip(self._later[producer.name], self._later[layer.name], strict=True)
                    for before, after in pairs:
                        self._model.add_implication(before, after)

    def _transfers(self) -> list[tuple[Linear, float]]:
        """For every tensor whether it is sent, and whether it is sent back, with the costs."""
        returned = {tensor.name for tensor in self._graph.outputs}
        found: list[tuple[Linear, float]] = []
        for tensor in self._graph.tensors:
            producer = self._graph.producers.get(tensor.name)
            maker = self._server[producer.name] if producer is not None else 0
            up, down = (self._model.new_bool_var(f"{way} {tensor.name}") for way in ("up", "down"))
            for reader in self._graph.consumers[tensor.name]:
                self._model.add(self._server[reader.name] - maker <= up)
                self._model.add(maker - self._server[reader.name] <= down)
            if tensor.name in returned:
                self._model.add(down >= maker)
            found.append((up, self._problem.uploads[tensor.name]))
            found.append((down, self._problem.download(tensor)))
        return found

    def _entries(self) -> list[tuple[Linear, float]]:
        """For every phase whether it has layers, and for the server whether it is asked."""
        asked = self._model.new_bool_var("asked")
        found = [(asked, self._problem.cost.asking)]
        for phase in (0, *self._phases):
            used = self._model.new_bool_var(f"phase {phase}")
            for later in self._later.values():
                reached = 1 if phase == 0 else later[phase - 1]
                left = later[phase] if phase < len(later) else 0
                self._model.add(reached - left <= used)
            if phase % 2:
                self._model.add_implication(used, asked)
            found.append((used, self._problem.enter(phase)))
        return found

    def solve(self) -> tuple[Placement, float]:
        """Solve the programme."""
        terms: list[tuple[Linear, float]] = [*self._transfers(), *self._entries()]
        for name, (on_device, on_server) in self._problem.layers.items():
            terms.append((self._server[name], on_server))
            terms.append((1 - self._server[name], on_device))
        units = units_for(sum(cost for _, cost in terms))
        self._model.minimize(sum(round(units * cost) * chosen for chosen, cost in terms))
        try:
            solver, proven = solve(self._model)
        except NoSolutionError as error:
            raise InfeasibleError(
                "no placement with so few switches agrees with the pins"
            ) from error
        except UndecidedError as error:
            raise PartcError(
                "whether a placement agrees with the pins could not be told within the solver's "
                "effort; give fewer --switches, fewer pins or a model with fewer layers"
            ) from error
        placement = place(self._graph, _merge(self._read(solver)))
        cost = self._problem.total(placement)
        return placement, cost if proven else solver.best_objective_bound / units

    def _read(self, solver: cp_model.CpSolver) -> dict[str, int]:
        def phase(later: Sequence[Linear]) -> int:
            return sum(solver.boolean_value(each) for each in later)

        return {name: phase(later) for name, later in self._later.items()}


def _merge(phases: Mapping[str, int]) -> dict[str, int]:
    """Phases of one side as one, where none of the other side's is between them."""
    merged: dict[int, int] = {}
    last: int | None = None
    for phase in sorted(set(phases.values())):
        last = last if last is not None and (phase - last) % 2 == 0 else phase
        merged[phase] = last
    return {name: merged[phase] for name, phase in phases.items()}
