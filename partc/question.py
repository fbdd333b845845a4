"""What ``partc plan`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from partc.errors import PartcError
from partc.goal import Goal
from partc.plan import Objective

if TYPE_CHECKING:  # it loads solvers, which a question that is refused does not need
    from partc.tiering import TierGoal


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
            "--tiers": not isinstance(goal, Goal),
            "--pareto": self.pareto,
            "--compare": self.compare,
            "--switches": self.switches > 1,
            "--overlap": self.overlap,
            "a range of conditions": varies,
        }
        given = [name for name, is_asked in asked.items() if is_asked]
        if len(given) > 1:
            raise PartcError(f"{' and '.join(given)} are different questions; ask one at a time")
        if self.pareto or self.overlap:
            _require_latency(given[0], goal)
        if drawn and not (varies or self.overlap):
            raise PartcError(
                "--plot draws a range of conditions, such as --uplink 0.5..50, or --overlap"
            )
        if alone and isinstance(goal, Goal) and len(goal.links) > 1:
            raise PartcError(
                f"--json and --plot are for one answer, but {len(goal.links)} links were given"
            )


def _require_latency(option: str, goal: Goal | TierGoal) -> None:
    """Refuse what asks for something else besides."""
    rate = isinstance(goal, Goal) and goal.rate_hz
    others = {"--objective": goal.objective is not Objective.LATENCY, "--rate": bool(rate)}
    given = [name for name, is_given in others.items() if is_given]
    if given:
        raise PartcError(f"{option} is about latency; leave out {' and '.join(given)}")
