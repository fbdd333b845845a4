"""The manifest of a bundle: what is in it, how it was made, and what every file must hash to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from partc.errors import BundleError
from partc.goal import Constraints
from partc.plan import Interval, Objective

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"

_PROGRAMS = frozenset(("device/client.py", "server/server.py"))


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a manifest."""


class TensorEntry(_Part, frozen=True, kw_only=False):
    """A tensor of the model's signature or at a cut."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class SentEntry(TensorEntry, frozen=True, kw_only=False):
    """A tensor that the device sends, in which encoding, and how many bytes that is on average."""

    encoding: str
    nbytes: int


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
    upload: tuple[SentEntry, ...]
    download: tuple[TensorEntry, ...]
    device_ms: float
    server_ms: float
    device_mj: float
    upload_nbytes: int
    download_nbytes: int


class _Header(msgspec.Struct, frozen=True):
    """What a manifest of any version has."""

    schema_version: int
    partc_version: str
    files: Mapping[str, str]


class Manifest(_Part, frozen=True):
    """Everything that a bundle says about itself.

    ``preprocess`` says of inputs that are images how the model normalises them, and
    ``image_inputs`` names those that come as JPEG or PNG files.

    ``files`` holds the SHA-256 of every file but the manifest, by its path in the bundle. It tells
    a damaged bundle from a whole one; against somebody who can write a manifest it is no help.

    Raises:
        ValueError: A file lies outside of the bundle, or a half is not listed.
    """

    schema_version: int
    partc_version: str
    tvm_version: str
    model: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    preprocess: Mapping[str, str]
    image_inputs: tuple[str, ...]
    target: str
    server: str
    objective: Objective
    ms_per_mj: float
    rate_hz: float
    server_busy: Interval
    network: Mapping[str, Interval]
    constraints: Constraints
    default_plan: str
    links: tuple[LinkEntry, ...]
    segments: tuple[SegmentEntry, ...]
    plans: tuple[PlanEntry, ...]
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name!r} is no file of a bundle")
        missing = sorted(_PROGRAMS - self.files.keys())
        if missing:
            raise ValueError(f"no digest is given for {', '.join(missing)}")


def manifest_json(manifest: Manifest) -> bytes:
    """The manifest as JSON text; the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest and check every file against it.

    Raises:
        BundleError: There is no bundle, it is of another version, or a file is missing, cannot be
            read, or differs.
    """
    manifest = _decode(_read_text(bundle), bundle)
    for name, digest in manifest.files.items():
        _check_file(bundle / name, digest)
    return manifest


def written_files(bundle: Path) -> frozenset[str] | None:
    """Every file that partc, of whatever version, wrote to a bundle; None if it is no bundle."""
    try:
        header = msgspec.json.decode((bundle / MANIFEST_NAME).read_bytes(), type=_Header)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return frozenset((MANIFEST_NAME, *header.files))


def hash_files(bundle: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by its path there, sorted."""
    paths = sorted(path for path in bundle.rglob("*") if path.is_file())
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def _read_text(bundle: Path) -> bytes:
    path = bundle / MANIFEST_NAME
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{bundle} is no bundle: it has no {MANIFEST_NAME}; give the directory that "
            "partc compile wrote"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _decode(text: bytes, bundle: Path) -> Manifest:
    try:
        version = msgspec.json.decode(text, type=_Header).schema_version
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{bundle / MANIFEST_NAME} is damaged: {error}; compile the model again"
        ) from error
    raise BundleError(
        f"{bundle} has manifest version {version}, this partc reads {SCHEMA_VERSION}; "
        "compile the model again"
    )


def _check_file(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except OSError as error:
        raise _unreadable(path, error) from error
    if found is None:
        raise BundleError(f"{path} is missing; copy the bundle again or compile it again")
    if found != expected:
        raise BundleError(f"{path} has changed since the bundle was written; compile it again")


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be read: {error.strerror}; make it readable or compile the model again"
    )
