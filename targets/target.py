"""Targets: the machines that partc plans and compiles for."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from partc.errors import TargetError
from partc.targets.catalog import (
    Catalog,
    Description,
    require_not_negative,
    require_positive,
)
from partc.targets.load import LoadCurve, processor_sharing

TvmAttribute = str | int | list[str]


class Target(Description, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine: what TVM compiles for it, how fast it is and what power it draws.

    Args:
        tvm: Attributes of the TVM target: a ``tag``, or a ``kind`` with what it needs, and a
            ``host`` for a GPU's host code. ``mcpu = "native"`` is for code generation to resolve.
        threads: Threads that the kernels use on the CPU.
        peak_gflops: Single-precision peak of all the threads together, or of the GPU.
        memory_bandwidth_gb_s: In 10^9 bytes a second.
        launch_overhead_us: What starting one kernel costs.
        memory_gb: In 10^9 bytes.
        idle_watts: Power of the whole machine while it waits.
        busy_watts: Power of the whole machine while it computes.
        achieved_fraction: The part of the peak that compiled kernels reach, in (0, 1].
        l1_cache_kib: One core's first-level data cache. Kernels for GPUs look at neither cache, so
            targets with a GPU leave both at what is usual.
        l2_cache_kib: One core's second-level cache, or its share of one.
        entry_ms: What a request costs a machine that has waited, however little it computes.
        cold_share: How much longer layers take there than in runs back to back, relative to them.
        codec_slowdown: How many times longer than on the machine that ``targets/encodings.py`` was
            measured on one core encodes and decodes tensors; with a GPU, a core of its host.
        uncompilable: Why partc can plan for this target but not compile, if so.
        profile: Path of a profile that was measured on it, from the file's directory.
        load: How much longer a request takes while it computes others, as measured on it.

    Raises:
        ValueError: A figure is out of its range, or ``tvm`` has neither a tag nor a kind.
    """

    tvm: dict[str, TvmAttribute | dict[str, TvmAttribute]]
    peak_gflops: float
    memory_bandwidth_gb_s: float
    launch_overhead_us: float
    memory_gb: float
    idle_watts: float
    busy_watts: float
    threads: int = 1
    achieved_fraction: float = 1.0
    l1_cache_kib: int = 32
    l2_cache_kib: int = 256
    entry_ms: float = 0.0
    cold_share: float = 0.0
    codec_slowdown: float = 1.0
    uncompilable: str | None = None
    profile: str | None = None
    load: LoadCurve | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "threads", "peak_gflops", "memory_bandwidth_gb_s", "memory_gb")
        require_positive(self, "busy_watts", "achieved_fraction", "l1_cache_kib", "l2_cache_kib")
        require_positive(self, "codec_slowdown")
        require_not_negative(self, "launch_overhead_us", "idle_watts", "entry_ms", "cold_share")
        if self.achieved_fraction > 1:
            raise ValueError(f"achieved_fraction must be at most 1, not {self.achieved_fraction}")
        if self.idle_watts > self.busy_watts:
            raise ValueError(
                f"idle_watts must not exceed busy_watts, {self.idle_watts} > {self.busy_watts}"
            )
        if not self.tvm.keys() & {"tag", "kind"}:
            raise ValueError("tvm needs a tag or a kind")
        if self.uncompilable == "":
            raise ValueError("uncompilable must give a reason or be left out")

    @property
    def load_curve(self) -> LoadCurve:
        """What was measured, or else processor sharing.

        A machine is taken for one of as many cores as threads, unless ``tvm`` says ``num-cores``.
        """
        cores = self.tvm.get("num-cores")
        known = cores if isinstance(cores, int) else self.threads
        return self.load or processor_sharing(self.threads, known)


_CATALOG = Catalog(kind="target", folder="boards", type=Target)


def load_target(name_or_path: str) -> Target:
    """Look up a built-in target by name or alias, or read one from a ``.toml`` file.

    Raises:
        TargetError: No such target or file, or the file describes no valid target.
    """
    target = _CATALOG.load(name_or_path)
    if target.profile is None:
        return target
    return replace(target, profile=str(Path(name_or_path).parent / target.profile))


def write_target(target: Target, path: Path) -> None:
    """Describe a target in a ``.toml`` file.

    Raises:
        TargetError: The file cannot be written.
    """
    fields: dict[str, object] = msgspec.to_builtins(target)
    given = {name: value for name, value in fields.items() if value not in (None, [], {})}
    try:
        path.write_bytes(msgspec.toml.encode(given))
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}") from error


def builtin_targets() -> tuple[Target, ...]:
    """The targets that come with partc, sorted by name."""
    return _CATALOG.builtins()
