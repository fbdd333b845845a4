"""Write a bundle: whole, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from partc.errors import BundleError
from partc.goal import Goal
from partc.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    LinkEntry,
    Manifest,
    PlanEntry,
    SegmentEntry,
    TensorEntry,
    hash_files,
)
from partc.plan import NamedPlan, PlanTable
from partc.report.decision import Decision
from partc.runtime.spec import ModelSpec, PlanSpec, TensorSpec


def check_output(output: Path) -> None:
    """Refuse to write where something other than a bundle is.

    Raises:
        BundleError: Says what is there.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() and not (output / MANIFEST_NAME).is_file():
        raise BundleError(
            f"{output} exists and is no bundle, so it is left alone; give another directory with -o"
        )
    parent = output.absolute().parent
    if not parent.is_dir():
        raise BundleError(f"there is no directory {parent} to write {output.name} in")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A directory to write into, which becomes ``output`` if nothing goes wrong.

    A bundle that is already there stays until the new one is complete.
    """
    output = output.absolute()
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as workspace:
        staging = Path(workspace) / "new"
        staging.mkdir()
        yield staging
        if output.exists():
            output.rename(Path(workspace) / "old")
        staging.rename(output)


def describe_bundle(
    model: ModelSpec,
    table: PlanTable,
    goal: Goal,
    decisions: Sequence[Decision],
    staging: Path,
) -> Manifest:
    """The manifest of a bundle whose other files are all in place."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        partc_version=metadata.version("partc"),
        tvm_version=metadata.version("apache-tvm"),
        model=model.name,
        inputs=_entries(model.inputs),
        outputs=_entries(model.outputs),
        target=goal.target.name,
        server=goal.server.name,
        objective=goal.objective,
        pins=goal.pins,
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
        upload=_entries(spec.upload),
        download=_entries(spec.download),
        device_ms=named.plan.device_ms,
        server_ms=named.plan.server_ms,
        device_mj=named.plan.device_mj,
        upload_nbytes=named.plan.upload_nbytes,
        download_nbytes=named.plan.download_nbytes,
    )


def _entries(tensors: Sequence[TensorSpec]) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
