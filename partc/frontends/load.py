"""Find the frontend for whatever a user calls a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partc.errors import ModelError
from partc.frontends.calibration import Calibration, read_calibration
from partc.frontends.form import Form, find_form
from partc.frontends.normalisation import parse_preprocessing
from partc.frontends.preprocess import add_preprocessing
from partc.frontends.source import Arrays, SourceModel

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Inputs:
    """What is said of a model's inputs, besides the model.

    Args:
        shapes: Shapes of an ONNX model's inputs, by name.
        examples: Example inputs of a torch module.
        preprocess: Inputs that are to be images, as decoders give them, and how these are
            normalised: ``imagenet`` or what else ``--preprocess`` takes.
        calibration: Inputs like those that the model will get: an ``.npz`` file, or arrays by
            name.
    """

    shapes: Shapes | None = None
    examples: Any = None
    preprocess: Mapping[str, str] = field(default_factory=dict[str, str])
    calibration: Calibration | None = None


INPUTS = Inputs()
"""Nothing is said of them."""


def import_source(model: Any, inputs: Inputs) -> SourceModel:
    """Import a model with the inputs that a user wants it to have.

    Args:
        model: What :func:`import_model` takes.
        inputs: What is said of them.

    Raises:
        PartcError: There is no such model, it cannot be compiled, or something that is said of its
            inputs does not fit them.
    """
    # What needs no model is told before it is imported, which may take a minute.
    wanted = parse_preprocessing(inputs.preprocess)
    given = None if inputs.calibration is None else read_calibration(inputs.calibration)
    source = add_preprocessing(import_model(model, inputs.shapes, inputs.examples), wanted)
    samples = given.samples(source.inputs) if given else ()
    return replace(source, preprocess=inputs.preprocess, calibration=tuple(samples))


def import_model(model: Any, shapes: Shapes | None = None, examples: Any = None) -> SourceModel:
    """Import a model, whatever framework it comes from.

    Args:
        model: A path to an ``.onnx`` or ``.pt2`` file, ``package.module:callable``, an
            ``onnx.ModelProto``, a ``torch.nn.Module``, an ``fx.GraphModule`` or an
            ``ExportedProgram``.
        shapes: Shapes of an ONNX model's inputs, by name.
        examples: Example inputs of a torch module.

    Raises:
        ModelError: There is no such model, or it cannot be compiled.
    """
    if isinstance(model, (str, Path)):
        return _import_named(str(model), shapes, examples)
    if type(model).__name__ == "ModelProto":
        return _import_onnx(model, shapes, examples)
    return _import_torch(model, shapes, examples)


def _import_named(name: str, shapes: Shapes | None, examples: Any) -> SourceModel:
    form = find_form(name)
    if form is Form.ONNX:
        return _import_onnx(Path(name), shapes, examples)
    if form is Form.ARCHIVE:
        return _import_torch(Path(name), shapes, examples)
    _refuse_shapes(shapes)
    made, own_examples = _torch_frontend().load_callable(name)
    return _import_torch(made, shapes, own_examples if examples is None else examples)


def _import_onnx(model: Any, shapes: Shapes | None, examples: Any) -> SourceModel:
    if examples is not None:
        raise ModelError(
            "examples are given for torch models; an ONNX model's shapes are its own, or those "
            "given as shapes"
        )
    from partc.frontends.onnx import import_onnx

    return import_onnx(model, shapes)


def _import_torch(model: Any, shapes: Shapes | None, examples: Any) -> SourceModel:
    _refuse_shapes(shapes)
    return _with_distinct_outputs(_torch_frontend().import_torch(model, examples))


def _torch_frontend() -> Any:
    try:
        from partc.frontends import torch
    except ImportError as error:
        raise ModelError(
            "a torch model needs torch, which is not installed; run: pip install 'partc[torch]'"
        ) from error
    return torch


def _with_distinct_outputs(source: SourceModel) -> SourceModel:
    """Name an output ``x_output`` if an input is called ``x``: a tensor has one name everywhere.

    A torch model may return a dict with a key that is a parameter's name, too; ONNX allows no two
    tensors of one name.
    """
    inputs = {tensor.name for tensor in source.inputs}
    taken = inputs | {tensor.name for tensor in source.outputs}
    names = {
        tensor.name: _untaken(f"{tensor.name}_output", taken)
        for tensor in source.outputs
        if tensor.name in inputs
    }
    if not names:
        return source

    def reference(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        return {names.get(name, name): array for name, array in source.reference(arrays).items()}

    outputs = (
        replace(tensor, name=names.get(tensor.name, tensor.name)) for tensor in source.outputs
    )
    return replace(source, outputs=tuple(outputs), reference=reference)


def _untaken(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _refuse_shapes(shapes: Shapes | None) -> None:
    if shapes:
        raise ModelError(
            "shapes are given for ONNX models; a torch model's are those of its example inputs"
        )
