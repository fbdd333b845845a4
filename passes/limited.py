"""The best cut within limits, as an integer programme; and which limits clash if there is none.

A minimum cut cannot be told to stay below a budget, nor to minimise the largest of several sums;
both are NP-hard (JointDNN: Eshratifar, Abrishami and Pedram, "JointDNN: An Efficient Training and
Inference Engine for Intelligent Mobile Cloud Computing Services", IEEE TMC 2019). The programme has
a variable for the side of every layer, the arcs of the cut graph as implications between them, and
one for every encoding of every tensor that may cross.
"""

# OR-Tools declares its types only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress

import numpy as np
from ortools.sat.python import cp_model

from partc.errors import InfeasibleError
from partc.graph import LayerGraph, Tensor
from partc.passes.cut import find_cut
from partc.passes.memory import always_held_nbytes, device_nbytes, lifetimes
from partc.passes.pins import check_pins
from partc.passes.price import Price
from partc.passes.programme import LARGEST_TOTAL, Linear, NoSolutionError, solve, units_for
from partc.plan import Cut, Side
from partc.quantities import format_nbytes


@dataclass(frozen=True)
class Limit:
    """What a cost must not exceed.

    Args:
        name: What a user knows it by, such as ``--deadline 20 ms``.
        price: The cost.
        most: In the price's unit.
        unit: Of the price, as in ``ms``, ``bytes`` or, millionths, ``ppm``.
    """

    name: str
    price: Price
    most: float
    unit: str


