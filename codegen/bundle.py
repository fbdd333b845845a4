"""Write a bundle: whole, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from partc.errors import BundleError
from partc.goal import Goal
from partc.manifest import (
    SCHEMA_VERSION,
    LinkEntry,
    Manifest,
    PlanEntry,
    SegmentEntry,
    SentEntry,
    TensorEntry,
    hash_files,
    written_files,
)
from partc.plan import NamedPlan, PlanTable
from partc.report.decision import Decision
from partc.runtime.spec import ModelSpec, PlanSpec, SentSpec, TensorSpec


def check_output(output: Path) -> None:
    """Refuse to write where a bundle cannot be put, or over anything but a bundle.

    Raises:
        BundleError: Says what is there.
    """
    place = output.resolve()
    if Path.cwd().is_relative_to(place) or place.is_mount():
        raise BundleError(
            f"{output} is the current directory, one above it or a mount point, which cannot be "
            "replaced; give a directory in it with -o"
        )
    if place.is_dir():
        _check_replaceable(output)
    elif place.exists():
        raise BundleError(f"{output} is a file, so it is left alone; give a directory with -o")
    if not place.parent.is_dir():
        raise BundleError(f"there is no directory {place.parent} to write {place.name} in")
    try:
        tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent).cleanup()
    except OSError as error:
        raise BundleError(
            f"{place.parent} cannot be written to ({error.strerror}); "
            "give another directory with -o"
        ) from error


def _check_replaceable(directory: Path) -> None:
    """Refuse a directory that holds something that partc did not write."""
    found = {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if not path.is_dir() and path.parent.name != "__pycache__"
    }
    if not found:
        return
    written = written_files(directory)
    if written is None:
        raise BundleError(
            f"{directory} exists and is no bundle, so it is left alone; give another directory "
            "with -o"
        )
    strangers = sorted(found - written)
    if strangers:
        raise BundleError(
            f"{directory} holds {strangers[0]!r}, which is no part of the bundle there, so it is "
            "left alone; move that away or give another directory with -o"
        )


@contextmanager
def staged(output: Path) -> Generator[Path]:
    """A directory to write into, which becomes ``output`` if nothing goes wrong.

    A bundle that is already there stays until the new one is complete.

    Raises:
        BundleError: The file system refuses, for example because it is full.
    """
    place = output.resolve()
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as workspace:
            staging = Path(workspace) / "new"
            staging.mkdir()
            yield staging
            _replace(place, staging, Path(workspace) / "old")
    except OSError as error:
        raise BundleError(f"{output} cannot be written: {error}") from error


def _replace(place: Path, new: Path, old: Path) -> None:
    """Put ``new`` in its place, and what was there at ``old``; on any failure, put that back."""
    try:
        if place.exists():
            place.rename(old)
        new.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise


def describe_bundle(
    model: ModelSpec,
    table: PlanTable,
    goal: Goal,
    decisions: Sequence[Decision],
    staging: Path,
    preprocess: Mapping[str, str] = {},
) -> Manifest:
    """The manifest of a bundle whose other files are all in place."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        partc_version=metadata.version("partc"),
        tvm_version=metadata.version("apache-tvm"),
        model=model.name,
        inputs=_entries(model.inputs),
        outputs=_entries(model.outputs),
        preprocess=preprocess,
        image_inputs=model.image_inputs,
        target=goal.target.name,
        server=goal.server.name,
        objective=goal.objective,
        ms_per_mj=goal.ms_per_mj,
        rate_hz=goal.rate_hz,
        server_busy=goal.server_busy,
        network=dict(goal.network),
        constraints=goal.constraints,
        default_plan=model.default_plan,
        links=tuple(_link_entry(decision, table) for decision in decisions),
        segments=tuple(
            SegmentEntry(
                name=segment.name,
                layers=segment.layers,
                inputs=tuple(tensor.name for tensor in segment.inputs),
                outputs=tuple(tensor.name for tensor in segment.outputs),
            )
            for segment in table.segments
        ),
        plans=tuple(map(_plan_entry, model.plans, table.plans)),
        files=hash_files(staging),
    )


def _link_entry(decision: Decision, table: PlanTable) -> LinkEntry:
    return LinkEntry(
        name=decision.link,
        uplink_mbps=decision.conditions.uplink_mbps,
        downlink_mbps=decision.conditions.downlink_mbps,
        round_trip_ms=decision.conditions.round_trip_ms,
        plan=table.find(decision.plan.cut).name,
    )


def _plan_entry(spec: PlanSpec, named: NamedPlan) -> PlanEntry:
    return PlanEntry(
        name=spec.name,
        version=spec.version,
        device_segments=spec.device_segments,
        server_segments=spec.server_segments,
        upload=tuple(map(_sent_entry, spec.upload)),
        download=_entries(spec.download),
        device_ms=float(named.plan.device_ms),
        server_ms=float(named.plan.server_ms),
        device_mj=float(named.plan.device_mj),
        upload_nbytes=named.plan.upload_nbytes,
        download_nbytes=named.plan.download_nbytes,
    )


def _sent_entry(sent: SentSpec) -> SentEntry:
    return SentEntry(sent.name, sent.dtype, sent.shape, sent.encoding, sent.nbytes)


def _entries(tensors: Sequence[TensorSpec]) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
