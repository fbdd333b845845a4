# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# TVM ships no types
"""What the schedules of kernels share.

A kernel is a TE computation and a schedule for it. The computation marks its anchor, the block
that does the work, with the name of the rule that schedules it; TVM then fuses element-wise blocks
behind the anchor, and the rule finds anchor and tail in what has become one function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from partc.codegen.machine import Machine

# tvm.te.Tensor, and tvm.s_tir.Schedule with its handles to blocks and loops: declared wrongly.
Tensor: TypeAlias = Any
Sch: TypeAlias = Any
Block: TypeAlias = Any
Loop: TypeAlias = Any

RULE = "partc.rule"
"""The annotation of an anchor that names its rule."""

TILE = "partc.tile"
"""The annotation of an anchor that holds the tile it was planned for."""

PARTITION = "pragma_loop_partition_hint"
"""Has TVM compile apart the rounds of a loop in which a condition holds, so that it goes there."""

# What plans count with: a core like Zen 5, in cycles, to whose timings the rates were fitted.
PER_CYCLE = 2  # multiply-adds, and loads
L2_NBYTES_PER_CYCLE = 32
L3_NBYTES_PER_CYCLE = 16

_MOST_ACCUMULATORS = 20  # more of them spill, even of 32 registers

STACK = "global"
"""Where TVM puts a small buffer that one iteration uses. It allocates a "local" one each time."""

STACK_NBYTES = 1023
"""The largest buffer that TVM puts there; it allocates larger ones each time, too."""


def most_accumulators(machine: Machine) -> int:
    """How many vectors can be computed at a time: they need registers, and a place on the stack."""
    return min(_MOST_ACCUMULATORS, STACK_NBYTES // machine.vector_nbytes)


def anchor_attrs(rule: str, tile: Sequence[int] = ()) -> Mapping[str, Any]:
    """The attributes of a TE computation that make it an anchor."""
    return {RULE: rule} | ({TILE: list(tile)} if tile else {})


def tile_of(schedule: Sch, anchor: Block) -> tuple[int, ...]:
    """The tile that an anchor was planned for."""
    return tuple(int(extent) for extent in schedule.get(anchor).annotations[TILE])


def extent(schedule: Sch, loop: Loop) -> int:
    """How often a loop runs."""
    return int(schedule.get(loop).extent)


def fuse_tail(schedule: Sch, anchor: Block) -> Block:
    """Gather everything behind an anchor in one block, and return that block.

    The anchor's own result then goes to a buffer of its own, on the stack if that is small enough.
    An anchor with nothing behind it gets a block that copies its result out.
    """
    consumers = schedule.get_consumers(anchor)
    if not consumers:
        return schedule.cache_write(anchor, 0, STACK)
    tail = _last(schedule, anchor)
    for block in _between(schedule, anchor, tail):
        schedule.compute_inline(block)
    schedule.set_scope(anchor, 0, STACK)
    return tail


def _last(schedule: Sch, block: Block) -> Block:
    while consumers := schedule.get_consumers(block):
        block = consumers[0]
    return block


def _between(schedule: Sch, anchor: Block, tail: Block) -> list[Block]:
    """The blocks behind an anchor and before the tail, and what else only they read, in order."""
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    names = [schedule.get(block).name_hint for block in blocks]
    first = names.index(schedule.get(anchor).name_hint)
    last = names.index(schedule.get(tail).name_hint)
    return blocks[first + 1 : last]


def unroll_inner(schedule: Sch, block: Block, count: int) -> None:
    """Unroll the innermost loops of a block but the last, which becomes one vector operation."""
    loops = schedule.get_loops(block)
    schedule.vectorize(loops[-1])
    for loop in loops[-1 - count : -1]:
        schedule.unroll(loop)


def round_up(size: int, multiple: int) -> int:
    """The next multiple of a number."""
    return math.ceil(size / multiple) * multiple


def divisors(number: int) -> list[int]:
    """All divisors of a number, in order."""
    return [part for part in range(1, number + 1) if number % part == 0]
