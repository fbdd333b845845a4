"""ONNX models as modules of PyTorch, so that torch.compile can be compared on them, too.

Knows the operators of the benchmarks' models with fixed shapes, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx.helper
import onnx.numpy_helper
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn
from torch.nn import functional

Attributes = Mapping[str, Any]


class OnnxModule(nn.Module):
    """The nodes of an ONNX model, one after the other."""

    def __init__(self, model: ModelProto) -> None:
        super().__init__()
        self._inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]
        self._weights: dict[str, str] = {}
        self._numbers: dict[str, list[Any]] = {}
        scales = {
            name for node in model.graph.node if node.op_type == "Resize" for name in node.input
        }
        for index, tensor in enumerate(model.graph.initializer):
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == "float32" and array.ndim and tensor.name not in scales:
                self._weights[tensor.name] = f"weight_{index}"
                self.register_buffer(f"weight_{index}", torch.from_numpy(array.copy()))
            else:
                self._numbers[tensor.name] = array.tolist()
        self._steps = [_read_node(node) for node in model.graph.node]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The model's outputs, in order."""
        values: dict[str, Any] = {name: getattr(self, at) for name, at in self._weights.items()}
        values |= self._numbers | dict(zip(self._inputs, inputs, strict=True)) | {"": None}
        for compute, arguments, result in self._steps:
            values[result] = compute(*(values[name] for name in arguments))
        return tuple(values[name] for name in self._outputs)


def _read_node(node: NodeProto) -> tuple[Callable[..., Tensor], list[str], str]:
    if node.op_type not in _OPERATORS:
        raise NotImplementedError(f"ONNX's {node.op_type} is not known here")
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    operator = _OPERATORS[node.op_type]
    return lambda *inputs: operator(attributes, *inputs), list(node.input), node.output[0]


def _convolve(attributes: Attributes, data: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    data, padding = _pad(attributes, data, 0.0)
    return functional.conv2d(
        data,
        weight,
        *(bias or (None,)),
        stride=attributes.get("strides", 1),
        padding=padding,
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
    )


def _convolve_transposed(attributes: Attributes, data: Tensor, weight: Tensor) -> Tensor:
    return functional.conv_transpose2d(data, weight, stride=attributes["strides"])


def _pool_max(attributes: Attributes, data: Tensor) -> Tensor:
    data, padding = _pad(attributes, data, -torch.inf)
    return functional.max_pool2d(
        data, attributes["kernel_shape"], attributes.get("strides", 1), padding
    )


def _pool_average(attributes: Attributes, data: Tensor) -> Tensor:
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", 1)
    padded, padding = _pad(attributes, data, 0.0)
    if padded is data:
        return functional.avg_pool2d(data, kernel, strides, padding, count_include_pad=False)
    ones, _ = _pad(attributes, torch.ones_like(data), 0.0)
    counted = functional.avg_pool2d(ones, kernel, strides)
    return functional.avg_pool2d(padded, kernel, strides) / counted


def _pad(attributes: Attributes, data: Tensor, value: float) -> tuple[Tensor, list[int]]:
    """Padding that is the same on both sides is left to the operator, all else done before it."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) == (bottom, right):
        return data, [top, left]
    return functional.pad(data, (left, right, top, bottom), value=value), [0, 0]


def _normalize_locally(attributes: Attributes, data: Tensor) -> Tensor:
    size, alpha, beta, bias = (attributes[name] for name in ("size", "alpha", "beta", "bias"))
    return functional.local_response_norm(data, size, alpha, beta, bias)


def _normalize_batch(
    attributes: Attributes, data: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    epsilon = attributes.get("epsilon", 1e-5)
    return functional.batch_norm(data, mean, var, scale, bias, eps=epsilon)


def _multiply_dense(attributes: Attributes, data: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(data, weight if attributes.get("transB") else weight.T, bias)


def _softmax(attributes: Attributes, data: Tensor) -> Tensor:
    """Over all axes from the given one on, as it was before operator set 13."""
    axis = attributes.get("axis", 1) % data.ndim
    return functional.softmax(data.flatten(axis), axis).reshape(data.shape)


def _reshape(_: Attributes, data: Tensor, shape: list[int]) -> Tensor:
    return data.reshape([size or data.shape[axis] for axis, size in enumerate(shape)])


def _resize(_: Attributes, data: Tensor, _region: object, scales: list[float]) -> Tensor:
    return functional.interpolate(data, scale_factor=scales[2:], mode="nearest")


def _slice(
    _: Attributes,
    data: Tensor,
    starts: list[int],
    ends: list[int],
    axes: list[int],
    _steps: list[int],
) -> Tensor:
    for start, end, axis in zip(starts, ends, axes, strict=True):
        size = data.shape[axis]
        first, last = (min(at + size if at < 0 else at, size) for at in (start, end))
        data = data.narrow(axis, first, last - first)
    return data


def _average(attributes: Attributes, data: Tensor) -> Tensor:
    return data.mean(attributes["axes"], keepdim=bool(attributes.get("keepdims", 1)))


def _hard_sigmoid(attributes: Attributes, data: Tensor) -> Tensor:
    return (attributes["alpha"] * data + attributes["beta"]).clamp(0, 1)


_OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Add": lambda _, one, other: one + other,
    "AveragePool": _pool_average,
    "BatchNormalization": _normalize_batch,
    "Clip": lambda _, data, low, high: data.clamp(low, high),
    "Concat": lambda attributes, *data: torch.cat(data, attributes["axis"]),
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "Div": lambda _, one, other: one / other,
    "Dropout": lambda _, data: data,
    "Gemm": _multiply_dense,
    "GlobalAveragePool": lambda _, data: data.mean((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda _, data: data,
    "LRN": _normalize_locally,
    "MatMul": lambda _, one, other: one @ other,
    "MaxPool": _pool_max,
    "Mul": lambda _, one, other: one * other,
    "Pow": lambda _, one, other: one**other,
    "ReduceMean": _average,
    "Relu": lambda _, data: data.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda _, data: data.sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": lambda _, data: data.sqrt(),
    "Squeeze": lambda attributes, data: data.squeeze(tuple(attributes["axes"])),
    "Sub": lambda _, one, other: one - other,
    "Sum": lambda _, *data: sum(data[1:], data[0]),
    "Transpose": lambda attributes, data: data.permute(attributes["perm"]),
}
