"""A network of every kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm.relax import op

from partc.passes.expressions import shape_of
from partc.profiler.layers import Layers, make_module


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