@dataclass(frozen=True)
class Limits:
    """Everything that a cut has to keep.

    Args:
        costs: Costs that are limited.
        pins: The side on which a layer must run, by layer name.
        device_nbytes: What weights and activations may take on the device.
        must_split: Whether both sides have to have layers; if not, whether only one may have;
            None for either.
    """

    costs: tuple[Limit, ...] = ()
    pins: Mapping[str, Side] = field(default_factory=dict[str, Side])
    device_nbytes: int | None = None
    must_split: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What a user knows them by; pins are one."""
        memory = self.device_nbytes
        return (
            *(limit.name for limit in self.costs),
            *(() if memory is None else (f"--device-memory {format_nbytes(memory)}",)),
            *({None: (), True: ("--must-split",), False: ("--no-split",)}[self.must_split]),
            *(("the pins",) if self.pins else ()),
        )


@dataclass(frozen=True)
class Optimum:
    """A cut, and how far from the best it may be.

    Args:
        cut: Which layers run on the server.
        cost: What it costs.
        bound: What any cut costs at least.
    """

    cut: Cut
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        """How much better another cut could be, relative to this one; 0 if none is."""
        return max(0.0, 1 - self.bound / self.cost) if self.cost else 0.0


def find_limited_cut(graph: LayerGraph, prices: Sequence[Price], limits: Limits) -> Optimum:
    """The cut that keeps all limits and costs least, of several prices by the largest.

    Args:
        graph: Layers.
        prices: What every choice costs. With one it is minimised; with several, the largest is.
        limits: What the cut has to keep.

    Returns:
        The optimum, up to rounding of each choice to a nanosecond or a nanojoule. Where proving
        that would take too long, the best that was found, with a bound.

    Raises:
        GraphError: A pin names no layer.
        InfeasibleError: No cut keeps all limits.
        CompilerError: The solver found none in its time, although there may be one.
    """
    if len(prices) == 1:
        cut = find_cut(graph, prices[0], limits.pins)
        if keeps(graph, cut, limits):
            cost = prices[0].of(graph, cut)
            return Optimum(cut, cost, cost)
    check_pins(graph, limits.pins)
    try:
        return _Programme(graph, limits).minimise(prices)
    except NoSolutionError as error:
        clash = find_clash(graph, limits)
        raise InfeasibleError(_describe_clash(graph, clash)) from error


def keeps(graph: LayerGraph, cut: Cut, limits: Limits) -> bool:
    """Whether a cut that agrees with the pins keeps all other limits."""
    splits = 0 < len(cut.server_layers) < len(graph.layers)
    return (
        limits.must_split in (None, splits)
        and (limits.device_nbytes is None or device_nbytes(graph, cut) <= limits.device_nbytes)
        and all(limit.price.of(graph, cut) <= limit.most for limit in limits.costs)
    )


def find_clash(graph: LayerGraph, limits: Limits) -> Limits:
    """Of limits that no cut keeps together, some of which none can be dropped.

    Each limit is left out in turn, for good if there still is no cut: the deletion filter of
    Chinneck and Dravnieks, "Locating Minimal Infeasible Constraint Sets in Linear Programs" (ORSA
    Journal on Computing, 1991).
    """
    left = limits
    drops: list[Callable[[Limits], Limits]] = [
        *(partial(_without, limit) for limit in limits.costs),
        lambda kept: replace(kept, device_nbytes=None),
        lambda kept: replace(kept, must_split=None),
        lambda kept: replace(kept, pins={}),
    ]
    for drop in drops:
        if not _is_feasible(graph, drop(left)):
            left = drop(left)
    return left


def _without(limit: Limit, limits: Limits) -> Limits:
    return replace(limits, costs=tuple(each for each in limits.costs if each is not limit))


def _is_feasible(graph: LayerGraph, limits: Limits) -> bool:
    try:
        _Programme(graph, limits).minimise(())
    except NoSolutionError:
        return False
    return True


def _describe_clash(graph: LayerGraph, clash: Limits) -> str:
    """Which limits clash, and how far each cost could go if it were the only one to give way."""
    names = clash.names
    ways = [
        f"{limit.name} would have to be {_enough(graph, clash, limit)}" for limit in clash.costs
    ]
    what = f"no plan keeps {' and '.join(names)}" + (" together" if len(names) > 1 else "")
    return f"{what}; {' or '.join(ways)}" if ways else f"{what}; drop one of them"


def _enough(graph: LayerGraph, clash: Limits, limit: Limit) -> str:
    """What a limit would have to be to be kept with the others, rounded up."""
    least = _Programme(graph, _without(limit, clash)).minimise([limit.price]).cost
    scale, unit = {"bytes": (1e-3, " kB"), "ppm": (1e-6, "")}.get(limit.unit, (1, f" {limit.unit}"))
    size = scale * least
    step = 10.0 ** (math.floor(math.log10(size)) - 3) if size else 1.0
    return f"{math.ceil(size / step) * step:g}{unit}"


class _Programme:
    """The integer programme of a graph's cuts.

    Args:
        graph: Layers.
        limits: What cuts have to keep.
    """

    def __init__(self, graph: LayerGraph, limits: Limits) -> None:
        self._graph = graph
        self._model = cp_model.CpModel()
        self._server = [self._bool(layer.name) for layer in graph.layers]
        self._crosses = {tensor.name: self._bool(tensor.name) for tensor in graph.tensors}
        self._sent = [self._ways(tensor) for tensor in graph.tensors]
        self._uses_device, self._uses_server = self._bool("device"), self._bool("server")
        self._connect()
        self._pin(limits)
        for limit in limits.costs:
            self._keep(limit)
        if limits.device_nbytes is not None:
            self._fit(limits.device_nbytes)

    def _bool(self, name: str) -> Linear:
        return self._model.new_bool_var(name)

    def _ways(self, tensor: Tensor) -> list[Linear]:
        """Whether a tensor is sent in each of its encodings: in one of them, if it crosses."""
        crosses, encodings = self._crosses[tensor.name], self._graph.encodings_of(tensor)
        if len(encodings) == 1:
            return [crosses]
        ways = [self._bool(f"{tensor.name} as {encoding.name}") for encoding in encodings]
        self._model.add(cp_model.LinearExpr.sum(ways) == crosses)
        return ways

    def _connect(self) -> None:
        """Nothing returns to the device, and what is read over there has to cross."""
        positions = {layer.name: position for position, layer in enumerate(self._graph.layers)}
        for layer, reader in zip(self._graph.layers, self._server, strict=True):
            for tensor in layer.inputs:
                producer = self._graph.producers.get(tensor.name)
                if producer is None:
                    self._model.add_implication(reader, self._crosses[tensor.name])
                    continue
                maker = self._server[positions[producer.name]]
                self._model.add_implication(maker, reader)
                self._model.add_bool_or(~reader, maker, self._crosses[tensor.name])

    def _pin(self, limits: Limits) -> None:
        for layer, on_server in zip(self._graph.layers, self._server, strict=True):
            self._model.add_implication(on_server, self._uses_server)
            self._model.add_implication(~on_server, self._uses_device)
            if layer.name in limits.pins:
                self._model.add(on_server == (limits.pins[layer.name] is Side.SERVER))
        if limits.must_split is False:
            self._model.add_allowed_assignments(
                self._server, [[side] * len(self._server) for side in (0, 1)]
            )
        elif limits.must_split:
            self._model.add_bool_or(self._server)
            self._model.add_bool_or([~each for each in self._server])

    def _keep(self, limit: Limit) -> None:
        units = _units([limit.price])
        most = limit.most + resolution(self._graph, limit.price)
        self._model.add(self._sum(limit.price, units) <= math.floor(most * units))

    def _fit(self, most_nbytes: int) -> None:
        """Keep weights, and what is held while each layer of the device runs, in its memory."""
        left = most_nbytes - always_held_nbytes(self._graph)
        nbytes = [layer.weight_nbytes for layer in self._graph.layers]
        weights = sum(nbytes) - cp_model.LinearExpr.weighted_sum(self._server, nbytes)
        self._model.add(weights <= left)
        alive = list(lifetimes(self._graph))
        for step, on_server in enumerate(self._server):
            held = [
                each.tensor.nbytes
                * (
                    ~self._server[each.made]
                    if step <= each.read
                    else self._crosses[each.tensor.name]
                )
                for each in alive
                if each.made <= step
            ]
            self._model.add(sum(held) + weights <= left).only_enforce_if(~on_server)

    def _sum(self, price: Price, units: float) -> Linear:
        """A cost in whole units."""
        device, server, sending = (
            np.rint(units * each).astype(np.int64)
            for each in (price.device, price.server, price.encodings)
        )
        sent = [way for ways in self._sent for way in ways]
        return (
            int(device.sum())
            + cp_model.LinearExpr.weighted_sum(self._server, (server - device).tolist())
            + cp_model.LinearExpr.weighted_sum(sent, sending.tolist())
            + round(units * price.device_entry) * self._uses_device
            + round(units * price.server_entry) * self._uses_server
        )

    def minimise(self, prices: Sequence[Price]) -> Optimum:
        """Solve the programme for the least of the largest cost."""
        units = _units(prices)
        sums = [self._sum(price, units) for price in prices]
        largest = self._model.new_int_var(0, 2 * int(LARGEST_TOTAL), "largest")
        for each in sums:
            self._model.add(largest >= each)
        self._model.minimize(largest)
        solver, proven = solve(self._model)
        cut = self._read(solver)
        cost = max((price.of(self._graph, cut) for price in prices), default=0.0)
        return Optimum(cut, cost, cost if proven else solver.best_objective_bound / units)

    def _read(self, solver: cp_model.CpSolver) -> Cut:
        """The cut that a solution stands for."""
        names = (layer.name for layer in self._graph.layers)
        sides = map(solver.boolean_value, self._server)
        chosen = (
            (tensor.name, encoding)
            for tensor, ways in zip(self._graph.tensors, self._sent, strict=True)
            for way, encoding in zip(ways, self._graph.encodings_of(tensor), strict=True)
            if solver.boolean_value(way)
        )
        return Cut(
            frozenset(compress(names, sides)),
            tuple((name, how.name) for name, how in chosen if not how.as_given),
        )


def resolution(graph: LayerGraph, price: Price) -> float:
    """Within what a cost is known, as each choice is rounded by up to half a unit."""
    return (2 + len(graph.layers) + len(graph.tensors)) / _units([price])


def _units(prices: Sequence[Price]) -> float:
    """How many whole units to count a millisecond or millijoule as."""
    return units_for(max((price.total for price in prices), default=0.0))
