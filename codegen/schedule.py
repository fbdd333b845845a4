# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# TVM ships no types
"""Which schedule each function of a CPU gets."""

from __future__ import annotations

import math
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

_MOST_ELEMENTS = 1 << 30
"""How large a tensor may be for offsets in it, padding included, to be counted in 32 bits."""

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


class _TooLargeError(Exception):
    """Offsets in a tensor may not fit 32 bits."""


@dataclass(frozen=True)
class KernelRules(ScheduleRule):
    """Schedules a function by the rule that its anchor names, or else by the default one.

    A rule that fails is a fault of ours, but none that should keep a model from being compiled:
    it is told in a warning, and the default schedule takes over. So it does for huge tensors.

    Args:
        machine: The CPU to schedule for.
    """

    machine: Machine

    def apply(self, func: tvm.tirx.PrimFunc, target: Any, tunable: bool) -> Sch:  # noqa: ARG002
        schedule = self._by_rules(func)
        if schedule is None:
            schedule = Schedule(func)
            schedule_default(schedule, self.machine)
        return schedule

    def _by_rules(self, func: tvm.tirx.PrimFunc) -> Sch | None:
        names = ", ".join(_anchors(Schedule(func)))
        if not names:
            return None
        try:
            # Without this reference TVM would take itself for the only owner, and change in place
            # what ``func`` shares.
            narrow = _with_narrow_loops(func)
            schedule: Sch = Schedule(narrow)
            for rule, anchor in _anchors(schedule).items():
                _RULES[rule](schedule, anchor, self.machine)
        except (ScheduleError, _TooLargeError, tvm.error.InternalError) as error:
            reason = str(error).strip().splitlines()[-1]
            warnings.warn(
                f"{names} does not fit a kernel, which gets the default schedule: {reason}",
                stacklevel=3,
            )
            return None
        return schedule


def _with_narrow_loops(func: Any) -> Any:
    """Count in 32 bits, where nothing holds larger numbers.

    TVM does so by itself, but then drops what schedules say about loops that had counted in 64.
    """
    variables = (*func.params, *func.body.block.alloc_buffers)
    tensors: list[Any] = [variable.ty for variable in variables]
    if any(math.prod(int(size) for size in each.shape) > _MOST_ELEMENTS for each in tensors):
        raise _TooLargeError(f"tensors of more than {_MOST_ELEMENTS} elements")
    if any(each.dtype == "int64" for each in tensors):
        return func
    module: Any = tvm.tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": func}))
    return module["main"]


def _anchors(schedule: Sch) -> Mapping[str, Block]:
    """The anchors of a function by the names of their rules."""
    annotations = {block: schedule.get(block).annotations for block in _blocks(schedule)}
    return {str(found[RULE]): block for block, found in annotations.items() if RULE in found}


def _blocks(schedule: Sch) -> Sequence[Block]:
    """The blocks of a function, which may be a single one."""
    root = schedule.get_sblock(schedule.mod["main"].body.block.name_hint)
    return schedule.get_child_blocks(root) or [root]
