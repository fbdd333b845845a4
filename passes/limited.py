"""The best cut within limits, as an integer programme; and which limits clash if there is none.

A minimum cut cannot be told to stay below a budget, nor to minimise the largest of several sums;
both are NP-hard (JointDNN: Eshratifar, Abrishami and Pedram, "JointDNN: An Efficient Training and
Inference Engine for Intelligent Mobile Cloud Computing Services", IEEE TMC 2019). The programme has
a variable for the side of every layer, the arcs of the cut graph as implications between them, and
one for every encoding of every tensor that may cross.
"""

# OR-Tools declares its types only in part, SciPy none.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from typing import Any

import numpy as np
from ortools.sat.python import cp_model
from scipy.optimize import linprog

from partc.errors import InfeasibleError, PartcError
from partc.graph import LayerGraph, Tensor
from partc.passes.cut import find_cut
from partc.passes.memory import always_held_nbytes, device_nbytes, lifetimes
from partc.passes.pins import Pinned, check_pins
from partc.passes.price import Array, Price
from partc.passes.programme import (
    LARGEST_TOTAL,
    Linear,
    NoSolutionError,
    UndecidedError,
    solve,
    units_for,
)
from partc.plan import Cut, Side, crossing, make_plan
from partc.quantities import format_nbytes

_MOST_MEANS = 30  # of prices that are tried; ten or so prove what they can


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
        pinned: Layers that must run on one side.
        device_nbytes: What weights and activations may take on the device.
        must_split: Whether both sides have to have layers; if not, whether only one may have;
            None for either.
    """

    costs: tuple[Limit, ...] = ()
    pinned: tuple[Pinned, ...] = ()
    device_nbytes: int | None = None
    must_split: bool | None = None

    @cached_property
    def pins(self) -> Mapping[str, Side]:
        """The side on which a layer must run, by layer name."""
        return {name: each.side for each in self.pinned for name in each.layers}

    @property
    def names(self) -> tuple[str, ...]:
        """What a user knows them by."""
        memory = self.device_nbytes
        return (
            *(limit.name for limit in self.costs),
            *(() if memory is None else (f"--device-memory {format_nbytes(memory)}",)),
            *({None: (), True: ("--must-split",), False: ("--no-split",)}[self.must_split]),
            *(each.name for each in self.pinned),
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
        PartcError: The solver found none within its effort, although there may be one.
    """
    check_pins(graph, limits.pins)
    try:
        return _find(graph, prices, limits)
    except NoSolutionError as error:
        clash = find_clash(graph, limits)
        raise InfeasibleError(_describe_clash(graph, clash)) from error
    except UndecidedError as error:
        raise PartcError(
            f"whether a plan keeps {' and '.join(limits.names)} could not be told within the "
            "solver's effort; give fewer or looser limits, --no-split, or a model with fewer layers"
        ) from error


def keeps(graph: LayerGraph, cut: Cut, limits: Limits) -> bool:
    """Whether a cut keeps all limits."""
    there, pins = cut.server_layers, limits.pins
    return (
        all((name in there) == (side is Side.SERVER) for name, side in pins.items())
        and limits.must_split in (None, 0 < len(there) < len(graph.layers))
        and (limits.device_nbytes is None or device_nbytes(graph, cut) <= limits.device_nbytes)
        and all(limit.price.of(graph, cut) <= limit.most for limit in limits.costs)
    )


def _find(graph: LayerGraph, prices: Sequence[Price], limits: Limits) -> Optimum:
    """The best cut by minimum cuts, if these prove that it is; else by the programme."""
    tried, bound = _relax(graph, prices, limits.pins)
    near = bound + 2 * resolution(graph, *prices)
    kept = [
        Optimum(cut, max(price.of(graph, cut) for price in prices), bound)
        for cut in (*tried, Cut.device_only(), Cut.server_only(graph))
        if keeps(graph, cut, limits)
    ]
    for each in kept:
        if each.cost <= near:
            return replace(each, bound=each.cost)
    start = min(kept, key=lambda each: each.cost, default=None)
    try:
        return _Programme(graph, limits).minimise(prices, bound, start and start.cut)
    except UndecidedError:
        if start is None:
            raise
        return start


