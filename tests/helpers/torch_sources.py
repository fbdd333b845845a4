"""Small torch models, and what an import of them must compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tvm
from torch import nn
from torch.export import ExportedProgram
from tvm import relax

from partc.frontends.source import SourceModel
from partc.graph import Tensor, TensorType


def export(module: nn.Module, *args: torch.Tensor, **options: Any) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args, strict=False, **options)


def random_inputs(source: SourceModel) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        for tensor in source.inputs
    }


def run_compiled(source: SourceModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    module = tvm.ir.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
        ]
    )(source.module)
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    arrays = [tvm.runtime.tensor(inputs[tensor.name]) for tensor in source.inputs]
    results = machine["main"](*arrays)
    return {
        tensor.name: result.numpy() for tensor, result in zip(source.outputs, results, strict=True)
    }


def check_against_reference(source: SourceModel, tolerance: float = 1e-5) -> None:
    inputs = dict(source.examples or random_inputs(source))
    expected = source.reference(inputs)
    actual = run_compiled(source, inputs)
    assert list(expected) == [tensor.name for tensor in source.outputs]
    for tensor in source.outputs:
        assert expected[tensor.name].shape == tensor.type.shape
        assert str(actual[tensor.name].dtype) == tensor.type.dtype
        np.testing.assert_allclose(
            actual[tensor.name], expected[tensor.name], rtol=tolerance, atol=tolerance
        )


def variable_names(source: SourceModel) -> list[str]:
    return [
        binding.var.name
        for block in source.module["main"].body.blocks
        for binding in block.bindings
    ]


def float32(name: str, *shape: int) -> Tensor:
    return Tensor(name, TensorType("float32", shape))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.stem[1].running_mean.uniform_()
        self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.stem(image)
        features = self.act(self.act(self.conv(features)) + features)
        return self.drop(features), features.mean((2, 3))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).relu()


class Function(nn.Module):
    """A module without parameters that computes a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


IMAGE = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
ROW = torch.linspace(-1, 1, 8).reshape(2, 4)
