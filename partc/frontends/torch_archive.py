"""Reads ``.pt2`` archives without running anything that is in them.

``torch.export.load`` unpickles in several places (sample inputs that the safe loader refuses,
weights and constants marked as pickled, custom objects, every part of an archive of the old
format), loads compiled libraries, and evaluates strings of the model as Python (symbolic shapes,
guards, names that become code). An archive that exercises any of them is refused before it is
loaded; see ``torch/export/pt2_archive/_package.py`` and ``torch/_export/serde/serialize.py`` of
torch 2.13 for the places.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader

from partc.errors import ModelError

_MODEL = "models/model.json"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_PAYLOADS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_HARMLESS_RECORD = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/.*"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_HARMLESS_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.\w+(\.\w+)?|_operator\.getitem"
)
_EVALUATED = ("as_expr", "expr_str", "as_graph", "as_custom_obj", "as_operator")
_NAMES = ("name", "fqn", "parameter_name", "buffer_name", "tensor_constant_name")
_NAME = re.compile(r"[\w.]*")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_KEYS = re.compile(r"""[\w\s.,:/"'\[\]-]*""")


def load_archive(path: Path) -> ExportedProgram:
    """Load what ``torch.export.save`` wrote.

    Raises:
        ModelError: There is no such file, it is no archive of this kind, or it holds something
            that would be executed on loading.
    """
    if path.suffix.lower() != ".pt2":
        raise ModelError(
            f"expected a .pt2 archive, but {path} is a {path.suffix or 'nameless'} file, which may "
            "hold pickled code that partc does not run; load the model in Python, export it with "
            "torch.export.export(model.eval(), example_inputs) and save it with "
            "torch.export.save(program, 'model.pt2')"
        )
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from error
    try:
        # The same bytes and the same reader as the load below, so that both see the same records.
        danger = _find_danger(PT2ArchiveReader(io.BytesIO(archive)))
        program = None if danger else _load(archive)
    except Exception as error:
        raise ModelError(
            f"{path} is not a .pt2 archive that torch {torch.__version__} can read; "
            "write it again with torch.export.save of this version"
        ) from error
    if program is None:
        raise ModelError(
            f"refusing to load {path}: {danger}; export the model again with fixed shapes and "
            "plain tensors as inputs, weights and constants"
        )
    return program


def _load(archive: bytes) -> ExportedProgram:
    # Not torch.export.load: it falls back to the old, pickled format when this one fails.
    from torch.export.pt2_archive._package import load_pt2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_pt2(io.BytesIO(archive)).exported_programs["model"]


def _find_danger(reader: PT2ArchiveReader) -> str | None:
    """What loading the archive would execute, or ``None``."""
    known = {_MODEL, _SAMPLE_INPUTS, *_PAYLOADS}
    for record in sorted(reader.get_file_names()):
        if record not in known and not _HARMLESS_RECORD.fullmatch(record):
            return f"its record {record!r} may hold code"
    return (
        _find_pickled_payload(reader)
        or _find_pickled_inputs(reader)
        or _find_code(json.loads(reader.read_bytes(_MODEL)))
    )


def _find_pickled_payload(reader: PT2ArchiveReader) -> str | None:
    for record in _PAYLOADS:
        for name, payload in json.loads(reader.read_bytes(record))["config"].items():
            if payload["use_pickle"] or not re.fullmatch(
                r"(weight|tensor)_\d+", payload["path_name"]
            ):
                return f"its tensor {name!r} is pickled"
    return None


def _find_pickled_inputs(reader: PT2ArchiveReader) -> str | None:
    """The loader tries the safe unpickler first and, when that refuses, the unsafe one."""
    inputs = reader.read_bytes(_SAMPLE_INPUTS)
    try:
        if inputs:
            torch.load(io.BytesIO(inputs), weights_only=True)
    except Exception:
        return "its sample inputs hold pickled code"
    return None


def _find_code(model: dict[str, Any]) -> str | None:
    """Strings of the model that torch would evaluate, import or paste into generated code."""
    if model["guards_code"] or model["range_constraints"]:
        return "its guards or symbolic shapes are evaluated as code"
    for key, value in _walk(model):
        if key in _EVALUATED:
            return f"its {key} is evaluated as code"
        if key == "target" and not _HARMLESS_TARGET.fullmatch(value):
            return f"it calls {value!r}"
        if key in ("in_spec", "out_spec") and not _is_plain_spec(json.loads(value or "[]")):
            return "its inputs or outputs are in containers other than tuple, list and dict"
        for name in _names(key, value):
            if not _NAME.fullmatch(name):
                return f"its name {name!r} would become code"
    return None


def _names(key: str, value: Any) -> list[str]:
    """Strings that end up as identifiers or attribute paths in generated code."""
    if key == "forward_arg_names":
        return value or []
    return [value] if key in _NAMES and value else []


def _walk(value: object) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            yield key, item
            yield from _walk(item)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _walk(item)


def _is_plain_spec(spec: object) -> bool:
    """Whether a pytree's description names no type to import and no key that could be code."""
    return all(
        (key != "type" or value in _CONTAINERS)
        and (key != "context" or ("__enum__" not in str(value) and _KEYS.fullmatch(str(value))))
        for key, value in _walk(spec)
    )