def _relax(
    graph: LayerGraph, prices: Sequence[Price], pins: Mapping[str, Side]
) -> tuple[list[Cut], float]:
    """Cuts that cost least in weighted means of prices, and what any costs at least in the largest.

    No mean exceeds the largest. The weights whose least mean is the most, the Lagrangian dual, are
    approached by the cutting planes of Kelley, "The Cutting-Plane Method for Solving Convex
    Programs" (Journal of SIAM, 1960).
    """
    cuts: list[Cut] = []
    costs: list[list[float]] = []
    weights, bound, most = np.full(len(prices), 1 / len(prices)), 0.0, math.inf
    rounding = resolution(graph, *prices)
    while len(cuts) < _MOST_MEANS and bound + 2 * rounding < most:
        cuts.append(find_cut(graph, _mean(prices, weights), pins))
        costs.append([price.of(graph, cuts[-1]) for price in prices])
        bound = max(bound, float(weights @ costs[-1]) - rounding)
        weights, most = _heaviest(np.array(costs))
    return cuts, bound


def _mean(prices: Sequence[Price], weights: Array) -> Price:
    def mean(costs: Iterable[Any]) -> Any:
        return sum(cost * weight for cost, weight in zip(costs, weights.tolist(), strict=True))

    return Price(
        device=mean(price.device for price in prices),
        server=mean(price.server for price in prices),
        encodings=mean(price.encodings for price in prices),
        device_entry=mean(price.device_entry for price in prices),
        server_entry=mean(price.server_entry for price in prices),
        starts=prices[0].starts,
    )


def _heaviest(costs: Array) -> tuple[Array, float]:
    """Weights of which the least of the rows' means is the most, and that mean."""
    rows, columns = costs.shape
    scale = max(1.0, float(costs.max()))
    found = linprog(
        np.append(np.zeros(columns), -1.0),
        A_ub=np.hstack([-costs / scale, np.ones((rows, 1))]),
        b_ub=np.zeros(rows),
        A_eq=np.append(np.ones(columns), 0.0)[None],
        b_eq=[1.0],
    )
    weights = found.x[:-1].clip(0)
    return weights / weights.sum(), float(found.x[-1]) * scale


def find_clash(graph: LayerGraph, limits: Limits) -> Limits:
    """Of limits that no cut keeps together, some of which none can be dropped.

    Each limit is left out in turn, for good if there still is no cut: the deletion filter of
    Chinneck and Dravnieks, "Locating Minimal Infeasible Constraint Sets in Linear Programs" (ORSA
    Journal on Computing, 1991). What the solver cannot tell within its effort stays.
    """
    left = limits
    drops: list[Callable[[Limits], Limits]] = [
        *(partial(_without, limit) for limit in limits.costs),
        lambda kept: replace(kept, device_nbytes=None),
        lambda kept: replace(kept, must_split=None),
        *(partial(_without_pinned, each) for each in limits.pinned),
    ]
    for drop in drops:
        if _is_infeasible(graph, drop(left)):
            left = drop(left)
    return left


def _without(limit: Limit, limits: Limits) -> Limits:
    return replace(limits, costs=tuple(each for each in limits.costs if each is not limit))


def _without_pinned(pinned: Pinned, limits: Limits) -> Limits:
    return replace(limits, pinned=tuple(each for each in limits.pinned if each is not pinned))


def _is_infeasible(graph: LayerGraph, limits: Limits) -> bool:
    try:
        _Programme(graph, limits).minimise(())
    except NoSolutionError:
        return True
    except UndecidedError:
        pass
    return False


def _describe_clash(graph: LayerGraph, clash: Limits) -> str:
    """Which limits clash, and how far each could go if it were the only one to give way."""
    names = clash.names
    what = f"no plan keeps {' and '.join(names)}" + (" together" if len(names) > 1 else "")
    ways = " or ".join(_ways_out(graph, clash))
    return f"{what}; {ways or ('drop one of them' if len(names) > 1 else 'drop it')}"


def _ways_out(graph: LayerGraph, clash: Limits) -> Iterator[str]:
    """What each limit that is a number would have to be to be kept with the others."""
    for limit in clash.costs:
        find = partial(_find, graph, [limit.price], _without(limit, clash))
        yield from _would_have_to_be(limit.name, find, limit.most, limit.unit)
    if clash.device_nbytes is not None:
        find = _Programme(graph, replace(clash, device_nbytes=None)).least_nbytes
        name = f"--device-memory {format_nbytes(clash.device_nbytes)}"
        yield from _would_have_to_be(name, find, clash.device_nbytes, "bytes")


