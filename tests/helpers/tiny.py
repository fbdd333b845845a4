"""The smallest ONNX model with something to cut, under names that are no Python identifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT, OUTPUT = "x:0", "class"
SHAPE = (1, 3, 8, 8)
PLANS = ("server-only", "device-only", "cut-1")


def save_tiny_model(path: Path) -> Path:
    """Write convolution, ReLU, convolution."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape, "float32") / 4, name)
        for name, shape in (("w1", (4, 3, 3, 3)), ("w2", (2, 4, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", [INPUT, "w1"], ["a"], "stem", strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("Conv", ["b", "w2"], [OUTPUT], "head"),
    ]
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, SHAPE)
    made = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (1, 2, 1, 1))
    graph = helper.make_graph(nodes, "tiny", [given], [made], weights)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def tiny_inputs(seed: int = 0) -> dict[str, NDArray[Any]]:
    return {INPUT: np.random.default_rng(seed).standard_normal(SHAPE, "float32")}


def run_reference(model: Path, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], dict(inputs))[0])
