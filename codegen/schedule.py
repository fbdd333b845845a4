# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# TVM ships no types
"""Which schedule each function of a CPU gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.dlight.base import ScheduleRule

from partc.codegen.kernels import convolution, layout, lrn, matmul, pool, reduce, sliding, winograd
from partc.codegen.kernels.common import RULE, Block, Sch
from partc.codegen.kernels.default import schedule_default
from partc.codegen.machine import Machine

_RULES: Mapping[str, Callable[[Sch, Block, Machine], None]] = {
    convolution.RULE: convolution.schedule_conv2d,
    layout.RULE: layout.schedule_transposition,
    lrn.RULE: lrn.schedule_lrn,
    matmul.RULE: matmul.schedule_matmul,
    pool.GLOBAL_RULE: pool.schedule_global_pool,
    reduce.RULE: reduce.schedule_reduce,
    sliding.RULE: sliding.schedule_sliding,
    winograd.RULE: winograd.schedule_winograd,
}


@dataclass(frozen=True)
class KernelRules(ScheduleRule):
    """Schedules a function by the rule that its anchor names, or else by the default one.

    Args:
        machine: The CPU to schedule for.
    """

    machine: Machine

    def apply(self, func: tvm.tirx.PrimFunc, target: Any, tunable: bool) -> Sch:  # noqa: ARG002
        schedule: Sch = Schedule(func)
        anchors = {
            str(schedule.get(block).annotations[RULE]): block
            for block in _blocks(schedule)
            if RULE in schedule.get(block).annotations
        }
        for rule, anchor in anchors.items():
            _RULES[rule](schedule, anchor, self.machine)
        if not anchors:
            schedule_default(schedule, self.machine)
        return schedule


def _blocks(schedule: Sch) -> Sequence[Block]:
    """The blocks of a function, which may be a single one."""
    root = schedule.get_sblock(schedule.mod["main"].body.block.name_hint)
    return schedule.get_child_blocks(root) or [root]
