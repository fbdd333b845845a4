# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# TVM ships no types.
"""Chains of layers on sequences of vectors, with products and without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op

from partc.passes.expressions import constant, shape_of
from partc.profiler.chain import SQUARE, Chain, Scale, Step, between


class Sequences(Chain):
    """Layers on tensors of shape (1, length, width)."""

    @staticmethod
    def shape(random: np.random.Generator, scale: Scale) -> tuple[int, ...]:
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
            (self._attend_at_once, 3),
            (self._normalise_by_root, 2),
            (self._log_softmax, 2),
            (self._gather, 2),
            (self._accumulate, 2),
            (self._stack, 2),
        ]

    def _width(self, low: int = 64, high: int = 2048) -> int:
        high = max(low, min(high, 4 * self._scale.channels))
        return 8 * max(1, round(between(self._random, low, high) / 8))

    def _dense(self, x: Any) -> Any:
        widest = math.isqrt(SQUARE // shape_of(x)[1])
        made = self._dense_within(x, min(self._width(), widest))
        return self._activate(made) if self._chance(0.5) else made

    def _vector(self, x: Any) -> Any:
        """Two products of one row, which read more weights than fit in caches."""
        row = self._net.emit(op.mean(x, [1]))
        row = self._net.relu(self._dense_within(row, self._width(128, 8192)))
        self._kept.append(self._dense_within(row, self._width(64, 4096)))
        return x

    def _attend(self, x: Any) -> Any:
        width = shape_of(x)[2]
        return self._net.emit(op.add(x, self._net.attend(x, self._heads_of(width))))

    def _heads_of(self, width: int) -> int:
        """How many heads share a width, mostly of the usual 32 or 64 each."""
        counts = [count for count in (1, 2, 3, 4, 6, 8, 12, 16) if width % count == 0]
        common = [count for count in counts if width // count in (32, 64)]
        return self._choose(common if common and self._chance(0.7) else counts)

    def _attend_jointly(self, x: Any) -> Any:
        """Attention whose queries, keys and values are one product, as exporters write it."""
        emit, (_, length, width) = self._net.emit, shape_of(x)
        heads = self._heads_of(width)
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
        rows = min(between(self._random, 100, 30_000), self._scale.weights // width)
        numbers = self._random.integers(0, rows, (1, length))
        pick = op.argmax if self._chance(0.8) else op.argmin
        position = self._net.emit(pick(x, 2))
        kept = self._net.emit(op.minimum(position, constant(numbers.astype(np.int64))))
        return self._net.emit(op.take(self._net.weights(rows, width), kept, 0))

    def _reduce(self, x: Any) -> Any:
        usual = [op.sum, op.mean, op.max] * 3
        kind, axis = self._choose([*usual, op.min, op.std, op.variance]), self._choose([1, 2])
        self._kept.append(self._net.emit(kind(x, [axis])))
        return x

    def _conv1d(self, x: Any) -> Any:
        """Over the length, with the width as channels."""
        turned = self._net.emit(op.permute_dims(x, (0, 2, 1)))
        kernel, width = self._choose([1, 3, 5]), shape_of(x)[2]
        side = kernel // 2
        groups = self._choose([1, 1, 1, 1, self._heads_of(width), width])
        most = groups * self._scale.products // (kernel * math.prod(shape_of(x)))
        channels = max(8, min(self._width(32, 512), most))
        if groups > 1:
            channels = width
        made = self._net.conv1d(turned, channels, kernel, padding=[side, side], groups=groups)
        return self._net.emit(op.permute_dims(self._net.relu(made), (0, 2, 1)))

    def _vocabulary(self, x: Any) -> Any:
        self._kept.append(self._softmax(self._dense_within(x, self._width(500, 10_000))))
        return x

    def _transpose(self, x: Any) -> Any:
        turned = self._net.emit(op.permute_dims(x, (0, 2, 1)))
        return self._net.emit(op.permute_dims(self._softmax(turned), (0, 2, 1)))

    # What few networks have ------------------------------------------------------------------

    def _attend_at_once(self, x: Any) -> Any:
        """Attention as one operator, as PyTorch exports it."""
        _, length, width = shape_of(x)
        heads = self._heads_of(width)
        apart = self._net.emit(op.reshape(x, (1, length, heads, width // heads)))
        mixed = self._net.emit(op.nn.attention(apart, apart, apart))
        return self._net.emit(op.reshape(mixed, (1, length, width)))

    def _normalise_by_root(self, x: Any) -> Any:
        return self._net.rms_norm(x)

    def _log_softmax(self, x: Any) -> Any:
        self._keep(self._net.emit(op.nn.log_softmax(x, self._choose([-1, -1, 1]))))
        return x

    def _gather(self, x: Any) -> Any:
        """Elements of rows or of columns, by number."""
        shape, axis = shape_of(x), self._choose([1, 2])
        numbers = self._random.integers(0, shape[axis], shape)
        return self._net.emit(op.gather_elements(x, constant(numbers), axis))

    def _accumulate(self, x: Any) -> Any:
        self._keep(self._net.emit(op.cumsum(x, self._choose([1, 2]))))
        return x

    def _stack(self, x: Any) -> Any:
        parts = [x] * self._choose([2, 3])
        self._keep(self._net.emit(op.stack(parts, self._choose([1, 2, 3]))))
        return x


class Rows(Sequences):
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
            (self._normalise_by_root, 3),
            (self._log_softmax, 3),
            (self._gather, 2),
            (self._accumulate, 3),
            (self._stack, 2),
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
        moved = self._softmax(emit(op.permute_dims(apart, (0, 2, 1, 3))))
        return emit(op.reshape(emit(op.permute_dims(moved, (0, 2, 1, 3))), (1, length, width)))
