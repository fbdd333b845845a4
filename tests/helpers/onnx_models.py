"""Small ONNX models from text, and what their import gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import tvm
from numpy.typing import NDArray
from onnx import ModelProto
from tvm import relax

from partc.errors import ModelError
from partc.frontends.onnx import import_onnx
from partc.frontends.source import SourceModel


def parse(body: str, opset: int = 17, header: str = "") -> ModelProto:
    opsets = f'opset_import: ["" : {opset}{header}]'
    return onnx.parser.parse_model(f"<ir_version: 8, {opsets}> {body}")


def bindings(source: SourceModel) -> dict[str, relax.Expr]:
    blocks = source.module["main"].body.blocks
    pairs = [(binding.var.name, binding.value) for block in blocks for binding in block.bindings]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def operators(source: SourceModel) -> dict[str, str]:
    return {
        name: value.op.name.removeprefix("relax.")
        for name, value in bindings(source).items()
        if isinstance(value, relax.Call)
    }


def random_inputs(source: SourceModel) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        for tensor in source.inputs
    }


def run_compiled(
    source: SourceModel, inputs: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    module = relax.get_pipeline("zero")(source.module)
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    results = machine["main"](
        *(tvm.runtime.tensor(inputs[tensor.name]) for tensor in source.inputs)
    )
    return {
        tensor.name: result.numpy() for tensor, result in zip(source.outputs, results, strict=True)
    }


def assert_agrees(source: SourceModel, inputs: Mapping[str, NDArray[np.generic]] | None = None):
    inputs = inputs or random_inputs(source)
    expected, found = source.reference(inputs), run_compiled(source, inputs)
    assert list(found) == list(expected)
    for tensor in source.outputs:
        assert found[tensor.name].dtype == tensor.type.dtype
        assert found[tensor.name].shape == expected[tensor.name].shape == tensor.type.shape
        scale = np.abs(expected[tensor.name]).max()
        np.testing.assert_allclose(
            found[tensor.name], expected[tensor.name], rtol=0, atol=1e-4 * scale
        )


def refusal(model: Path | ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        import_onnx(model, shapes)
    assert "Traceback" not in str(caught.value)
    return str(caught.value)
