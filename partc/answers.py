"""What ``partc plan`` can be asked, and how each answer is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from partc.compiler import lower_model, prepare_model
from partc.errors import PartcError
from partc.frontends.load import Inputs
from partc.goal import Goal
from partc.graph import LayerGraph
from partc.passes.annotate import entry_charges
from partc.plan import Objective
from partc.planner import Progress, decide, overlap, survey, switch, trade
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

    def check(self, goal: Goal | TierGoal, drawn: bool, alone: bool) -> None:
        """Refuse what makes no sense together.

        Args:
            goal: What is planned for.
            drawn: Whether the answer is to be drawn.
            alone: Whether there may be one answer only.

        Raises:
            PartcError: Says what.
        """
        varies = isinstance(goal, Goal) and goal.varies
        asked = {
            "--tiers": isinstance(goal, TierGoal),
            "--pareto": self.pareto,
            "--compare": self.compare,
            "--switches": self.switches > 1,
            "--overlap": self.overlap,
            "a range of conditions": varies,
        }
        given = [name for name, is_asked in asked.items() if is_asked]
        if len(given) > 1:
            raise PartcError(f"{' and '.join(given)} are different questions; ask one at a time")
        if (self.pareto or self.overlap) and goal.objective is not Objective.LATENCY:
            raise PartcError(f"{given[0]} is about latency; leave out --objective")
        if drawn and not (varies or self.overlap):
            raise PartcError(
                "--plot draws a range of conditions, such as --uplink 0.5..50, or --overlap"
            )
        if alone and isinstance(goal, Goal) and len(goal.links) > 1:
            raise PartcError(
                f"--json and --plot are for one answer, but {len(goal.links)} links were given"
            )


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
