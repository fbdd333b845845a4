"""The planner: from a layer graph and a goal to a decision for each link."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import msgspec

from partc.cost import DEVIATION, LATENCY, SERVER_TIME, UPLOAD_NBYTES, Cost, aim_of, energy
from partc.errors import InfeasibleError, PartcError
from partc.goal import Constraints, Goal
from partc.graph import LayerGraph
from partc.passes.annotate import annotate, entry_charges
from partc.passes.encode import take_images
from partc.passes.envelope import find_envelope
from partc.passes.limited import Limit, Limits, Optimum, find_limited_cut, keeps
from partc.passes.overlap import find_overlapped_cut
from partc.passes.pareto import find_front
from partc.passes.pins import resolve_pins
from partc.passes.price import Price, price
from partc.passes.schedule import schedule
from partc.passes.switches import SwitchingProblem, find_placement
from partc.plan import Conditions, Cut, DevicePower, EntryCharges, Objective, Plan, make_plan
from partc.quantities import format_nbytes
from partc.report.decision import Decision
from partc.report.front import Front
from partc.report.survey import Survey
from partc.report.switching import Switching
from partc.report.timeline import Timeline
from partc.targets.link import Link, device_power
from partc.targets.predictor import Predictor, predictor_for
from partc.targets.target import Target

Progress = Callable[[str], None]

_PER_MILLION = 1e6
"""Deviations are a thousandth of a time; solvers are to round them as little."""


def predict_costs(graph: LayerGraph, goal: Goal, progress: Progress = lambda _: None) -> LayerGraph:
    """The graph with what its layers cost on a goal's machines.

    Args:
        graph: Layers.
        goal: Names the machines.
        progress: Called with a line of text as each step starts.
    """
    device = _predictor(graph, goal, goal.target, goal.rpc, progress)
    server = _predictor(graph, goal, goal.server, None, progress)
    cold_shares = (goal.target.cold_share, goal.server.cold_share)
    annotated = annotate(graph, device, server, goal.target.busy_watts, *cold_shares)
    return take_images(annotated, dict(goal.image_nbytes), goal.target, goal.server)


def decide(graph: LayerGraph, goal: Goal) -> tuple[Decision, ...]:
    """The best plan for each link.

    Args:
        graph: An annotated graph.
        goal: What to plan for.

    Raises:
        InfeasibleError: No plan keeps the constraints; says which of them clash.
    """
    return tuple(_decide(_case(graph, goal, link, goal.conditions(link))) for link in goal.links)


def survey(graph: LayerGraph, goal: Goal, link: Link) -> Survey:
    """Find every plan that is the best one somewhere in a goal's range of conditions.

    Args:
        graph: An annotated graph.
        goal: What to plan for.
        link: What lies between; the goal may say from what to what it varies.

    Raises:
        PartcError: The objective or a constraint is of no use over a range.
        InfeasibleError: No plan keeps the constraints.
    """
    check_range(goal)

    gaps = [0.0]

    def find(conditions: Conditions) -> Cut:
        case = _case(graph, goal, link, conditions)
        optimum = _best(case, goal.objective, _limits(case))
        gaps.append(optimum.gap)
        return optimum.cut

    def cost_at(conditions: Conditions) -> Cost:
        case = _case(graph, goal, link, conditions)
        (cost,) = aim_of(goal.objective, case.power, goal.ms_per_mj).costs
        return cost

    entry = entry_charges(goal.target, goal.server)
    envelope = find_envelope(graph, find, cost_at, goal.range(link), entry)
    names = (goal.target.name, goal.server.name, link.name)
    return Survey(graph, goal.objective, *names, envelope, max(gaps))


def keeps_constraints(graph: LayerGraph, goal: Goal, cut: Cut) -> bool:
    """Whether a cut keeps those of a goal's constraints that do not depend on conditions."""
    wanted = replace(goal.constraints, deadline_ms=None, energy_mj=None, server_ms=None)
    link = goal.links[0]
    limits = _limits(_case(graph, replace(goal, constraints=wanted), link, goal.conditions(link)))
    return keeps(graph, cut, limits)


def trade(graph: LayerGraph, goal: Goal, link: Link, progress: Progress = lambda _: None) -> Front:
    """Find the plans of which none is quicker without taking more energy.

    Args:
        graph: An annotated graph.
        goal: Names the machines, and what plans have to keep.
        link: What lies between.
        progress: Called with a line of text after each plan.

    Raises:
        InfeasibleError: No plan keeps the constraints.
    """
    case = _case(graph, goal, link, goal.conditions(link))
    limits = _limits(case)
    latency, joules = (case.price(cost) for cost in (LATENCY, energy(case.power)))
    cuts, gap = find_front(
        graph, latency, joules, limits, lambda count: progress(f"Plans found: {count}")
    )
    return Front(
        model=graph.name,
        target=goal.target.name,
        server=goal.server.name,
        link=link.name,
        conditions=case.conditions,
        power=case.power,
        plans=tuple(map(case.plan, cuts)),
        gap=gap,
        keeping=_describe_limits(goal, limits),
    )


