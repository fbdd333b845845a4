from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from partc.bundle import Bundle
from partc.errors import BundleError
from partc.manifest import Manifest, hash_files, manifest_json, read_manifest, written_files
from partc.plan import Side


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle.path, tmp_path / "copy")


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the JSON of a bundle's manifest."""
    document = json.loads((bundle / "manifest.json").read_bytes())
    edit(document)
    (bundle / "manifest.json").write_text(json.dumps(document))


def test_a_manifest_survives_its_own_json(tiny_bundle: Bundle) -> None:
    text = manifest_json(tiny_bundle.manifest)
    assert msgspec.json.decode(text, type=Manifest) == tiny_bundle.manifest
    assert (tiny_bundle.path / "manifest.json").read_bytes() == text


def test_it_says_what_was_compiled(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert (manifest.model, manifest.target, manifest.server) == ("tiny", "native", "native")
    assert [(entry.name, entry.dtype, entry.shape) for entry in manifest.inputs] == [
        ("x:0", "float32", (1, 3, 8, 8))
    ]
    assert [(plan.name, plan.version) for plan in manifest.plans] == [
        ("server-only", 0),
        ("device-only", 1),
        ("cut-1", 2),
    ]
    assert [segment.layers for segment in manifest.segments] == [("stem",), ("head",)]
    assert [(link.name, link.plan) for link in manifest.links] == [("wifi", "cut-1")]
    assert manifest.default_plan == "cut-1"
    assert manifest.constraints.pins == (("stem", Side.DEVICE), ("head", Side.SERVER))


def test_it_lists_every_file_but_itself(tiny_bundle: Bundle, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    shutil.copytree(tiny_bundle.path, fresh, ignore=shutil.ignore_patterns("__pycache__"))
    assert hash_files(fresh).keys() == {*tiny_bundle.manifest.files, "manifest.json"}


def test_a_copy_is_a_bundle(copy: Path, tiny_bundle: Bundle) -> None:
    assert read_manifest(copy) == tiny_bundle.manifest


@pytest.mark.parametrize(
    "name",
    [
        "device/model.so",
        "device/client.py",
        "device/params.npz",
        "device/runtime/executor.py",
        "server/__init__.py",
        "server/Dockerfile",
        "report.html",
    ],
)
def test_a_changed_byte_is_found(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"copy/{name} has changed since the bundle was written"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["device/model.so", "server/runtime/oip.py"])
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"copy/{name} is missing; copy the bundle again"):
        read_manifest(copy)


def test_a_file_that_became_a_directory_is_missing(copy: Path) -> None:
    (copy / "report.html").unlink()
    (copy / "report.html").mkdir()
    with pytest.raises(BundleError, match=r"report\.html is missing"):
        read_manifest(copy)


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json; give the dir"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "device/model.so"])
def test_a_file_that_may_not_be_read_is_named(
    copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == copy / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=f"copy/{name} cannot be read: Permission denied; "):
        read_manifest(copy)


def test_a_name_that_no_file_can_have_is_one_sentence(copy: Path) -> None:
    change(copy, lambda document: document["files"].update({"x" * 1000: "0" * 64}))
    with pytest.raises(BundleError, match="cannot be read: File name too long; "):
        read_manifest(copy)


@pytest.mark.parametrize("length", [0, 1, 100, -3])
def test_a_truncated_manifest_is_refused(copy: Path, length: int) -> None:
    text = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(text[:length])
    with pytest.raises(
        BundleError, match=r"manifest\.json is damaged: .*; compile the model again"
    ):
        read_manifest(copy)


@pytest.mark.parametrize("text", [b"[]", b"null", b"{}", b'"\xff"', b"\xff\xfe"])
def test_other_json_is_refused(copy: Path, text: bytes) -> None:
    (copy / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match="is damaged"):
        read_manifest(copy)


def test_another_version_is_named_even_if_it_has_other_fields(copy: Path) -> None:
    change(copy, lambda document: document.update(schema_version=4, signature="…"))
    with pytest.raises(BundleError, match="has manifest version 4, this partc reads 3; compile"):
        read_manifest(copy)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda document: document.update(extra=1), "unknown field `extra`"),
        (lambda document: document["plans"][0].update(extra=1), "unknown field `extra`"),
        (lambda document: document.pop("model"), "missing required field `model`"),
        (lambda document: document.update(objective="beauty"), "Invalid enum value 'beauty'"),
        (lambda document: document.update(target=7), "Expected `str`, got `int`"),
    ],
)
def test_a_manifest_of_other_fields_is_refused(
    copy: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    change(copy, edit)
    with pytest.raises(BundleError, match=f"is damaged: .*{problem}"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "device/../../x", ".."])
def test_a_file_outside_of_the_bundle_is_refused(copy: Path, name: str) -> None:
    (copy.parent / "x").write_text("not ours")
    change(copy, lambda document: document["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match=f"is damaged: .*'{name}' is no file of a bundle"):
        read_manifest(copy)


def test_a_half_cannot_escape_its_check_by_not_being_listed(copy: Path) -> None:
    change(copy, lambda document: document.update(files={}))
    with pytest.raises(BundleError, match=r"no digest is given for device/client\.py, server/"):
        read_manifest(copy)


class TestWrittenFiles:
    def test_are_those_of_the_manifest_and_itself(self, tiny_bundle: Bundle) -> None:
        files = written_files(tiny_bundle.path)
        assert files == {*tiny_bundle.manifest.files, "manifest.json"}

    @pytest.mark.parametrize("text", [None, "{}", "[", '{"name": "a web app", "version": 3}'])
    def test_are_unknown_without_a_manifest_of_ours(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "manifest.json").write_text(text)
        assert written_files(tmp_path) is None
