"""What share of the AVX2 peak the convolutions of a network reach, one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from engines import CompiledModel, Partc, random_inputs
from kernel_profile import KernelCalls, profile
from onnx import ModelProto, TensorProto, helper, numpy_helper
from peak import measure_peak_gflops
from rich.table import Table

from partc.compiler import lower
from partc.frontends.onnx import import_onnx
from partc.targets.target import load_target

AVX2 = "x86-64-v3"
BAR = 0.8


@dataclass(frozen=True)
class Convolution:
    """A convolution of a square plane with ReLU behind it, padded so that strides divide it."""

    channels: int
    size: int
    makes: int
    kernel: int
    stride: int = 1

    def __str__(self) -> str:
        strides = f", stride {self.stride}" if self.stride > 1 else ""
        plane = f"{self.channels} x {self.size} x {self.size}"
        return f"{plane} to {self.makes}, {self.kernel} x {self.kernel}{strides}"

    def proto(self) -> ModelProto:
        """The convolution as a model, with random weights."""
        shape = (self.makes, self.channels, self.kernel, self.kernel)
        weight = np.random.default_rng(0).normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        attributes = {"strides": [self.stride] * 2, "pads": [self.kernel // 2] * 4}
        data = [1, self.channels, self.size, self.size]
        made = [1, self.makes, *[math.ceil(self.size / self.stride)] * 2]
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w"], ["y"], **attributes),
                helper.make_node("Relu", ["y"], ["z"]),
            ],
            "convolution",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, made)],
            [numpy_helper.from_array(weight.astype(np.float32), "w")],
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


RESNET50 = (
    Convolution(3, 224, 64, 7, 2),
    Convolution(64, 56, 64, 1),
    Convolution(64, 56, 64, 3),
    Convolution(64, 56, 256, 1),
    Convolution(256, 56, 64, 1),
    Convolution(256, 56, 128, 1, 2),
    Convolution(256, 56, 512, 1, 2),
    Convolution(128, 28, 128, 3),
    Convolution(128, 28, 512, 1),
    Convolution(512, 28, 128, 1),
    Convolution(512, 28, 256, 1, 2),
    Convolution(512, 28, 1024, 1, 2),
    Convolution(256, 14, 256, 3),
    Convolution(256, 14, 1024, 1),
    Convolution(1024, 14, 256, 1),
    Convolution(1024, 14, 512, 1, 2),
    Convolution(1024, 14, 2048, 1, 2),
    Convolution(512, 7, 512, 3),
    Convolution(512, 7, 2048, 1),
    Convolution(2048, 7, 512, 1),
)
"""Every convolution of ResNet-50, once."""


def compile_convolutions() -> list[CompiledModel]:
    """Each convolution as a model of its own."""
    target = msgspec.structs.replace(load_target(AVX2), threads=1)
    return [CompiledModel(lower(import_onnx(each.proto())), target) for each in RESNET50]


def convolution_table(models: Sequence[CompiledModel]) -> Table:
    """Time each convolution alone on one thread, and the peak right after it."""
    table = Table()
    table.add_column("convolution", no_wrap=True)
    table.add_column("algorithm", no_wrap=True)
    for column in ("ms", "GFLOP/s", "peak GFLOP/s", "of peak", f"bar {BAR:.0%}"):
        table.add_column(column, justify="right", no_wrap=True)
    for convolution, model in zip(RESNET50, models, strict=True):
        kernel = _time(model)
        gflops = sum(layer.flops for layer in model.graph.layers) / 1e9 / kernel.latency_s
        peak_gflops = measure_peak_gflops(1, AVX2)
        table.add_row(
            str(convolution),
            "Winograd" if "winograd" in kernel.name else "direct",
            f"{kernel.latency_s * 1e3:.3f}",
            f"{gflops:.1f}",
            f"{peak_gflops:.1f}",
            f"{gflops / peak_gflops:.0%}",
            "reaches" if gflops >= BAR * peak_gflops else "MISSES",
        )
    return table


def _time(model: CompiledModel) -> KernelCalls:
    partc = Partc(model, 1, random_inputs(model.graph))
    return next(each for each in profile(model, partc, 1) if "conv2d" in each.name)
