"""The facts about one model that generated glue hands to the runtime."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that callers or the wire see: its name, NumPy dtype and fixed shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SentSpec(TensorSpec):
    """A tensor that the device sends, in which encoding, and how many bytes that is on average."""

    encoding: str = "plain"
    nbytes: int = 0


@dataclass(frozen=True)
class SegmentSpec:
    """One compiled function.

    Args:
        name: The function's name in the library.
        inputs: Names of the tensors it takes, in order.
        params: Names of the weights it takes after them, in order.
        outputs: Names of the tensors it returns, in order.
    """

    name: str
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class SequenceSpec(SegmentSpec):
    """Segments that a plan runs one after the other, compiled as one function.

    Args:
        segments: Names of the segments, in the order in which they run.
    """

    segments: tuple[str, ...]


@dataclass(frozen=True)
class BlockedSpec:
    """A tensor that segments hold in the kernels' own layout, and everyone else as it is.

    Args:
        tensor: The tensor's name.
        to_plain: The function that brings it into the layout of its shape.
        to_blocked: The function that brings it into the kernels' layout.
    """

    tensor: str
    to_plain: SegmentSpec
    to_blocked: SegmentSpec


@dataclass(frozen=True)
class PlanSpec:
    """Which segments run where, and which tensors travel.

    ``version`` is the model version under which the server offers its part; ``device_ms`` and
    ``server_ms`` are what either side is predicted to take for it. A plan that is not ``eligible``
    does not keep what was asked of plans; it runs if it is asked for by name.
    """

    name: str
    version: int
    device_segments: tuple[str, ...]
    server_segments: tuple[str, ...]
    upload: tuple[SentSpec, ...]
    download: tuple[TensorSpec, ...]
    device_ms: float = 0.0
    server_ms: float = 0.0
    eligible: bool = True


@dataclass(frozen=True)
class ModelSpec:
    """The signature of a model and its plans; the same in both halves of a bundle.

    ``digest`` follows from the code and the weights of both halves and from what plans send, so
    that halves of different bundles do not take each other for their own. ``image_inputs`` names
    the inputs that come as JPEG or PNG files.
    """

    name: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plans: tuple[PlanSpec, ...]
    default_plan: str
    image_inputs: tuple[str, ...] = ()

    @property
    def platform(self) -> str:
        """What the server says that it runs: partc, and which bundle of it."""
        return f"partc {self.digest}"


@dataclass(frozen=True)
class ArtifactSpec:
    """One half's compiled library and weights, with what they must hash to.

    Args:
        library: File name of the shared library.
        library_sha256: Hexadecimal digest of the library.
        params: File name of the weights, an ``.npz`` archive of arrays without pickles.
        params_sha256: Hexadecimal digest of the weights.
        segments: The functions in the library.
        device: ``cpu`` or ``cuda``: where tensors live while the half computes.
        threads: How many threads the kernels use; 0 means one for each core.
        blocked: The tensors whose layout differs inside and outside.
        sequences: What plans run in one call, of two segments or more.
    """

    library: str
    library_sha256: str
    params: str
    params_sha256: str
    segments: tuple[SegmentSpec, ...]
    device: str
    threads: int
    blocked: tuple[BlockedSpec, ...] = ()
    sequences: tuple[SequenceSpec, ...] = ()
