from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny import INPUT, OUTPUT, run_reference, tiny_inputs
from torch import nn

from partc.errors import ModelError, PartcError
from partc.frontends.load import Inputs, import_model, import_source


def linear() -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(3, 2), torch.ones(1, 3)


@pytest.mark.parametrize("kind", ["path", "text", "proto"])
def test_an_onnx_model_may_come_in_any_way(tiny_model: Path, kind: str) -> None:
    model = {"path": tiny_model, "text": str(tiny_model), "proto": onnx.load(tiny_model)}[kind]
    source = import_model(model)
    assert [tensor.name for tensor in source.inputs] == [INPUT]
    inputs = tiny_inputs()
    expected = run_reference(tiny_model, inputs)
    np.testing.assert_allclose(source.reference(inputs)[OUTPUT], expected, rtol=1e-5)


def test_a_torch_model_needs_no_file() -> None:
    module, example = linear()
    source = import_model(module, examples=example)
    assert [tensor.type.shape for tensor in source.inputs] == [(1, 3)]


def test_an_exported_program_may_be_in_a_file(tmp_path: Path) -> None:
    module, example = linear()
    torch.export.save(torch.export.export(module.eval(), (example,)), tmp_path / "linear.pt2")
    assert import_model(str(tmp_path / "linear.pt2")).name == "linear"


@pytest.mark.parametrize("rows", [1, 4])
def test_a_callable_brings_its_examples_unless_others_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    (tmp_path / "made.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(3, 2), torch.ones(1, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "made", raising=False)
    examples = None if rows == 1 else torch.ones(rows, 3)
    source = import_model("made:make", examples=examples)
    assert [tensor.type.shape for tensor in source.inputs] == [(rows, 3)]


def test_shapes_are_for_onnx(tiny_model: Path) -> None:
    module, example = linear()
    for model in (module, "package.module:callable"):
        with pytest.raises(ModelError, match="shapes are given for ONNX models"):
            import_model(model, shapes={"x": (1, 3)}, examples=example)


def test_examples_are_for_torch(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="examples are given for torch models"):
        import_model(tiny_model, examples=torch.ones(1))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no protobuf")
    for model in (tmp_path / "text.onnx", tmp_path / "missing.onnx", tmp_path, 7, None):
        with pytest.raises(ModelError):
            import_model(model)


def test_torch_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, example = linear()
    monkeypatch.setitem(sys.modules, "partc.frontends.torch", None)
    monkeypatch.delattr("partc.frontends.torch", raising=False)
    with pytest.raises(ModelError, match=r"torch model needs torch, .* pip install 'partc\[torch"):
        import_model(module, examples=example)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        (Inputs(calibration="missing.npz"), "the calibration file missing.npz cannot be read"),
        (Inputs(preprocess={"x": "Unit"}), "not 'x=Unit'"),
    ],
)
def test_what_needs_no_model_is_told_before_it_is_imported(inputs: Inputs, problem: str) -> None:
    with pytest.raises(PartcError, match=problem):
        import_source("missing.onnx", inputs)


def test_samples_are_of_the_inputs_that_preprocessing_makes(tiny_model: Path) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    source = import_source(tiny_model, Inputs(None, None, {INPUT: "signed"}, {INPUT: images}))
    assert source.preprocess == {INPUT: "signed"}
    shapes = [sample[INPUT].shape for sample in source.calibration]
    assert shapes == [(1, 8, 8, 3)] * 3


class Doubles(nn.Module):
    """Returns what it is given, and twice that, under a name that an input has."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x * 2, "x_output": x}


def test_an_output_called_like_an_input_gets_a_name_of_its_own() -> None:
    source = import_model(Doubles(), examples=torch.ones(2))
    assert [tensor.name for tensor in source.outputs] == ["x_output_", "x_output"]
    made = source.reference({"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(made["x_output_"], [2, 2])
    np.testing.assert_array_equal(made["x_output"], [1, 1])
