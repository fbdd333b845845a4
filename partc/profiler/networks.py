# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# TVM ships no types.
"""Networks to measure layers in, drawn at random: layers of every kind, as they follow each other.

A layer alone would be timed with everything it reads in the caches, and some layers would be fused
with nothing. In a network it finds what another layer has just made, and weights that the layers
around it have driven out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op

from partc.passes.expressions import constant, shape_of
from partc.profiler.layers import Layers, Pair, make_module

_CHAINS = 4
_STEPS = 9

Step = Callable[[Any], Any]


def draw_network(seed: int) -> tvm.IRModule:
    """A network of several chains, with an input for each; the same for the same seed.

    Some chains are mostly products, others only move and compare what they read; some networks are
    small enough for a core's caches, in others everything comes from memory.
    """
    random = np.random.default_rng(seed)
    scale = _Scale.draw(random)
    kinds = [_KINDS[int(kind)] for kind in random.choice(len(_KINDS), _CHAINS, p=_SHARES)]
    shapes = {f"input_{n}": kind.shape(random, scale) for n, kind in enumerate(kinds)}

    def build(emit: Callable[..., Any], *inputs: Any) -> list[Any]:
        outputs: list[Any] = []
        for kind, x in zip(kinds, inputs, strict=True):
            outputs += kind(random, Layers(emit, seed), scale).grow(x)
        return outputs

    return make_module(shapes, build)


@dataclass(frozen=True)
class _Scale:
    """How large the layers of a network may be.

    Args:
        plane: Height or width of an image.
        channels: Of an image, or the width of a vector.
        products: Multiply-adds of one layer; still larger layers take as long for each.
        elements: Of one tensor.
        weights: Elements of one layer's weights.
    """

    plane: int
    channels: int
    products: int
    elements: int
    weights: int

    @staticmethod
    def draw(random: np.random.Generator) -> _Scale:
        size = int(random.choice(3, p=(0.2, 0.4, 0.4)))
        return _Scale(
            plane=(64, 160, 320)[size],
            channels=(128, 512, 1024)[size],
            products=(4_000_000, 100_000_000, 250_000_000)[size],
            elements=(20_000, 600_000, 3_000_000)[size],
            weights=(20_000, 1_500_000, 24_000_000)[size],
        )

    def image(self, random: np.random.Generator) -> tuple[int, ...]:
        height = _between(random, 12, self.plane)
        width = height if random.random() < 0.6 else _between(random, 12, 2 * self.plane)
        return (1, int(random.choice([3, 3, 3, 1, 4])), height, width)

    def sequence(self, random: np.random.Generator) -> tuple[int, ...]:
        width = 16 * _between(random, 2, self.channels // 16)
        most = max(8, min(400, self.elements // width))
        return (1, _between(random, max(4, most // 20), most), width)


def _between(random: np.random.Generator, low: int, high: int) -> int:
    """A whole number, as often in every octave."""
    return round(math.exp(random.uniform(math.log(low), math.log(high))))


class _Chain:
    """Layers one after the other, each on what the last one made."""

    def __init__(self, random: np.random.Generator, net: Layers, scale: _Scale) -> None:
        self._random = random
        self._net = net
        self._scale = scale
        self._kept: list[Any] = []

    def grow(self, x: Any) -> list[Any]:
        """Add layers; return what has to be an output of the network."""
        x = self._begin(x)
        for _ in range(_STEPS):
            steps = self._steps()
            chances = np.array([chance for _, chance in steps])
            chosen = self._random.choice(len(steps), p=chances / chances.sum())
            made = steps[chosen][0](x)
            if math.prod(shape_of(made)) <= self._scale.elements:
                x = made
        return [*self._kept, x]

    @staticmethod
    def shape(random: np.random.Generator, scale: _Scale) -> tuple[int, ...]:
        """Of an input."""
        raise NotImplementedError

    def _begin(self, x: Any) -> Any:
        raise NotImplementedError

    def _steps(self) -> Sequence[tuple[Step, float]]:
        """What may come next, and how likely."""
        raise NotImplementedError

    def _dense_within(self, x: Any, units: int) -> Any:
        """A dense layer whose products, weights and outputs are within bounds."""
        *rows, depth = shape_of(x)
        count = math.prod(rows)
        scale = self._scale
        most = min(
            scale.products // (count * depth), scale.weights // depth, scale.elements // count
        )
        return self._net.dense(x, max(2, min(units, most)))

    def _choose(self, options: Sequence[Any]) -> Any:
        return options[int(self._random.integers(len(options)))]

    def _chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def _tail(self, x: Any, axis: int) -> Any:
        """What is element-wise and mostly follows a product."""
        if self._chance(0.9):
            x = self._net.bias(x, axis)
        return self._activate(x) if self._chance(0.7) else x

    def _activate(self, x: Any) -> Any:
        emit = self._net.emit
        kind = self._choose(["relu"] * 5 + ["clip", "sigmoid", "silu", "gelu", "tanh", "hard"])
        if kind == "hard":
            shifted = emit(op.add(x, constant(np.array(3, np.float32))))
            shares = emit(op.divide(emit(op.clip(shifted, 0, 6)), constant(np.float32(6))))
            return emit(op.multiply(x, shares))
        if kind == "clip":
            return emit(op.clip(x, 0, 6))
        functions = {"relu": op.nn.relu, "sigmoid": op.sigmoid, "silu": op.nn.silu}
        functions |= {"gelu": op.nn.gelu, "tanh": op.tanh}
        return emit(functions[kind](x))

    def _alone(self, x: Any) -> Any:
        """An element-wise layer of its own: what it reads is also an output."""
        self._kept.append(x)
        made = self._activate(x)
        return self._net.emit(op.add(made, x)) if self._chance(0.5) else made

    def _softmax(self, x: Any) -> Any:
        return self._net.emit(op.nn.softmax(x, -1))


class _Images(_Chain):
    """Layers on tensors of shape (1, channels, height, width)."""

    @staticmethod
    def shape(random: np.random.Generator, scale: _Scale) -> tuple[int, ...]:
        return scale.image(random)

    def _begin(self, x: Any) -> Any:
        """A first layer, which reads few channels, and one that gives many."""
        size, stride = self._choose([(3, 1), (3, 2), (3, 2), (5, 2), (7, 2), (11, 4), (1, 1)])
        x = self._convolve(x, self._channels(8, 96), (size, size), stride)
        return self._convolve(x, self._channels(8, 768), (1, 1), 1) if self._chance(0.7) else x

    def _steps(self) -> Sequence[tuple[Step, float]]:
        return [
            (self._pointwise, 14),
            (self._three_by_three, 16),
            (self._other_kernel, 6),
            (self._grouped, 14),
            (self._depthwise, 16),
            (self._residual, 4),
            (self._pool, 16),
            (self._transposed, 4),
            (self._gate, 10),
            (self._concat, 8),
            (self._split, 4),
            (self._resize, 6),
            (self._shuffle, 2),
            (self._alone, 10),
            (self._normalise, 2),
            (self._respond, 2),
            (self._classify, 2),
            (self._to_last, 2),
        ]

    def _channels(self, low: int = 8, high: int = 1024) -> int:
        channels = _between(self._random, low, max(low, min(high, self._scale.channels)))
        return channels if self._chance(0.15) else max(8, 8 * round(channels / 8))

    def _convolve(
        self, x: Any, channels: int, kernel: Pair, stride: int = 1, **options: int
    ) -> Any:
        """A convolution that leaves a plane its size, or a part of it, of a cost within bounds."""
        _, depth, height, width = shape_of(x)
        dilation, groups = options.get("dilation", 1), options.get("groups", 1)
        each = depth * math.prod(kernel) // groups
        pixels = math.ceil(height / stride) * math.ceil(width / stride)
        most = min(
            self._scale.products // (each * pixels),
            self._scale.weights // each,
            self._scale.elements // pixels,
        )
        channels = max(groups, min(channels, most) // groups * groups)
        padding = [dilation * (size - 1) // 2 for size in kernel] * 2
        made = self._net.conv2d(
            x,
            channels,
            kernel,
            strides=(stride, stride),
            padding=padding,
            dilation=(dilation, dilation),
            groups=groups,
        )
        return self._tail(made, 1)

    def _pointwise(self, x: Any) -> Any:
        return self._convolve(x, self._channels(), (1, 1), 1 if self._chance(0.9) else 2)

    def _three_by_three(self, x: Any) -> Any:
        return self._convolve(x, self._channels(8, 640), (3, 3), 1 if self._chance(0.75) else 2)

    def _other_kernel(self, x: Any) -> Any:
        kernel = self._choose([(1, 3), (3, 1), (1, 7), (7, 1), (5, 5), (5, 5), (7, 7), (9, 9)])
        stride = 1 if self._chance(0.8) else 2
        return self._convolve(x, self._channels(8, 384), kernel, stride)

    def _grouped(self, x: Any) -> Any:
        groups = [count for count in (2, 3, 4, 8, 16) if shape_of(x)[1] % count == 0]
        if not groups or self._chance(0.2):
            return self._convolve(x, self._channels(8, 256), (3, 3), 1, dilation=2)
        kernel, stride = self._choose([(1, 1), (3, 3), (5, 5)]), self._choose([1, 1, 2])
        return self._convolve(x, self._channels(), kernel, stride, groups=self._choose(groups))

    def _depthwise(self, x: Any) -> Any:
        channels, size = shape_of(x)[1], self._choose([3, 3, 3, 5, 5, 7])
        made = self._convolve(
            x, channels, (size, size), self._choose([1, 1, 1, 2]), groups=channels
        )
        return self._pointwise(made) if self._chance(0.5) else made

    def _residual(self, x: Any) -> Any:
        """Two convolutions, and what came before them."""
        channels, kernel = shape_of(x)[1], self._choose([(1, 1), (3, 3)])
        branch = self._convolve(x, self._channels(8, 256), (1, 1))
        made = self._net.bias(self._convolve(branch, channels, kernel))
        if shape_of(made) != shape_of(x):
            return made
        return self._net.relu(self._net.emit(op.add(made, x)))

    def _pool(self, x: Any) -> Any:
        plane = shape_of(x)[2:]
        size, stride, side = self._choose([(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (5, 1, 2)])
        if min(plane) < 8:
            size, stride, side = 3, 1, 1
        pool = op.nn.max_pool2d if self._chance(0.7) else op.nn.avg_pool2d
        return self._net.emit(pool(x, (size, size), (stride, stride), (side,) * 4))

    def _transposed(self, x: Any) -> Any:
        size, stride, side = self._choose([(2, 2, 0), (4, 2, 1), (3, 2, 1), (3, 1, 1)])
        depth, pixels = shape_of(x)[1], math.prod(shape_of(x)[2:])
        most = self._scale.products // (depth * size * size * pixels)
        channels = max(1, min(self._channels(1, 256), most))
        made = self._net.conv2d_transpose(
            x, channels, (size, size), strides=(stride, stride), padding=(side,) * 4
        )
        return self._tail(made, 1)

    def _gate(self, x: Any) -> Any:
        return self._net.gate(x, max(4, shape_of(x)[1] // self._choose([4, 8, 16])))

    def _concat(self, x: Any) -> Any:
        kernels = [self._choose([(1, 1), (1, 1), (3, 3)]) for _ in range(self._choose([1, 2, 3]))]
        parts = [self._convolve(x, self._channels(8, 256), kernel) for kernel in kernels]
        return self._net.emit(op.concat([x, *parts] if self._chance(0.5) else parts * 2, 1))

    def _split(self, x: Any) -> Any:
        channels = shape_of(x)[1]
        begin = self._choose([0, channels // 2])
        return self._net.emit(op.strided_slice(x, [1], [begin], [begin + max(1, channels // 2)]))

    def _resize(self, x: Any) -> Any:
        factor = self._choose([2, 2, 4, 8])
        size = (factor * shape_of(x)[2], factor * shape_of(x)[3])
        method = self._choose(["nearest_neighbor", "nearest_neighbor", "linear"])
        mode = "asymmetric" if method == "nearest_neighbor" else "half_pixel"
        return self._net.emit(
            op.image.resize2d(
                x,
                size,
                method=method,
                coordinate_transformation_mode=mode,
                rounding_method="floor" if method == "nearest_neighbor" else "round",
            )
        )

    def _shuffle(self, x: Any) -> Any:
        groups = [count for count in (2, 3, 4, 8) if shape_of(x)[1] % count == 0]
        return self._net.shuffle(x, self._choose(groups)) if groups else self._alone(x)

    def _normalise(self, x: Any) -> Any:
        return self._net.instance_norm(x)

    def _respond(self, x: Any) -> Any:
        """Local response normalisation."""
        emit = self._net.emit
        squares = emit(op.expand_dims(emit(op.multiply(x, x)), [1]))
        means = emit(
            op.nn.avg_pool3d(squares, (5, 1, 1), (1, 1, 1), (2, 0, 0), count_include_pad=True)
        )
        scaled = emit(op.multiply(emit(op.squeeze(means, [1])), constant(np.float32(1e-4))))
        shifted = emit(op.add(scaled, constant(np.float32(1))))
        return emit(op.divide(x, emit(op.power(shifted, constant(np.float32(0.75))))))

    def _classify(self, x: Any) -> Any:
        """Global pooling, two dense layers and a softmax, beside what goes on."""
        rows = self._net.emit(op.mean(x, [2, 3]))
        hidden = self._net.relu(self._dense_within(rows, self._channels(64, 2048)))
        self._kept.append(self._softmax(self._dense_within(hidden, self._channels(10, 4096))))
        return x

    def _to_last(self, x: Any) -> Any:
        """Channels last, as some exporters want them, and back."""
        moved = self._net.emit(op.permute_dims(x, (0, 2, 3, 1)))
        normal = self._net.layer_norm(moved) if self._chance(0.5) else self._softmax(moved)
        return self._net.emit(op.permute_dims(normal, (0, 3, 1, 2)))


class _Sequences(_Chain):
    """Layers on tensors of shape (1, length, width)."""

    @staticmethod
    def shape(random: np.random.Generator, scale: _Scale) -> tuple[int, ...]:
        return scale.sequence(random)

    def _begin(self, x: Any) -> Any:
        return self._net.layer_norm(x)

    def _steps(self) -> Sequence[tuple[Step, float]]:
        return [
            (self._dense, 8),
            (self._vector, 6),
            (self._attend, 8),
            (self._attend_jointly, 10),
            (self._residual_norm, 10),
            (self._normalise_by_hand, 6),
            (self._alone, 10),
            (self._embed, 4),
            (self._reduce, 8),
            (self._conv1d, 5),
            (self._vocabulary, 4),
            (self._transpose, 6),
        ]

    def _width(self, low: int = 64, high: int = 2048) -> int:
        high = max(low, min(high, 4 * self._scale.channels))
        return 8 * max(1, round(_between(self._random, low, high) / 8))

    def _dense(self, x: Any) -> Any:
        made = self._dense_within(x, self._width())
        return self._activate(made) if self._chance(0.5) else made

    def _vector(self, x: Any) -> Any:
        """Two products of one row, which read more weights than fit in caches."""
        row = self._net.emit(op.mean(x, [1]))
        row = self._net.relu(self._dense_within(row, self._width(128, 8192)))
        self._kept.append(self._dense_within(row, self._width(64, 4096)))
        return x

    def _attend(self, x: Any) -> Any:
        width = shape_of(x)[2]
        heads = [count for count in (1, 2, 3, 4, 8, 12) if width % count == 0]
        return self._net.emit(op.add(x, self._net.attend(x, self._choose(heads))))

    def _attend_jointly(self, x: Any) -> Any:
        """Attention whose queries, keys and values are one product, as exporters write it."""
        emit, (_, length, width) = self._net.emit, shape_of(x)
        heads = self._choose([count for count in (1, 2, 3, 4, 6, 8, 12) if width % count == 0])
        each = width // heads
        joint = emit(op.reshape(self._net.dense(x, 3 * width), (1, length, 3, heads, each)))
        parts = emit(op.split(emit(op.permute_dims(joint, (2, 0, 3, 1, 4))), 3, 0))
        query, key, value = (
            emit(op.squeeze(emit(relax.TupleGetItem(parts, n)), [0])) for n in range(3)
        )
        scaled = emit(op.multiply(query, constant(np.array(each**-0.5, np.float32))))
        scores = emit(op.matmul(scaled, emit(op.permute_dims(key, (0, 1, 3, 2)))))
        mixed = emit(op.matmul(self._softmax(scores), value))
        rows = emit(op.reshape(emit(op.permute_dims(mixed, (0, 2, 1, 3))), (1, length, width)))
        return emit(op.add(self._net.dense(rows, width), x))

    def _normalise_by_hand(self, x: Any) -> Any:
        """A layer norm in single operators, as older exporters write it."""
        emit, width = self._net.emit, shape_of(x)[2]
        centred = emit(op.subtract(x, emit(op.mean(x, [2], keepdims=True))))
        squares = emit(op.power(centred, constant(np.array(2, np.float32))))
        variance = emit(op.mean(squares, [2], keepdims=True))
        deviation = emit(op.sqrt(emit(op.add(variance, constant(np.array(1e-5, np.float32))))))
        scaled = emit(op.multiply(emit(op.divide(centred, deviation)), self._net.weights(width)))
        return emit(op.add(scaled, self._net.weights(width)))

    def _residual_norm(self, x: Any) -> Any:
        self._kept.append(x)
        return self._net.layer_norm(self._net.emit(op.add(x, self._net.dense(x, shape_of(x)[2]))))

    def _embed(self, x: Any) -> Any:
        """Rows of a table, by number."""
        length, width = shape_of(x)[1:]
        rows = min(_between(self._random, 100, 30_000), self._scale.weights // width)
        numbers = self._random.integers(0, rows, (1, length))
        position = self._net.emit(op.argmax(x, 2))
        kept = self._net.emit(op.minimum(position, constant(numbers.astype(np.int64))))
        return self._net.emit(op.take(self._net.weights(rows, width), kept, 0))

    def _reduce(self, x: Any) -> Any:
        kind, axis = self._choose([op.sum, op.mean, op.max]), self._choose([1, 2])
        self._kept.append(self._net.emit(kind(x, [axis])))
        return x

    def _conv1d(self, x: Any) -> Any:
        """Over the length, with the width as channels."""
        turned = self._net.emit(op.permute_dims(x, (0, 2, 1)))
        kernel = self._choose([1, 3, 5])
        side = kernel // 2
        most = self._scale.products // (kernel * math.prod(shape_of(x)))
        made = self._net.conv1d(
            turned, max(8, min(self._width(32, 512), most)), kernel, padding=[side, side]
        )
        return self._net.emit(op.permute_dims(self._net.relu(made), (0, 2, 1)))

    def _vocabulary(self, x: Any) -> Any:
        self._kept.append(self._softmax(self._dense_within(x, self._width(500, 10_000))))
        return x

    def _transpose(self, x: Any) -> Any:
        turned = self._net.emit(op.permute_dims(x, (0, 2, 1)))
        made = self._softmax(turned) if self._chance(0.5) else self._net.emit(op.exp(turned))
        return self._net.emit(op.permute_dims(made, (0, 2, 1)))


class _Planes(_Images):
    """Layers on images that are no products, each on what the first one made."""

    def _begin(self, x: Any) -> Any:
        self._whole = self._convolve(x, self._channels(8, 1024), (1, 1))
        return self._whole

    def _steps(self) -> Sequence[tuple[Step, float]]:
        return [
            (self._pool_again, 24),
            (self._average, 14),
            (self._scale_channels, 14),
            (self._join, 16),
            (self._split, 8),
            (self._resize, 10),
            (self._alone, 10),
            (self._depthwise_again, 10),
            (self._shuffle, 2),
        ]

    def _again(self, x: Any) -> Any:
        """The first tensor, to have as many large ones as small ones."""
        return self._whole if self._chance(0.6) else x

    def _pool_again(self, x: Any) -> Any:
        return self._pool(self._again(x))

    def _depthwise_again(self, x: Any) -> Any:
        return self._depthwise(self._again(x))

    def _average(self, x: Any) -> Any:
        """Over whole planes."""
        self._kept.append(self._net.emit(op.mean(self._again(x), [2, 3], keepdims=True)))
        return x

    def _scale_channels(self, x: Any) -> Any:
        x = self._again(x)
        shares = self._net.emit(op.sigmoid(self._net.emit(op.mean(x, [2, 3], keepdims=True))))
        scaled = self._net.emit(op.multiply(x, shares))
        return self._net.emit(op.add(scaled, x)) if self._chance(0.4) else scaled

    def _join(self, x: Any) -> Any:
        """Tensors of the same plane, which other layers read, too."""
        pool = op.nn.max_pool2d(x, (3, 3), (1, 1), (1, 1, 1, 1))
        parts = [x, *[self._net.emit(pool)] * self._choose([1, 1, 2, 3])]
        joined = self._net.emit(op.concat(parts, 1))
        return self._net.relu(joined) if self._chance(0.3) else joined


class _Rows(_Sequences):
    """Layers on sequences that are no products."""

    def _steps(self) -> Sequence[tuple[Step, float]]:
        return [
            (self._norm_again, 20),
            (self._normalise_by_hand, 14),
            (self._softmax, 8),
            (self._reduce, 14),
            (self._alone, 16),
            (self._transpose, 8),
            (self._take_apart, 14),
            (self._heads, 10),
        ]

    def _norm_again(self, x: Any) -> Any:
        self._kept.append(x)
        return self._net.layer_norm(x)

    def _take_apart(self, x: Any) -> Any:
        """Thirds, one after the other."""
        emit, (_, length, width) = self._net.emit, shape_of(x)
        each = width // 3
        row = emit(op.strided_slice(x, [2], [0], [3 * each]))
        joint = emit(op.permute_dims(emit(op.reshape(row, (length, 3, each))), (1, 0, 2)))
        parts = emit(op.split(joint, 3, 0))
        thirds = [emit(op.squeeze(emit(relax.TupleGetItem(parts, n)), [0])) for n in range(3)]
        self._kept += [emit(op.nn.relu(third)) for third in thirds]
        return x

    def _heads(self, x: Any) -> Any:
        """To heads and back."""
        emit, (_, length, width) = self._net.emit, shape_of(x)
        heads = self._choose([count for count in (1, 2, 4, 8) if width % count == 0])
        apart = emit(op.reshape(x, (1, length, heads, width // heads)))
        moved = emit(op.exp(emit(op.permute_dims(apart, (0, 2, 1, 3)))))
        return emit(op.reshape(emit(op.permute_dims(moved, (0, 2, 1, 3))), (1, length, width)))


_KINDS: Sequence[type[_Chain]] = (_Images, _Sequences, _Planes, _Rows)
_SHARES = (0.48, 0.16, 0.22, 0.14)
"""How many chains are of each kind."""
