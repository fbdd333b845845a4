# pyright: reportMissingTypeStubs=false
# TVM ships no types
"""Vectors along loops that they need not divide."""

from __future__ import annotations

from partc.codegen.kernels.common import Loop, Sch, extent


def vectorize_along(schedule: Sch, loop: Loop, width: int) -> None:
    """Execute a loop in vectors of some width, and what is left over in a shorter one.

    A condition in the loop would make TVM take its iterations one by one; LLVM takes a vector of
    any length. Blocks cannot be moved into the loop afterwards.
    """
    left_over = extent(schedule, loop) % width
    if extent(schedule, loop) > width:
        if left_over:
            whole = extent(schedule, loop) - left_over
            loop, rest = schedule.loop_partition(loop, [whole, None])
            schedule.vectorize(rest)
        _, loop = schedule.split(loop, [None, width])
    schedule.vectorize(loop)
