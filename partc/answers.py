"""What ``partc plan`` can be asked, and how each answer is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from partc.compiler import lower_model
from partc.errors import PartcError
from partc.frontends.load import Shapes
from partc.goal import Goal
from partc.graph import LayerGraph
from partc.passes.annotate import entry_charges
from partc.plan import Objective
from partc.planner import Progress, decide, overlap, predict_costs, survey, switch, trade
from partc.report.comparison import compare, comparison_json, print_comparison
from partc.report.front import front_json, print_front
from partc.report.json import decision_json
from partc.report.plot import save_plot
from partc.report.survey import print_survey, survey_json
from partc.report.switching import print_switching, switching_json
from partc.report.terminal import print_decision
from partc.report.timeline import print_timeline, save_timeline, timeline_json
from partc.targets.link import Link


@dataclass(frozen=True)
class Question:
    """What to show of the plans for a model; by default the best one, or all that win in a range.

    Args:
        pareto: All plans between least latency and least energy.
        compare: What other planners would choose.
        switches: How often layers may change sides.
        overlap: The plan with the shortest schedule, if whatever can overlaps.
    """

    pareto: bool = False
    compare: bool = False
    switches: int = 1
    overlap: bool = False

    def check(self, goal: Goal) -> None:
        """Refuse what makes no sense together.

        Raises:
            PartcError: Says what.
        """
        asked = {
            "--pareto": self.pareto,
            "--compare": self.compare,
            "--switches": self.switches > 1,
            "--overlap": self.overlap,
            "a range of conditions": goal.varies,
        }
        given = [name for name, is_asked in asked.items() if is_asked]
        if len(given) > 1:
            raise PartcError(f"{' and '.join(given)} are different questions; ask one at a time")
        if goal.objective is Objective.LATENCY:
            return
        if self.pareto:
            raise PartcError("--pareto is about both latency and energy; leave out --objective")
        if self.overlap:
            raise PartcError("--overlap is about latency; leave out --objective")


@dataclass(frozen=True)
class Answer:
    """An answer for one link.

    Args:
        json: Makes the JSON form.
        show: Prints it.
        plot: Draws it into a file, if it can be drawn.
    """

    json: Callable[[], str]
    show: Callable[[Console], None]
    plot: Callable[[Path], None] | None = None


def answer(
    model: str, goal: Goal, question: Question, shapes: Shapes, progress: Progress
) -> Sequence[Answer]:
    """Answer a question for each link of a goal."""
    graph = predict_costs(lower_model(model, shapes, None, progress), goal, progress)
    if goal.varies:
        return [_survey(graph, goal, link) for link in goal.links]
    if question.pareto:
        return [_front(graph, goal, link, progress) for link in goal.links]
    if question.switches > 1:
        return [_switching(graph, goal, link, question.switches) for link in goal.links]
    if question.overlap:
        return [_timeline(graph, goal, link) for link in goal.links]
    return _decisions(graph, goal, question.compare)


def _decisions(graph: LayerGraph, goal: Goal, comparing: bool) -> Sequence[Answer]:
    decisions = decide(graph, goal)
    if not comparing:
        return [Answer(partial(decision_json, d), partial(print_decision, d)) for d in decisions]
    entry = entry_charges(goal.target, goal.server)
    compared = [(decision, compare(decision, entry)) for decision in decisions]
    return [
        Answer(partial(comparison_json, *each), partial(print_comparison, *each))
        for each in compared
    ]


def _survey(graph: LayerGraph, goal: Goal, link: Link) -> Answer:
    found = survey(graph, goal, link)
    return Answer(
        partial(survey_json, found), partial(print_survey, found), partial(save_plot, found)
    )


def _front(graph: LayerGraph, goal: Goal, link: Link, progress: Progress) -> Answer:
    front = trade(graph, goal, link, progress)
    return Answer(partial(front_json, front), partial(print_front, front))


def _switching(graph: LayerGraph, goal: Goal, link: Link, switches: int) -> Answer:
    found = switch(graph, goal, link, switches)
    return Answer(partial(switching_json, found), partial(print_switching, found))


def _timeline(graph: LayerGraph, goal: Goal, link: Link) -> Answer:
    found = overlap(graph, goal, link)
    return Answer(
        partial(timeline_json, found), partial(print_timeline, found), partial(save_timeline, found)
    )
