"""Integer programmes: how costs become whole numbers, and how the solver is asked."""
# OR-Tools declares its types only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any

from ortools.sat.python import cp_model

from partc.errors import CompilerError
from partc.passes.price import UNITS_PER_MILLI

LARGEST_TOTAL = 2.0**50
"""Whole units that all costs of a programme may add up to."""

_EFFORT = 10.0  # of the solver's deterministic time; a unit is a second or a few

# OR-Tools' expressions take and give anything that is linear.
Linear = Any


class NoSolutionError(Exception):
    """Nothing satisfies a programme."""


class UndecidedError(Exception):
    """Nothing was found that satisfies a programme, nor that nothing does."""


def units_for(total: float) -> float:
    """How many whole units to count a ms or mJ as, if costs add up to so much."""
    return min(UNITS_PER_MILLI, LARGEST_TOTAL / max(1.0, total))


def solve(model: cp_model.CpModel) -> tuple[cp_model.CpSolver, bool]:
    """Solve a programme, always alike.

    Returns:
        The solver, which knows the values, and whether they were proven to be the best.

    Raises:
        NoSolutionError: Nothing satisfies it.
        UndecidedError: The solver's effort did not suffice to tell.
        CompilerError: It is no programme.
    """
    solver = cp_model.CpSolver()
    # One worker and no clock: the same answer every time.
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = _EFFORT
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise NoSolutionError
    if status == cp_model.UNKNOWN:
        raise UndecidedError
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise CompilerError(f"an integer programme was not solved: {solver.status_name(status)}")
    return solver, status == cp_model.OPTIMAL
