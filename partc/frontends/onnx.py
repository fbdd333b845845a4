# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# onnxslim and TVM ship no types
"""ONNX models: load, fix shapes, fold shape arithmetic, import into Relax."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path

import onnx
import onnx.checker
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import ModelProto

from partc.errors import ModelError
from partc.frontends.onnx_fold import fold
from partc.frontends.onnx_messages import reason
from partc.frontends.onnx_operators import check_operators
from partc.frontends.onnx_reference import OnnxReference
from partc.frontends.onnx_relax import opset_version, output_tensors, to_relax
from partc.frontends.onnx_shapes import declare_outputs, fix_shapes, input_tensors
from partc.frontends.source import SourceModel

# Older operator sets broadcast by attributes that TVM ignores, and ONNX Runtime does not promise
# to run them.
_OLDEST_OPSET = 7


def import_onnx(
    model: Path | ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> SourceModel:
    """Import an ONNX model with fixed shapes.

    A variable that holds a node's first result is named after the node, or after the value where
    nodes have no names of their own.

    Args:
        model: An ``.onnx`` file, with its external data beside it, or a model in memory.
        shapes: Shapes by input name; inputs with dynamic dimensions need one.

    Raises:
        ModelError: The model cannot be read, its shapes are not fixed, or it holds operators that
            cannot be compiled; the message lists all of them.
    """
    title = str(model) if isinstance(model, Path) else f"model {model.graph.name!r}"
    loaded = _load(model) if isinstance(model, Path) else model
    reference = OnnxReference(title, model if isinstance(model, Path) else _serialize(loaded))
    _check_opset(loaded, title)
    fixed = fix_shapes(_inline(loaded, title), shapes or {})
    check_operators(fixed, title, folded=False)
    declare_outputs(fixed, title)
    _check_valid(fixed, title)
    with _quiet():
        folded = fold(fixed, title)
        check_operators(folded, title, folded=True)
        module = to_relax(folded, title)
    return SourceModel(
        name=_identifier(model.stem if isinstance(model, Path) else model.graph.name),
        module=module,
        inputs=input_tensors(fixed),
        outputs=output_tensors(module, [output.name for output in fixed.graph.output]),
        reference=reference,
    )


def _load(path: Path) -> ModelProto:
    if path.is_dir():
        raise ModelError(f"{path} is a directory; give the .onnx file in it")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"there is no model file {path}") from error
    except OSError as error:
        raise ModelError(f"the model file {path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is no ONNX model; give an .onnx file") from error
    if not model.HasField("graph"):
        raise ModelError(f"{path} is no ONNX model: it holds no graph")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        # Missing files, short ones and forbidden places each raise another error.
        raise ModelError(f"the external data of {path} cannot be read: {reason(error)}") from error
    return model


def _serialize(model: ModelProto) -> bytes:
    try:
        return model.SerializeToString()
    except Exception as error:
        raise ModelError(
            "the model in memory is too large for one message; save it and give the file"
        ) from error


def _check_opset(model: ModelProto, title: str) -> None:
    version = opset_version(model)
    if version < _OLDEST_OPSET:
        raise ModelError(
            f"{title} uses operator set {version}; export it with {_OLDEST_OPSET} or later"
        )


def _inline(model: ModelProto, title: str) -> ModelProto:
    """Replace calls of the model's own functions by their bodies."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        # The inliner is C++, whose errors arrive as RuntimeError, ValueError and its own kinds.
        raise ModelError(f"functions in {title} cannot be inlined: {reason(error)}") from error


def _check_valid(model: ModelProto, title: str) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{title} breaks the ONNX specification: {reason(error)}") from error


def _identifier(text: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_]", "_", text) or "model"
    return f"model_{clean}" if clean[0].isdigit() else clean


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep what onnxslim and TVM print and warn about from the user's terminal."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
