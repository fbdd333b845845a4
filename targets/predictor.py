"""Predictors: how long layers take on a machine, before they have been compiled for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partc.errors import PartcError
from partc.graph import Layer
from partc.targets.target import Target


class UnknownLayerError(PartcError):
    """A predictor has nothing to predict a layer's time from."""


@dataclass(frozen=True)
class Prediction:
    """How long one run of a layer takes.

    Args:
        latency_ms: In a model that runs alone on the machine.
        error: The standard deviation to expect, relative to the time.
        extrapolated: Nothing like the layer was among what the predictor was made from.
    """

    latency_ms: float
    error: float
    extrapolated: bool = False


class Predictor(Protocol):
    """Whatever can tell how long layers take on one machine."""

    def predict(self, layers: Sequence[Layer]) -> Sequence[Prediction | None]:
        """Times of a model's layers; None for one that the predictor does not know.

        It never guesses.
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

    def predict(self, layers: Sequence[Layer]) -> list[Prediction]:
        return [Prediction(self._latency_ms(layer), ROOFLINE_ERROR) for layer in layers]

    def latency_ms(self, flops: float, nbytes: float) -> float:
        """The time of one kernel that computes and moves so much."""
        reached_gflops = self.target.peak_gflops * self.target.achieved_fraction
        compute_ms = flops / (reached_gflops * 1e6)
        memory_ms = nbytes / (self.target.memory_bandwidth_gb_s * 1e6)
        return max(compute_ms, memory_ms) + self.target.launch_overhead_us / 1e3

    def _latency_ms(self, layer: Layer) -> float:
        nbytes = layer.input_nbytes + layer.weight_nbytes + layer.output_nbytes
        return self.latency_ms(layer.flops, nbytes)


ROOFLINE_ERROR = 0.5
"""The relative error that is assumed of the roofline: what was seen on CPUs, rounded."""


def predictor_for(target: Target) -> Predictor:
    """The best predictor that there is for a target: its profile, or else the roofline.

    Raises:
        TargetError: The target names a profile that cannot be read.
    """
    if target.profile is None:
        return Roofline(target)
    # What regressions need takes a second to load.
    from partc.targets.profile import Measured, load_profile

    return Measured(target, load_profile(Path(target.profile)))
