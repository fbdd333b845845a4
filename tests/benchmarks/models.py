"""The models that kernels are measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from partc.frontends.onnx_fold import fold
from partc.frontends.onnx_shapes import fix_shapes

_BATCH_NORM_SCALE = 1
_BATCH_NORM_VARIANCE = 4


@dataclass(frozen=True)
class BenchmarkModel:
    """A model under the name that the tables give it.

    Args:
        name: The name.
        load: Makes or reads the model.
        shapes: Shapes of its inputs, where they are dynamic.
        module: The model in PyTorch, if that is where it comes from.
        package: What must be installed for it, which not every machine can.
    """

    name: str
    load: Callable[[], ModelProto]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    module: Callable[[], Any] | None = None
    package: str | None = None

    @property
    def available(self) -> bool:
        """Whether the package that holds the model is installed."""
        return self.package is None or find_spec(self.package) is not None

    @cached_property
    def proto(self) -> ModelProto:
        """The model with fixed shapes and all that follows from them folded, for every engine."""
        fixed = fix_shapes(self.load(), self.shapes)
        _expose_scores(fixed)
        return fold(fixed, self.name)

    @property
    def has_lrn(self) -> bool:
        """Whether it normalises over channels, which ONNX Runtime is slow at."""
        return any(node.op_type == "LRN" for node in self.proto.graph.node)


def light_model(name: str) -> ModelProto:
    """A model of the ``onnx`` package, which has its graph only, with random weights."""
    path = Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"
    model = onnx.load(path)
    _draw_weights(model)
    return model


def _expose_scores(model: ModelProto) -> None:
    """Make, in place, what enters a last softmax or sigmoid an output: they hide differences."""
    outputs = {value.name: value for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Sigmoid") and node.output[0] in outputs:
            scores = model.graph.output.add()
            scores.CopyFrom(outputs[node.output[0]])
            scores.name = node.input[0]


def _draw_weights(model: ModelProto) -> None:
    """Replace, in place, what stands for weights by numbers that keep activations about 1."""
    graph, random = model.graph, np.random.default_rng(0)
    shapes = _weight_shapes(model)
    arrays: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in shapes and name not in arrays:
                arrays[name] = _draw(random, node, position, shapes[name])
    kept = [tensor for tensor in graph.initializer if tensor.name not in arrays]
    nodes = [node for node in graph.node if node.output[0] not in arrays]
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )


def _weight_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the floating-point constants, by name: filled by a node, or stored."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    filled = {
        node.output[0]: tuple(onnx.numpy_helper.to_array(stored[node.input[0]]).tolist())
        for node in model.graph.node
        if node.op_type == "ConstantOfShape"
    }
    return filled | {
        name: tuple(tensor.dims)
        for name, tensor in stored.items()
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def _draw(
    random: np.random.Generator, node: NodeProto, position: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Weights of He et al., Delving Deep into Rectifiers (2015); small ones for one dimension."""
    if len(shape) > 1:
        scale = math.sqrt(2 / math.prod(shape[1:]))
        return random.standard_normal(shape, np.float32) * np.float32(scale)
    if node.op_type == "BatchNormalization" and position == _BATCH_NORM_VARIANCE:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if node.op_type == "BatchNormalization" and position == _BATCH_NORM_SCALE:
        # Half on average, so that sums of residuals do not grow with the depth.
        return random.uniform(0.3, 0.7, shape).astype(np.float32)
    return random.standard_normal(shape, np.float32) * np.float32(0.1)


def _ocr_model(file: str) -> ModelProto:
    import rapidocr_onnxruntime

    return onnx.load(Path(rapidocr_onnxruntime.__file__).parent / "models" / file)


def _from_torch(name: str) -> ModelProto:
    import torch_models

    return torch_models.export(_module(name))


def _module(name: str) -> Any:
    """A module of PyTorch; imported late, because that takes seconds."""
    import torch_models

    return getattr(torch_models, name)()


def _light(name: str) -> BenchmarkModel:
    return BenchmarkModel(name, partial(light_model, name))


def _ocr(name: str, file: str, *shape: int) -> BenchmarkModel:
    load = partial(_ocr_model, file)
    return BenchmarkModel(name, load, {"x": shape}, package="rapidocr_onnxruntime")


def _torch(name: str) -> BenchmarkModel:
    function = name.replace("-", "_")
    return BenchmarkModel(name, partial(_from_torch, function), module=partial(_module, function))


MODELS: Mapping[str, BenchmarkModel] = {
    model.name: model
    for model in (
        *map(_light, ("squeezenet", "bvlc_alexnet", "resnet50", "inception_v1", "shufflenet")),
        _ocr("ppocr-det", "ch_PP-OCRv4_det_infer.onnx", 1, 3, 640, 640),
        _ocr("ppocr-rec", "ch_PP-OCRv4_rec_infer.onnx", 1, 3, 48, 320),
        _ocr("ppocr-cls", "ch_ppocr_mobile_v2.0_cls_infer.onnx", 1, 3, 48, 192),
        *map(_torch, ("efficientnet-lite0", "vit-tiny", "bert-small")),
    )
}
