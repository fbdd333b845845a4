# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# TVM ships no types
"""Which schedule each function of a CPU gets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.s_tir import Schedule, ScheduleError
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

    A rule that fails is a fault of ours, but none that should keep a model from being compiled:
    it is told in a warning, and the default schedule takes over.

    Args:
        machine: The CPU to schedule for.
    """

    machine: Machine

    def apply(self, func: tvm.tirx.PrimFunc, target: Any, tunable: bool) -> Sch:  # noqa: ARG002
        schedule: Sch = Schedule(func)
        anchors = _anchors(schedule)
        try:
            for rule, anchor in anchors.items():
                _RULES[rule](schedule, anchor, self.machine)
        except (ScheduleError, tvm.error.InternalError) as error:
            reason = str(error).strip().splitlines()[-1]
            warnings.warn(
                f"{', '.join(anchors)} does not fit a kernel, which gets the default schedule: "
                f"{reason}",
                stacklevel=2,
            )
            schedule, anchors = Schedule(func), {}
        if not anchors:
            schedule_default(schedule, self.machine)
        return schedule


def _anchors(schedule: Sch) -> Mapping[str, Block]:
    """The anchors of a function by the names of their rules."""
    annotations = {block: schedule.get(block).annotations for block in _blocks(schedule)}
    return {str(found[RULE]): block for block, found in annotations.items() if RULE in found}


def _blocks(schedule: Sch) -> Sequence[Block]:
    """The blocks of a function, which may be a single one."""
    root = schedule.get_sblock(schedule.mod["main"].body.block.name_hint)
    return schedule.get_child_blocks(root) or [root]
