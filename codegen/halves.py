"""Compile one half of a bundle: its segments as a library, and their weights beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from partc.codegen.build import build_library, find_machine, resolve_target
from partc.codegen.lower import LoweredSegments, lower_segments
from partc.codegen.sequences import Run, add_sequences
from partc.graph import LayerGraph, Tensor
from partc.plan import PlanTable, Segment, Side
from partc.runtime.spec import ArtifactSpec
from partc.targets.target import Target

_LIBRARY = "model.so"
_PARAMS = "params.npz"


def build_half(
    graph: LayerGraph,
    table: PlanTable,
    side: Side,
    target: Target,
    directory: Path,
    report: Callable[[str], None] = lambda _: None,
) -> ArtifactSpec:
    """Compile the segments that run on a side in any plan.

    Args:
        graph: The layers, with their payloads.
        table: The plans and their segments.
        side: Which half.
        target: What to compile for.
        directory: Where the library and the weights go.
        report: Called with what is worth knowing about the kernels, in a line of text.

    Raises:
        TargetError: Nothing installed compiles for the target.
        CompilerError: TVM or the linker failed.
    """
    segments = _segments_of(table, side)
    lowered = lower_segments(graph, segments, find_machine(target), _visible(table))
    if lowered.without_rule:
        report(_describe_default(lowered.without_rule, graph))
    return write_artifact(lowered, segments, _runs(graph, table, side), target, directory)


def write_artifact(
    lowered: LoweredSegments,
    segments: Sequence[Segment],
    runs: Sequence[Run],
    target: Target,
    directory: Path,
) -> ArtifactSpec:
    """Compile lowered segments to a library, and write their weights beside it.

    Args:
        lowered: The segments as functions.
        segments: The same segments.
        runs: Which of them are called in a row.
        target: What to compile for.
        directory: Where both files go.

    Raises:
        TargetError: Nothing installed compiles for the target.
        CompilerError: TVM or the linker failed.
    """
    specs = tuple(map(lowered.describe, segments))
    module, sequences = add_sequences(lowered.module, specs, runs)
    build_library(module, target, directory / _LIBRARY)
    np.savez(directory / _PARAMS, allow_pickle=False, **lowered.weights)
    return ArtifactSpec(
        library=_LIBRARY,
        library_sha256=_sha256(directory / _LIBRARY),
        params=_PARAMS,
        params_sha256=_sha256(directory / _PARAMS),
        segments=specs,
        device="cuda" if resolve_target(target).kind.name == "cuda" else "cpu",
        threads=target.threads,
        blocked=lowered.blocked,
        sequences=sequences,
    )


def _runs(graph: LayerGraph, table: PlanTable, side: Side) -> list[Run]:
    """What plans run on a side, and what others then want of it; nothing twice.

    Plans that differ in how they send tensors run the same.
    """
    outputs = _names(graph.outputs)
    runs = (
        Run(each.server_segments, _names(each.plan.download))
        if side is Side.SERVER
        else Run(each.device_segments, _names(each.plan.upload) | outputs)
        for each in table.plans
    )
    return list(dict.fromkeys(runs))


def _names(tensors: Iterable[Tensor]) -> frozenset[str]:
    return frozenset(tensor.name for tensor in tensors)


def _describe_default(names: Sequence[str], graph: LayerGraph) -> str:
    kinds = sorted({graph.by_name[name].kind for name in names})
    return (
        f"{len(names)} of {len(graph.layers)} layers fit no rule for kernels and get the "
        f"default schedule: {', '.join(kinds)}"
    )


def _visible(table: PlanTable) -> frozenset[str]:
    """The tensors that the wire or the caller sees."""
    plans = [named.plan for named in table.plans]
    return _names(tensor for plan in plans for tensor in (*plan.upload, *plan.download))


def _segments_of(table: PlanTable, side: Side) -> list[Segment]:
    used = {
        name
        for named in table.plans
        for name in (named.device_segments if side is Side.DEVICE else named.server_segments)
    }
    return [segment for segment in table.segments if segment.name in used]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
