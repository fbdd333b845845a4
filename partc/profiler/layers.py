# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# TVM ships no types.
"""Layers to build networks from, each with weights of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op

from partc.passes.expressions import constant, shape_of

Pair = tuple[int, int]


def make_module(
    inputs: Mapping[str, tuple[int, ...]],
    build: Callable[..., Any],
    dtype: str = "float32",
) -> tvm.IRModule:
    """A module with one function.

    Args:
        inputs: Shapes by name.
        build: Called with a function that binds a call to a variable and returns that, and with
            the inputs; returns one result or several.
        dtype: Element type of the inputs.
    """
    builder = relax.BlockBuilder()
    params = [relax.Var(name, relax.TensorType(shape, dtype)) for name, shape in inputs.items()]
    bindings: list[relax.VarBinding] = []

    def emit(value: Any, name: str = "lv") -> relax.Var:
        value = builder.normalize(value)
        bindings.append(relax.VarBinding(relax.Var(name, value.ty), value))
        return bindings[-1].var

    results = build(emit, *params)
    fields = results if isinstance(results, list | tuple) else [results]
    body = relax.SeqExpr([relax.BindingBlock(bindings)], relax.Tuple(fields))
    function = relax.Function(params, body, relax.TupleType([field.ty for field in fields]))
    return tvm.IRModule({"main": function})


class Layers:
    """Emits layers; a network that adds up what they make keeps the scale of its input.

    Args:
        emit: Binds a call to a variable, and returns that.
        seed: Of the weights.
    """

    def __init__(self, emit: Callable[..., Any], seed: int = 0) -> None:
        self.emit = emit
        self._generator = np.random.default_rng(seed)

    def weights(self, *shape: int, fan_in: int = 1) -> Any:
        values = self._generator.standard_normal(shape, np.float32) / math.sqrt(fan_in)
        return constant(values.astype(np.float32))

    def conv2d(
        self,
        x: Any,
        channels: int,
        kernel: Pair = (3, 3),
        *,
        strides: Pair = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> Any:
        each = shape_of(x)[1] // groups
        weight = self.weights(channels, each, *kernel, fan_in=each * math.prod(kernel))
        return self.emit(op.nn.conv2d(x, weight, strides, list(padding), dilation, groups))

    def depthwise(self, x: Any, kernel: Pair = (3, 3), **options: Any) -> Any:
        channels = shape_of(x)[1]
        return self.conv2d(x, channels, kernel, groups=channels, **options)

    def conv2d_transpose(
        self,
        x: Any,
        channels: int,
        kernel: Pair,
        *,
        strides: Pair = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        output_padding: Pair = (0, 0),
        groups: int = 1,
    ) -> Any:
        fan_in = shape_of(x)[1]
        weight = self.weights(fan_in, channels // groups, *kernel, fan_in=fan_in)
        call = op.nn.conv2d_transpose(
            x, weight, strides, list(padding), output_padding, groups=groups
        )
        return self.emit(call)

    def conv1d(self, x: Any, channels: int, kernel: int, **options: Any) -> Any:
        each = shape_of(x)[1] // options.get("groups", 1)
        weight = self.weights(channels, each, kernel, fan_in=each * kernel)
        return self.emit(op.nn.conv1d(x, weight, **options))

    def bias(self, x: Any, axis: int = 1) -> Any:
        shape = [1] * len(shape_of(x))
        shape[axis] = shape_of(x)[axis]
        return self.emit(op.add(x, self.weights(*shape)))

    def relu(self, x: Any) -> Any:
        return self.emit(op.nn.relu(x))

    def dense(self, x: Any, units: int) -> Any:
        depth = shape_of(x)[-1]
        product = self.emit(op.matmul(x, self.weights(depth, units, fan_in=depth)))
        return self.emit(op.add(product, self.weights(units)))

    def layer_norm(self, x: Any, axes: Sequence[int] = (-1,)) -> Any:
        shape = [shape_of(x)[axis] for axis in axes]
        call = op.nn.layer_norm(x, self.weights(*shape), self.weights(*shape), list(axes))
        return self.emit(call)

    def instance_norm(self, x: Any) -> Any:
        channels = shape_of(x)[1]
        gamma, beta = self.weights(channels), self.weights(channels)
        return self.emit(op.nn.instance_norm(x, gamma, beta, channel_axis=1, axes=[2, 3]))

    def group_norm(self, x: Any, groups: int) -> Any:
        channels = shape_of(x)[1]
        gamma, beta = self.weights(channels), self.weights(channels)
        return self.emit(op.nn.group_norm(x, gamma, beta, groups, channel_axis=1, axes=[2, 3]))

    def rms_norm(self, x: Any) -> Any:
        return self.emit(op.nn.rms_norm(x, self.weights(shape_of(x)[-1]), [-1]))

    def shuffle(self, x: Any, groups: int) -> Any:
        batch, channels, *plane = shape_of(x)
        apart = self.emit(op.reshape(x, (batch, groups, channels // groups, *plane)))
        swapped = self.emit(op.permute_dims(apart, (0, 2, 1, 3, 4)))
        return self.emit(op.reshape(swapped, (batch, channels, *plane)))

    def gate(self, x: Any, hidden: int) -> Any:
        """Squeeze and excite."""
        pooled = self.emit(op.mean(x, [2, 3], keepdims=True))
        squeezed = self.relu(self.bias(self.conv2d(pooled, hidden, (1, 1))))
        excited = self.bias(self.conv2d(squeezed, shape_of(x)[1], (1, 1)))
        return self.emit(op.multiply(x, self.emit(op.sigmoid(excited))))

    def attend(self, x: Any, heads: int) -> Any:
        """Attention of (batch, length, width) to itself."""
        batch, length, width = shape_of(x)

        def head(axes: Sequence[int]) -> Any:
            split = op.reshape(self.dense(x, width), (batch, length, heads, width // heads))
            return self.emit(op.permute_dims(self.emit(split), axes))

        scores = self.emit(op.matmul(head((0, 2, 1, 3)), head((0, 2, 3, 1))))
        shares = self.emit(op.nn.softmax(scores))
        mixed = self.emit(op.matmul(shares, head((0, 2, 1, 3))))
        joined = self.emit(op.permute_dims(mixed, (0, 2, 1, 3)))
        return self.emit(op.reshape(joined, (batch, length, width)))
