"""The manifest of a bundle: what is in it, how it was made, and what every file must hash to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from partc.errors import BundleError
from partc.plan import Objective, Side

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a manifest."""


class TensorEntry(_Part, frozen=True, kw_only=False):
    """A tensor of the model's signature or at a cut."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class LinkEntry(_Part, frozen=True):
    """A link that a plan was made for, and that plan's name."""

    name: str
    uplink_mbps: float
    downlink_mbps: float
    round_trip_ms: float
    plan: str


class SegmentEntry(_Part, frozen=True):
    """A compiled function: its layers and the names of the tensors it takes and makes."""

    name: str
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class PlanEntry(_Part, frozen=True):
    """A plan, with the coefficients from which its cost under any conditions follows.

    latency_ms = device_ms + upload_nbytes / uplink + download_nbytes / downlink + round trip
    + server_ms x load.
    """

    name: str
    version: int
    device_segments: tuple[str, ...]
    server_segments: tuple[str, ...]
    upload: tuple[TensorEntry, ...]
    download: tuple[TensorEntry, ...]
    device_ms: float
    server_ms: float
    device_mj: float
    upload_nbytes: int
    download_nbytes: int


class Manifest(_Part, frozen=True):
    """Everything that a bundle says about itself."""

    schema_version: int
    partc_version: str
    tvm_version: str
    model: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    target: str
    server: str
    objective: Objective
    pins: tuple[tuple[str, Side], ...]
    default_plan: str
    links: tuple[LinkEntry, ...]
    segments: tuple[SegmentEntry, ...]
    plans: tuple[PlanEntry, ...]
    files: Mapping[str, str]


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as JSON text; the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and check every file against it.

    Raises:
        BundleError: There is no bundle, it is of another version, or a file is missing or differs.
    """
    try:
        text = (bundle / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{bundle} is no bundle: it has no {MANIFEST_NAME}; give the directory that "
            "partc compile wrote"
        ) from error
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{bundle / MANIFEST_NAME} is damaged: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise BundleError(
            f"{bundle} has manifest version {manifest.schema_version}, this partc reads "
            f"{SCHEMA_VERSION}; compile the model again"
        )
    _check_files(bundle, manifest.files)
    return manifest


def hash_files(bundle: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by its path there, sorted."""
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def _check_files(bundle: Path, expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        path = bundle / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the bundle again or compile it again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise BundleError(f"{path} has changed since the bundle was written; compile it again")