def _would_have_to_be(
    name: str, find: Callable[[], Optimum], most: float, unit: str
) -> Iterator[str]:
    """A clause, but for a limit of which the solver cannot tell."""
    try:
        least = find()
    except UndecidedError:
        return
    if least.gap:
        yield f"{name} would have to be at least {_show(max(most, least.bound), unit, math.floor)}"
    else:
        yield f"{name} would have to be {_show(least.cost, unit, math.ceil)}"


def _show(amount: float, unit: str, rounded: Callable[[float], int]) -> str:
    """An amount with four digits."""
    scale, name = {"bytes": (1e-3, " kB"), "ppm": (1e-6, "")}.get(unit, (1, f" {unit}"))
    size = scale * amount
    step = 10.0 ** (math.floor(math.log10(size)) - 3) if size else 1.0
    return f"{rounded(size / step) * step:g}{name}"


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
            self._model.add_at_most_one(self._uses_device, self._uses_server)
        elif limits.must_split:
            self._model.add_bool_or(self._server)
            self._model.add_bool_or([~each for each in self._server])

    def _keep(self, limit: Limit) -> None:
        units = _units(limit.price)
        most = limit.most + resolution(self._graph, limit.price)
        self._model.add(self._sum(limit.price, units) <= math.floor(most * units))

    def _fit(self, most_nbytes: Linear) -> None:
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

    def minimise(
        self, prices: Sequence[Price], bound: float = 0.0, start: Cut | None = None
    ) -> Optimum:
        """Solve the programme for the least of the largest cost.

        Args:
            prices: What every choice costs.
            bound: What any cut is known to cost at least.
            start: A cut that keeps the limits.
        """
        units = _units(*prices)
        least = math.floor((bound - resolution(self._graph, *prices)) * units)
        largest = self._model.new_int_var(max(0, least), 2 * int(LARGEST_TOTAL), "largest")
        for price in prices:
            self._model.add(largest >= self._sum(price, units))
        self._model.minimize(largest)
        if start is not None:
            self._hint(start)
        solver, proven = solve(self._model)
        cut = self._read(solver)
        cost = max((price.of(self._graph, cut) for price in prices), default=0.0)
        if proven:
            return Optimum(cut, cost, cost)
        return Optimum(cut, cost, max(bound, solver.best_objective_bound / units))

    def least_nbytes(self) -> Optimum:
        """Solve the programme for the least that the device has to hold."""
        nbytes = self._model.new_int_var(0, int(LARGEST_TOTAL), "memory")
        self._fit(nbytes)
        self._model.minimize(nbytes)
        solver, proven = solve(self._model)
        cut = self._read(solver)
        held = device_nbytes(self._graph, cut)
        return Optimum(cut, held, held if proven else solver.best_objective_bound)

    def _hint(self, cut: Cut) -> None:
        """Begin with a cut; whether a tensor crosses follows from how it is sent."""
        for layer, on_server in zip(self._graph.layers, self._server, strict=True):
            self._model.add_hint(on_server, layer.name in cut.server_layers)
        plan = make_plan(self._graph, cut)
        sent = {
            tensor.name: how.name for tensor, how in zip(plan.upload, plan.encodings, strict=True)
        }
        for tensor, ways in zip(self._graph.tensors, self._sent, strict=True):
            for way, how in zip(ways, self._graph.encodings_of(tensor), strict=True):
                self._model.add_hint(way, sent.get(tensor.name) == how.name)

    def _read(self, solver: cp_model.CpSolver) -> Cut:
        """The cut that a solution stands for."""
        names = (layer.name for layer in self._graph.layers)
        cut = Cut(frozenset(compress(names, map(solver.boolean_value, self._server))))
        # Where that costs nothing, the solver may send what need not cross.
        sent = {tensor.name for tensor in crossing(self._graph, cut)}
        chosen = (
            (tensor.name, how.name)
            for tensor, ways in zip(self._graph.tensors, self._sent, strict=True)
            for way, how in zip(ways, self._graph.encodings_of(tensor), strict=True)
            if tensor.name in sent and not how.as_given and solver.boolean_value(way)
        )
        return replace(cut, encodings=tuple(chosen))


def resolution(graph: LayerGraph, *prices: Price) -> float:
    """Within what costs are known, as each choice is rounded by up to half a unit."""
    return (2 + len(graph.layers) + len(graph.tensors)) / _units(*prices)


def _units(*prices: Price) -> float:
    """How many whole units to count a millisecond or millijoule as."""
    return units_for(max((price.total for price in prices), default=0.0))
