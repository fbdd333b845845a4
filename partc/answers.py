"""How each answer of ``partc plan`` is found and shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from partc.compiler import lower_model, prepare_model
from partc.frontends.load import Inputs
from partc.goal import Goal
from partc.graph import LayerGraph
from partc.passes.annotate import entry_charges
from partc.planner import Progress, decide, overlap, survey, switch, trade
from partc.question import Question
from partc.report.comparison import compare, comparison_json, print_comparison
from partc.report.front import front_json, print_front
from partc.report.json import decision_json
from partc.report.survey import print_survey, survey_json
from partc.report.switching import print_switching, switching_json
from partc.report.terminal import print_decision
from partc.report.tiers import print_tiers, tiers_json
from partc.report.timeline import print_timeline, save_timeline, timeline_json
from partc.targets.link import Link
from partc.tiering import TierGoal, plan_tiers


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
    model: str, goal: Goal | TierGoal, question: Question, inputs: Inputs, progress: Progress
) -> Sequence[Answer]:
    """Answer a question for each link of a goal, or for all machines of a chain."""
    if isinstance(goal, TierGoal):
        found = plan_tiers(lower_model(model, inputs, progress), goal)
        return [Answer(partial(tiers_json, found), partial(print_tiers, found))]
    _, graph = prepare_model(model, goal, inputs, progress)
    if goal.varies:
        return [_survey(graph, goal, link) for link in goal.links]
    if question.pareto:
        return [_front(graph, goal, link, progress) for link in goal.links]
    if question.switches > 1:
        return [_switching(graph, goal, link, question.switches) for link in goal.links]
    if question.overlap:
        return [_timeline(graph, goal, link) for link in goal.links]
    return _decisions(graph, goal, question.compare, progress)


def _decisions(
    graph: LayerGraph, goal: Goal, comparing: bool, progress: Progress
) -> Sequence[Answer]:
    decisions = decide(graph, goal)
    if not comparing:
        return [Answer(partial(decision_json, d), partial(print_decision, d)) for d in decisions]
    progress("Planning as others would")
    entry = entry_charges(goal.target, goal.server)
    compared = [(decision, compare(decision, entry)) for decision in decisions]
    return [
        Answer(partial(comparison_json, *each), partial(print_comparison, *each))
        for each in compared
    ]


def _survey(graph: LayerGraph, goal: Goal, link: Link) -> Answer:
    found = survey(graph, goal, link)

    def plot(path: Path) -> None:
        # Matplotlib takes a while to load, and only a drawing needs it.
        from partc.report.plot import save_plot

        save_plot(found, path)

    return Answer(partial(survey_json, found), partial(print_survey, found), plot)


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
