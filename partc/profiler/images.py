# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# TVM ships no types.
"""Chains of layers on images: some mostly products, some that only move and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.relax import op

from partc.passes.expressions import constant, shape_of
from partc.profiler.chain import Chain, Scale, Step, between, usual
from partc.profiler.layers import Pair

_CHANNELS = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 2048)


class Images(Chain):
    """Layers on tensors of shape (1, channels, height, width)."""

    @staticmethod
    def shape(random: np.random.Generator, scale: Scale) -> tuple[int, ...]:
        return scale.image(random)

    def _begin(self, x: Any) -> Any:
        """A first layer, which reads few channels, and one that gives many."""
        size, stride = self._choose([(3, 1), (3, 2), (3, 2), (5, 2), (7, 2), (11, 4), (1, 1)])
        x = self._convolve(x, self._channels(8, 96), (size, size), stride)
        return self._convolve(x, self._channels(8, 768), (1, 1), 1) if self._chance(0.7) else x

    def _steps(self) -> Sequence[tuple[Step, float]]:
        return [
            (self._pointwise, 14),
            (self._three_by_three, 20),
            (self._other_kernel, 6),
            (self._grouped, 14),
            (self._depthwise, 34),
            (self._residual, 4),
            (self._pool, 16),
            (self._transposed, 4),
            (self._gate, 10),
            (self._concat, 12),
            (self._split, 4),
            (self._resize, 6),
            (self._shuffle, 2),
            (self._alone, 10),
            (self._normalise, 2),
            (self._respond, 2),
            (self._classify, 4),
            (self._to_last, 2),
            (self._normalise_groups, 3),
            (self._pad, 2),
            (self._pool_adaptively, 2),
        ]

    def _channels(self, low: int = 8, high: int = 1024) -> int:
        channels = between(self._random, low, max(low, min(high, self._scale.channels)))
        if self._chance(0.15):
            return channels
        return usual(self._random, max(8, 8 * round(channels / 8)), _CHANNELS)

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

    def _normalise_groups(self, x: Any) -> Any:
        groups = [count for count in (1, 2, 4, 8, 16, 32) if shape_of(x)[1] % count == 0]
        return self._net.group_norm(x, self._choose(groups))

    def _pad(self, x: Any) -> Any:
        """Beside what goes on: a convolution that follows would pad for itself."""
        before, after = self._choose([(1, 1), (0, 1), (2, 2), (3, 3)])
        widths = [0, 0, 0, 0, before, after, before, after]
        mode = self._choose(["constant", "reflect", "replicate"])
        self._keep(self._net.emit(op.nn.pad(x, widths, mode)))
        return x

    def _pool_adaptively(self, x: Any) -> Any:
        """To a plane of some pixels, or of one."""
        size = min(self._choose([1, 2, 3, 6, 7]), *shape_of(x)[2:])
        self._kept.append(self._net.emit(op.nn.adaptive_avg_pool2d(x, (size, size))))
        return x

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
        rows = self._flatten(x)
        hidden = self._net.relu(self._dense_within(rows, self._channels(64, 2048)))
        self._kept.append(self._softmax(self._dense_within(hidden, self._channels(10, 4096))))
        return x

    def _flatten(self, x: Any) -> Any:
        """One row, of averages or of a small plane."""
        channels, *plane = shape_of(x)[1:]
        if self._chance(0.4):
            return self._net.emit(op.mean(x, [2, 3]))
        if max(plane) <= 14 and self._chance(0.6):
            averages = self._net.emit(op.nn.avg_pool2d(x, plane, (1, 1)))
            return self._net.emit(op.reshape(averages, (1, channels)))
        if channels * math.prod(plane) > self._scale.elements / 16:
            return self._net.emit(op.mean(x, [2, 3]))
        pooled = self._net.emit(op.nn.max_pool2d(x, (2, 2), (2, 2)))
        return self._net.emit(op.reshape(pooled, (1, math.prod(shape_of(pooled)))))

    def _to_last(self, x: Any) -> Any:
        """Channels last, as some exporters want them, and back."""
        moved = self._net.emit(op.permute_dims(x, (0, 2, 3, 1)))
        normal = self._net.layer_norm(moved) if self._chance(0.5) else self._softmax(moved)
        return self._net.emit(op.permute_dims(normal, (0, 3, 1, 2)))


class Planes(Images):
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
