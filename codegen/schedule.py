# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# TVM ships no types
"""A loop order for every CPU kernel: TVM's own CPU pipeline leaves naive loops.

A reduction's innermost loop is made one that walks along memory and carries no dependence, which
is what LLVM turns into vector instructions. Nothing is reassociated: every element is the same
sum in the same order as before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.dlight.analysis import SBlockInfo, normalize_prim_func
from tvm.s_tir.dlight.base import ScheduleRule

from partc.codegen.kernels import convolution, layout, matmul, pool, reduce, sliding, winograd
from partc.codegen.kernels.common import RULE
from partc.codegen.kernels.default import schedule_default
from partc.codegen.machine import Machine

# Waking the other threads takes a few microseconds, in which one thread gets this far.
_SERIAL_ITERATIONS = 1 << 15


_RULES = {
    convolution.RULE: convolution.schedule_conv2d,
    layout.RULE: layout.schedule_transposition,
    matmul.RULE: matmul.schedule_matmul,
    pool.GLOBAL_RULE: pool.schedule_global_pool,
    reduce.RULE: reduce.schedule_reduce,
    sliding.RULE: sliding.schedule_sliding,
    winograd.RULE: winograd.schedule_winograd,
}


@dataclass(frozen=True)
class KernelRules(ScheduleRule):
    """Schedules each function by the rule of its anchor.

    Args:
        machine: The CPU to schedule for.
    """

    machine: Machine

    def apply(self, func: tvm.tirx.PrimFunc, target: Any, tunable: bool) -> Schedule | None:
        schedule: Any = Schedule(func)
        anchors = [block for block in _blocks(schedule) if RULE in schedule.get(block).annotations]
        if not anchors:
            schedule_default(schedule, self.machine)
            return schedule
        for anchor in anchors:
            _RULES[str(schedule.get(anchor).annotations[RULE])](schedule, anchor, self.machine)
        return schedule


def _blocks(schedule: Any) -> Sequence[Any]:
    """The blocks of a function, which may be a single one."""
    root = schedule.get_sblock(schedule.mod["main"].body.block.name_hint)
    return schedule.get_child_blocks(root) or [root]


@dataclass(frozen=True)
class LoopOrder(ScheduleRule):
    """Vectorisable loops inside, parallel loops outside. What does not fit is left as it is.

    Args:
        threads: How many threads a kernel may use.
    """

    threads: int

    def apply(self, func: tvm.tirx.PrimFunc, target: Any, tunable: bool) -> Schedule | None:  # noqa: ARG002
        schedule: Any = Schedule(func)  # whose declared types are wrong
        blocks: Sequence[SBlockInfo] = normalize_prim_func(schedule) or ()
        try:
            for block in blocks:
                self._order(schedule, block)
        except ScheduleError:
            return None
        return schedule

    def _order(self, schedule: Any, block: SBlockInfo) -> None:
        loops = schedule.get_loops(block.block_rv)
        kinds = block.dom_kind()
        extents = [schedule.get(loop).extent for loop in loops]
        if len(loops) != len(kinds) or set(kinds) - {"S", "R"} or "S" not in kinds:
            return
        if not all(isinstance(extent, tvm.tirx.IntImm) for extent in extents):
            return
        spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
        reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
        inside = _walks_along_memory(schedule, block)
        outer = spatial[:-1] if inside or not reduced else spatial
        if reduced:
            schedule.reorder(*outer, *reduced, *spatial[len(outer) :])
        if outer and self.threads > 1 and math.prod(map(int, extents)) > _SERIAL_ITERATIONS:
            schedule.parallel(schedule.fuse(*outer))
        if reduced and inside:
            schedule.decompose_reduction(block.block_rv, reduced[0])


def _walks_along_memory(schedule: Any, block: SBlockInfo) -> bool:
    """Whether the last spatial loop moves the last index of something that the block reads."""
    statement = schedule.get(block.block_rv)
    variables = [iterator.var for iterator in statement.iter_vars]
    last = variables[block.dom_kind().rindex("S")]
    return any(_mentions(read.region[-1].min, last) for read in statement.reads if read.region)


def _mentions(expression: Any, variable: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expression, [(tvm.tirx.Var, found.append)], order="post")
    return any(each.same_as(variable) for each in found)
