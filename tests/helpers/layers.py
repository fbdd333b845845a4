"""Layers to build small networks from, each with weights of its own, and networks of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from relax_models import make_module
from tvm.relax import op

from partc.passes.expressions import constant, shape_of

Pair = tuple[int, int]


class Layers:
    """Emits layers; a network that adds up what they make keeps the scale of its input."""

    def __init__(self, emit: Callable[..., Any]) -> None:
        self.emit = emit
        self._generator = np.random.default_rng(0)

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


# One network of each kind ------------------------------------------------------------------------


def _residual(net: Layers, image: Any) -> Any:
    stem = net.relu(net.bias(net.conv2d(image, 20, (7, 7), strides=(2, 2), padding=(3, 3, 3, 3))))
    pooled = net.emit(op.nn.max_pool2d(stem, (3, 3), (2, 2), (1, 1, 1, 1)))
    branch = net.relu(net.conv2d(pooled, 33, padding=(1, 1, 1, 1)))
    branch = net.bias(net.conv2d(branch, 20, padding=(1, 0, 1, 2)))
    return net.relu(net.emit(op.add(branch, pooled)))


def _separable(net: Layers, image: Any) -> Any:
    wide = net.conv2d(image, 21, (1, 1))
    wide = net.emit(op.clip(net.bias(wide), 0, 6))
    moved = net.depthwise(wide, (5, 5), strides=(2, 2), padding=(1, 2, 2, 2))
    return net.conv2d(net.gate(net.relu(net.bias(moved)), 5), 10, (1, 1))


def _shuffled(net: Layers, image: Any) -> Any:
    grouped = net.relu(net.conv2d(image, 30, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)))
    grouped = net.conv2d(grouped, 18, (1, 1), groups=3)
    other = net.relu(net.bias(net.conv2d(image, 7, (5, 1), padding=(2, 0, 2, 0))))
    joined = net.emit(op.concat([net.shuffle(grouped, 3), other], axis=1))
    return net.conv2d(joined, 9, (1, 1), groups=1)


def _growing(net: Layers, image: Any) -> Any:
    small = net.relu(net.conv2d(image, 19, strides=(2, 2)))
    grown = net.conv2d_transpose(small, 12, (3, 3), strides=(2, 2), padding=(1, 1, 1, 1))
    grown = net.emit(op.nn.leakyrelu(net.bias(grown), 0.1))
    twice = op.image.resize2d(grown, (2 * shape_of(grown)[2], 2 * shape_of(grown)[3]))
    return net.emit(op.sigmoid(net.conv2d_transpose(net.emit(twice), 1, (2, 2), strides=(2, 2))))


def _classified(net: Layers, image: Any) -> Any:
    features = net.relu(net.instance_norm(net.conv2d(image, 37, padding=(1, 1, 1, 1))))
    pooled = net.emit(op.nn.avg_pool2d(features, (3, 3), (2, 2), (1, 1, 1, 1)))
    flat = net.emit(op.mean(pooled, [2, 3]))
    return net.emit(op.nn.softmax(net.dense(net.relu(net.dense(flat, 50)), 11)))


def _attentive(net: Layers, tokens: Any) -> Any:
    attended = net.layer_norm(net.emit(op.add(tokens, net.attend(tokens, 3))))
    hidden = net.emit(op.nn.gelu(net.dense(attended, 70)))
    return net.layer_norm(net.emit(op.add(attended, net.dense(hidden, shape_of(tokens)[-1]))))


_NETWORKS: Mapping[str, tuple[tuple[int, ...], Callable[[Layers, Any], Any]]] = {
    "residual": ((2, 3, 45, 39), _residual),
    "separable": ((1, 13, 15, 17), _separable),
    "shuffled": ((1, 6, 12, 11), _shuffled),
    "growing": ((2, 5, 9, 10), _growing),
    "classified": ((3, 9, 14, 13), _classified),
    "attentive": ((2, 13, 24), _attentive),
}


def networks_side_by_side() -> tvm.IRModule:
    """A module that holds a network of every kind, each with an input and an output of its own."""
    shapes = {name: shape for name, (shape, _) in _NETWORKS.items()}

    def build(emit: Callable[..., Any], *inputs: Any) -> list[Any]:
        net = Layers(emit)
        made = zip(_NETWORKS.values(), inputs, strict=True)
        return [make(net, given) for (_, make), given in made]

    return make_module(shapes, build)