def switch(graph: LayerGraph, goal: Goal, link: Link, switches: int) -> Switching:
    """Find the best placement that may change sides several times, and the best cut beside it.

    Args:
        graph: An annotated graph.
        goal: What to plan for; of its constraints only those that keep layers on a side.
        link: What lies between.
        switches: How often a path through the graph may change sides.

    Raises:
        PartcError: The objective or a constraint cannot be kept.
        InfeasibleError: Layers cannot be where they have to be.
    """
    goal.require_plain("--switches")
    wanted = goal.constraints
    sides_only = Constraints(wanted.pins, wanted.forbidden, wanted.private_until)
    if goal.objective is Objective.THROUGHPUT or goal.rate_hz or wanted != sides_only:
        raise PartcError(
            "--switches is for latency, energy or both weighted, and keeps --pin, --forbid and "
            "--private-until; leave out other limits"
        )
    case = _case(graph, goal, link, goal.conditions(link))
    aim = aim_of(goal.objective, case.power, goal.ms_per_mj)
    problem = SwitchingProblem(graph, aim.costs[0], case.conditions, case.entry)
    limits = _limits(case)
    placement, bound = find_placement(problem, switches, limits.pins)
    try:
        cut_cost = _best(case, goal.objective, limits).cost
    except InfeasibleError:
        cut_cost = None
    return Switching(
        graph=graph,
        objective=goal.objective,
        machines=(goal.target.name, goal.server.name),
        link=link.name,
        placement=placement,
        cost=problem.total(placement),
        bound=bound,
        cut_cost=cut_cost,
        unit=aim.unit,
    )


def overlap(graph: LayerGraph, goal: Goal, link: Link) -> Timeline:
    """Find the plan with the shortest schedule, if whatever can overlaps.

    Args:
        graph: An annotated graph.
        goal: Names the machines, and what plans have to keep.
        link: What lies between.

    Raises:
        InfeasibleError: No plan keeps the constraints.
    """
    goal.require_plain("--overlap")
    case = _case(graph, goal, link, goal.conditions(link))
    limits = _limits(case)
    optimum = find_overlapped_cut(graph, case.conditions, limits, case.entry)
    return Timeline(
        model=graph.name,
        target=goal.target.name,
        server=goal.server.name,
        link=link.name,
        conditions=case.conditions,
        plan=case.plan(optimum.cut),
        in_turn=case.plan(_best(case, Objective.LATENCY, limits).cut),
        schedule=schedule(graph, optimum.cut, case.conditions, case.entry),
        gap=optimum.gap,
        keeping=_describe_limits(goal, limits),
    )


def check_range(goal: Goal) -> None:
    """Refuse what makes the best cost a function that planes do not envelop.

    Raises:
        PartcError: The objective or a constraint is of no use over a range of conditions.
    """
    wanted = goal.constraints
    if goal.objective is Objective.THROUGHPUT or goal.rate_hz:
        raise PartcError(
            "plans for a range of conditions are for latency, energy or both weighted, not for "
            "throughput; give one value for each condition"
        )
    varying = {
        "--deadline": wanted.deadline_ms,
        "--max-energy": wanted.energy_mj,
        "--max-server-time": wanted.server_ms,
    }
    given = [option for option, value in varying.items() if value is not None]
    if given:
        raise PartcError(
            f"what {' and '.join(given)} allows depends on the conditions, so plans for a range of "
            "these cannot keep it; give one value for each condition"
        )


def _predictor(
    graph: LayerGraph, goal: Goal, target: Target, address: str | None, progress: Progress
) -> Predictor:
    if not goal.measure:
        return predictor_for(target)
    progress(f"Measuring {len(graph.layers)} layers on {target.name}")
    # What it needs takes a second to load.
    from partc.profiler.own import OwnLayers

    return OwnLayers(graph, target, address)


@dataclass(frozen=True)
class _Case:
    """What to plan, for one link and what it is like."""

    graph: LayerGraph
    goal: Goal
    link: Link
    conditions: Conditions

    @property
    def power(self) -> DevicePower:
        return device_power(self.goal.target, self.link)

    @property
    def entry(self) -> EntryCharges:
        return entry_charges(self.goal.target, self.goal.server)

    def price(self, cost: Cost) -> Price:
        return price(self.graph, cost, self.conditions, self.entry)

    def plan(self, cut: Cut) -> Plan:
        return make_plan(self.graph, cut, self.entry)


