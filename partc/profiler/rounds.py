"""Rounds of measurements, taken again where something else disturbed the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from partc.profiler.drawn import DrawnNetwork
from partc.profiler.stopwatch import Board, settle
from partc.targets.profile import Sample

_DISTURBED = 0.05
"""How much slower than at its best the reference shows that something else is running."""
_KEPT = 8
"""How many rounds stay at hand to be measured again; their libraries and weights take memory."""
_LEAST_MS = 1e-4
"""What a layer that takes nothing is said to take: logarithms need a time above zero."""


@dataclass(frozen=True)
class _Round:
    """Networks that took turns.

    Args:
        drawn: The networks, the reference first; none once they are not at hand any more.
        measured: The layers of each, at their fastest.
        turns: How often they were measured.
    """

    drawn: Sequence[DrawnNetwork]
    measured: Sequence[Sequence[Sample]]
    turns: int

    @property
    def reference_ms(self) -> float:
        return _total_ms(self.measured[0])


class Rounds:
    """What was measured in one go, round by round.

    What disturbs a machine may last for a minute. In each round the same reference is measured,
    too; where it took longer than at other times, the round is measured again after later ones,
    and for each layer the shortest time counts.

    Args:
        reference: A network.
        board: Where to measure.
        earlier_ms: What the reference took in rounds of before.
    """

    def __init__(
        self, reference: DrawnNetwork, board: Board, earlier_ms: Sequence[float] = ()
    ) -> None:
        self._reference = reference
        self._board = board
        self._earlier_ms = earlier_ms
        self._rounds: list[_Round] = []

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The layers of all networks but the reference."""
        return tuple(chain(*(chain(*each.measured[1:]) for each in self._rounds)))

    @property
    def references_ms(self) -> tuple[float, ...]:
        """What the reference took in each round, of which only the fastest times count."""
        return tuple(each.reference_ms for each in self._rounds)

    def measure(self, drawn: Sequence[DrawnNetwork]) -> None:
        """Measure networks, as one more round."""
        together = (self._reference, *drawn)
        self._rounds.append(_Round(together, measure(together, self._board), 1))
        if len(self._rounds) > _KEPT:
            self._rounds[-1 - _KEPT] = replace(self._rounds[-1 - _KEPT], drawn=())

    def repeat_disturbed(self) -> bool:
        """Measure a disturbed round again, of several the one that had the fewest turns.

        Returns:
            Whether there was one.
        """
        least_ms = min((*self._earlier_ms, *self.references_ms))
        disturbed = [
            position
            for position, each in enumerate(self._rounds)
            if each.drawn and each.reference_ms > (1 + _DISTURBED) * least_ms
        ]
        if not disturbed:
            return False
        position = min(disturbed, key=lambda position: self._rounds[position].turns)
        before = self._rounds[position]
        again = measure(before.drawn, self._board)
        fastest = [list(map(_faster, *pair)) for pair in zip(before.measured, again, strict=True)]
        self._rounds[position] = _Round(before.drawn, fastest, before.turns + 1)
        return True


def measure(drawn: Sequence[DrawnNetwork], board: Board) -> list[list[Sample]]:
    """Time the layers of networks, each of them."""
    times_ms = settle([board.load(each.network, each.inputs) for each in drawn])
    return [
        [
            Sample(each.number, workload, float(low), float(high / low) - 1)
            for workload, low, high in zip(
                each.workloads, *np.maximum(percentiles, _LEAST_MS), strict=True
            )
        ]
        for each, percentiles in zip(drawn, times_ms, strict=True)
    ]


def _faster(one: Sample, other: Sample) -> Sample:
    return min(one, other, key=lambda sample: sample.latency_ms)


def _total_ms(samples: Sequence[Sample]) -> float:
    return sum(sample.latency_ms for sample in samples)
