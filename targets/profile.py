"""Profiles: what was measured on a machine, and the predictor that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec

from partc.errors import TargetError
from partc.graph import Layer
from partc.targets.features import Workload, describe
from partc.targets.predictor import Prediction, Roofline
from partc.targets.regression import Fit, Regression
from partc.targets.target import Target, TvmAttribute

SCHEMA_VERSION = 4

_Time = Annotated[float, msgspec.Meta(gt=0)]


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer that was measured.

    Args:
        network: The number of the network in which it was.
        workload: What is known of the layer.
        latency_ms: The 20th percentile of its runs.
        spread: How much longer the 80th percentile is, relative to it.
    """

    network: int
    workload: Workload
    latency_ms: _Time
    spread: Annotated[float, msgspec.Meta(ge=0)]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured on a machine.

    Args:
        target: Name of the target that layers were compiled for.
        tvm: Its attributes.
        threads: Threads that they computed with.
        processor: What the machine calls its processor.
        samples: All measurements.
        fits: What a search has found for each family of layers.
        references_ms: What the same network took, the best time of each round of measurements.
        schema_version: Of this format.
    """

    target: str
    tvm: dict[str, TvmAttribute | dict[str, TvmAttribute]]
    threads: int
    processor: str
    samples: tuple[Sample, ...]
    fits: dict[str, Fit]
    references_ms: tuple[_Time, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def workloads(self) -> list[Workload]:
        """Of the samples."""
        return [sample.workload for sample in self.samples]

    @property
    def latencies_ms(self) -> list[float]:
        """Of the samples."""
        return [sample.latency_ms for sample in self.samples]

    @property
    def networks(self) -> int:
        """How many networks the samples are from."""
        return len({sample.network for sample in self.samples})

    @property
    def drift(self) -> float:
        """How much longer the reference took in the worst round than in the best, relatively."""
        times_ms = self.references_ms or (1.0,)
        return max(times_ms) / min(times_ms) - 1


class _Version(msgspec.Struct, frozen=True):
    """What profiles of all versions have."""

    schema_version: int


def load_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        TargetError: There is no such file, or it holds no profile of this version.
    """
    try:
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(text, type=Profile)
    except OSError as error:
        raise TargetError(f"the profile {path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise TargetError(f"{path} is no profile: {error}; `partc profile` writes them") from error
    raise TargetError(
        f"{path} is a profile of version {version}, and this partc reads version "
        f"{SCHEMA_VERSION}; profile the machine again"
    )


class Measured:
    """Predicts by regression on what was measured, and by the roofline what is unlike all of it.

    Args:
        target: The machine.
        profile: What was measured on it.
    """

    def __init__(self, target: Target, profile: Profile) -> None:
        self._roofline = Roofline(target)
        self._regression = Regression(profile.workloads, profile.latencies_ms, profile.fits)

    def predict(self, layers: Sequence[Layer]) -> list[Prediction]:
        known = self._regression.predict(describe(layers))
        pairs = zip(known, self._roofline.predict(layers), strict=True)
        return [found or replace(bound, extrapolated=True) for found, bound in pairs]