def _case(graph: LayerGraph, goal: Goal, link: Link, conditions: Conditions) -> _Case:
    """A link under given conditions; what its radio draws depends on its rates."""
    rates = {"uplink_mbps": conditions.uplink_mbps, "downlink_mbps": conditions.downlink_mbps}
    return _Case(graph, goal, msgspec.structs.replace(link, **rates), conditions)


def _decide(case: _Case) -> Decision:
    goal, graph = case.goal, case.graph
    limits = _limits(case)
    objective, optimum = _choose(case, limits)
    decision = Decision(
        graph=graph,
        objective=objective,
        target=goal.target.name,
        server=goal.server.name,
        link=case.link.name,
        conditions=case.conditions,
        power=case.power,
        plan=case.plan(optimum.cut),
        device_only=case.plan(Cut.device_only()),
        server_only=case.plan(Cut.server_only(graph)),
        server_busy=goal.server_busy[0],
        rate_hz=goal.rate_hz,
        ms_per_mj=goal.ms_per_mj,
        gap=optimum.gap,
        keeping=_describe_limits(goal, limits),
    )
    broken = (
        title
        for title, plan in decision.plans.items()
        if plan is not decision.plan and not keeps(graph, plan.cut, limits)
    )
    return replace(decision, breaking=tuple(broken))


def _choose(case: _Case, limits: Limits) -> tuple[Objective, Optimum]:
    """The best cut; for throughput instead of latency if that is what it takes to keep up.

    As in DADS (Hu, Bao, Wang and Liu, INFOCOM 2019), where a rate decides between the modes for
    light and heavy load.
    """
    objective = case.goal.objective
    optimum = _best(case, objective, limits)
    if objective is not Objective.LATENCY or not case.goal.rate_hz:
        return objective, optimum
    stages = aim_of(Objective.THROUGHPUT, case.power)
    slowest_ms = stages.of(case.plan(optimum.cut), case.conditions)
    if slowest_ms < 1e3 / case.goal.rate_hz:
        return objective, optimum
    return Objective.THROUGHPUT, _best(case, Objective.THROUGHPUT, limits)


def _best(case: _Case, objective: Objective, limits: Limits) -> Optimum:
    aim = aim_of(objective, case.power, case.goal.ms_per_mj)
    try:
        return find_limited_cut(case.graph, [case.price(cost) for cost in aim.costs], limits)
    except InfeasibleError as error:
        if not (case.goal.constraints.max_error is not None and limits.costs):
            raise
        raise InfeasibleError(
            f"{error}; or a larger --max-error may allow smaller encodings"
        ) from error


def _limits(case: _Case) -> Limits:
    """What a goal's constraints are for a graph."""
    wanted = case.goal.constraints
    return Limits(
        costs=tuple(_cost_limits(case, wanted)),
        pinned=resolve_pins(case.graph, wanted.pins, wanted.private_until, wanted.forbidden),
        device_nbytes=wanted.device_nbytes,
        must_split=wanted.split,
    )


def _describe_limits(goal: Goal, limits: Limits) -> tuple[str, ...]:
    wanted = goal.constraints
    pins = (f"{pattern} on the {side.value}" for pattern, side in wanted.pins)
    forbidden = (f"{pattern} off the {side.value}" for pattern, side in wanted.forbidden)
    private = (f"--private-until {each}" for each in wanted.private_until)
    return (*replace(limits, pinned=()).names, *pins, *forbidden, *private)


def _cost_limits(case: _Case, wanted: Constraints) -> Iterable[Limit]:
    if wanted.deadline_ms is not None:
        name = f"--deadline {wanted.deadline_ms:g} ms"
        yield Limit(name, case.price(LATENCY), wanted.deadline_ms, "ms")
    if wanted.energy_mj is not None:
        name = f"--max-energy {wanted.energy_mj:g} mJ"
        yield Limit(name, case.price(energy(case.power)), wanted.energy_mj, "mJ")
    if wanted.server_ms is not None:
        name = f"--max-server-time {wanted.server_ms:g} ms"
        yield Limit(name, case.price(SERVER_TIME), wanted.server_ms, "ms")
    if wanted.upload_nbytes is not None:
        name = f"--max-upload {format_nbytes(wanted.upload_nbytes)}"
        yield Limit(name, case.price(UPLOAD_NBYTES), wanted.upload_nbytes, "bytes")
    if wanted.max_error:
        deviation = case.price(DEVIATION * _PER_MILLION)
        name = f"--max-error {wanted.max_error:g}"
        yield Limit(name, deviation, wanted.max_error * _PER_MILLION, "ppm")
