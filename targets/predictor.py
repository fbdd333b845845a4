"""Predictors: how long a layer takes on a machine, before it has been compiled for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from partc.errors import PartcError
from partc.graph import Layer
from partc.targets.target import Target


class UnknownLayerError(PartcError):
    """A predictor has nothing to predict a layer's time from."""


class Predictor(Protocol):
    """Whatever can tell how long a layer takes on one machine."""

    def latency_ms(self, layer: Layer) -> float:
        """Time of one run of the layer, alone on the machine.

        Raises:
            UnknownLayerError: The predictor does not know the layer; it never guesses.
        """
        ...


@dataclass(frozen=True)
class Roofline:
    """The time that a layer's arithmetic or its memory traffic needs, whichever is longer.

    A prior for machines that have not been profiled; it knows every layer. The bound is from
    Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for
    Multicore Architectures" (CACM 2009); scaling the peak by the fraction that a platform reaches
    from Qi, Sparks and Talwalkar, "Paleo: A Performance Model for Deep Neural Networks"
    (ICLR 2017).
    """

    target: Target

    def latency_ms(self, layer: Layer) -> float:
        bound_ms = max(self._compute_ms(layer), self._memory_ms(layer))
        return bound_ms + self.target.launch_overhead_us / 1e3

    def _compute_ms(self, layer: Layer) -> float:
        reached_gflops = self.target.peak_gflops * self.target.achieved_fraction
        return layer.flops / (reached_gflops * 1e6)

    def _memory_ms(self, layer: Layer) -> float:
        nbytes = layer.input_nbytes + layer.weight_nbytes + layer.output_nbytes
        return nbytes / (self.target.memory_bandwidth_gb_s * 1e6)
