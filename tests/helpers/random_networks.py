"""Networks of a few layers, drawn at random: every operator that has kernels, in odd sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from hypothesis import strategies as st
from relax_models import make_module
from tvm.relax import op

from partc.passes.expressions import constant, shape_of
from partc.profiler.layers import Layers, Pair

_MOST_NUMBERS = 60_000
_MOST_PRODUCTS = 20_000_000

_ACTIVATIONS: Sequence[Callable[[Any], Any]] = (
    op.nn.relu,
    op.nn.leakyrelu,
    op.sigmoid,
    op.nn.silu,
    op.nn.gelu,
    op.tanh,
    op.erf,
    op.abs,
    lambda x: op.clip(x, -1, 6),
)


@st.composite
def networks(draw: st.DrawFn, max_layers: int = 4) -> tvm.IRModule:
    """Networks of images or of sequences."""
    images = st.tuples(*map(_sizes, (2, 35, 20, 23)))
    sequences = st.tuples(*map(_sizes, (3, 20, 40)))
    shape = draw(st.one_of(images, images, sequences))
    count = draw(st.integers(1, max_layers))

    def build(emit: Callable[..., Any], x: Any) -> list[Any]:
        draft = _Draft(draw, Layers(emit), x)
        for _ in range(count):
            draft.add_layer()
        return draft.results()

    return make_module({"x": shape}, build)


def _sizes(largest: int) -> st.SearchStrategy[int]:
    return st.integers(1, largest)


class _Draft:
    """Adds layers on tensors that are there, most often on the latest."""

    def __init__(self, draw: st.DrawFn, net: Layers, x: Any) -> None:
        self._draw = draw
        self._net = net
        self._tensors = [x]

    def add_layer(self) -> None:
        x = self._tensors[-1]
        if self._draw(st.integers(0, 3)) == 0:
            x = self._choose(self._tensors)
        made = self._choose(self._kinds(x))(x)
        if math.prod(shape_of(made)) <= _MOST_NUMBERS:
            self._tensors.append(self._with_tail(made))

    def results(self) -> list[Any]:
        """The latest tensor, and perhaps another one that layers made."""
        last = self._tensors[-1]
        if last is self._tensors[0]:
            last = self._net.relu(last)
        others = [made for made in self._tensors[1:-1] if self._draw(st.integers(0, 3)) == 0]
        return [last, *others[:1]]

    def _choose(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def _kinds(self, x: Any) -> list[Callable[[Any], Any]]:
        kinds = [self._dense, self._stack_product, self._softmax, self._layer_norm]
        kinds += [self._reduce, self._transpose, self._slice, self._concat, self._activate]
        if len(shape_of(x)) == 3:
            kinds += [self._conv1d]
        if len(shape_of(x)) == 4:
            kinds += [self._conv2d] * 6 + [self._depthwise] * 3 + [self._conv2d_transpose] * 2
            kinds += [self._pool, self._pool, self._pool_all, self._resize, self._shuffle]
            kinds += [self._instance_norm, self._gate]
        return kinds

    # Element-wise operators behind a layer ------------------------------------------------------

    def _with_tail(self, x: Any) -> Any:
        steps = st.lists(st.sampled_from(["bias", "activate", "add"]), max_size=3)
        for step in self._draw(steps):
            x = {"bias": self._bias, "activate": self._activate, "add": self._add}[step](x)
        return x

    def _bias(self, x: Any) -> Any:
        rank = len(shape_of(x))
        return self._net.bias(x, self._draw(st.integers(0, rank - 1))) if rank else x

    def _activate(self, x: Any) -> Any:
        return self._choose([self._hard_swish, self._exponential, self._unary, self._unary])(x)

    def _unary(self, x: Any) -> Any:
        return self._net.emit(self._choose(_ACTIVATIONS)(x))

    def _hard_swish(self, x: Any) -> Any:
        shifted = self._net.emit(op.add(x, constant(np.array(3, np.float32))))
        clipped = self._net.emit(op.clip(shifted, 0, 6))
        product = self._net.emit(op.multiply(x, clipped))
        return self._net.emit(op.divide(product, constant(np.array(6, np.float32))))

    def _exponential(self, x: Any) -> Any:
        return self._net.emit(op.exp(self._net.emit(op.clip(x, -4, 4))))

    def _add(self, x: Any) -> Any:
        """Another tensor of the same shape, or one number for each channel."""
        shape = shape_of(x)
        fitting = (shape, (*shape[:2], *[1] * len(shape[2:])))
        others = [other for other in self._tensors if shape_of(other) in fitting]
        if not others:
            return x
        operands = [x, self._choose(others)]
        return self._net.emit(op.add(*self._draw(st.permutations(operands))))

    # Windows over planes -------------------------------------------------------------------------

    def _conv2d(self, x: Any) -> Any:
        channels = shape_of(x)[1]
        groups = self._choose([1, 1, 1, *_divisors(channels)])
        makes = groups * self._draw(st.integers(1, max(1, 40 // groups)))
        kernel, options = self._window(x)
        return self._net.conv2d(x, makes, kernel, groups=groups, **options)

    def _depthwise(self, x: Any) -> Any:
        kernel, options = self._window(x)
        return self._net.depthwise(x, kernel, **options)

    def _window(self, x: Any) -> tuple[Pair, dict[str, Any]]:
        """A kernel, strides, a dilation and a padding that a plane has room for."""
        kernel = self._choose([(1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (5, 2)])
        plain = self._draw(st.booleans())
        strides = (1, 1) if plain else self._pair(1, 3)
        dilation = (1, 1) if plain else self._pair(1, 2)
        if plain and self._draw(st.booleans()):
            before = after = [size // 2 for size in kernel]
        else:
            before = [self._draw(st.integers(0, size - 1)) for size in kernel]
            after = [self._draw(st.integers(0, size - 1)) for size in kernel]
        spans = [apart * (size - 1) + 1 for apart, size in zip(dilation, kernel, strict=True)]
        sizes = zip(spans, shape_of(x)[2:], before, after, strict=True)
        after = [max(end, span - size - start) for span, size, start, end in sizes]
        padding = (*before, *after)
        return kernel, {"strides": strides, "dilation": dilation, "padding": padding}

    def _pair(self, low: int, high: int) -> Pair:
        return self._draw(st.tuples(*[st.integers(low, high)] * 2))

    def _conv2d_transpose(self, x: Any) -> Any:
        channels = shape_of(x)[1]
        groups = self._choose([1, 1, *_divisors(channels)])
        makes = groups * self._draw(st.integers(1, max(1, 24 // groups)))
        kernel, strides = self._pair(1, 4), self._pair(1, 3)
        sizes = list(zip(kernel, strides, shape_of(x)[2:], strict=True))
        sides = [self._draw(st.integers(0, (size - 1) // 2)) for size in kernel]
        makes_something = all(
            (extent - 1) * stride + size > 2 * side
            for (size, stride, extent), side in zip(sizes, sides, strict=True)
        )
        padding = [*sides, *sides] if makes_something else [0, 0, 0, 0]
        more = [self._draw(st.integers(0, stride - 1)) for stride in strides]
        return self._net.conv2d_transpose(
            x,
            makes,
            kernel,
            strides=strides,
            padding=padding,
            output_padding=(more[0], more[1]),
            groups=groups,
        )

    def _conv1d(self, x: Any) -> Any:
        channels, length = shape_of(x)[1:]
        groups = self._choose([1, 1, *_divisors(channels)])
        kernel = self._draw(st.integers(1, min(5, length)))
        sides = [self._draw(st.integers(0, kernel - 1)) for _ in range(2)]
        makes = groups * self._draw(st.integers(1, 3))
        stride = self._draw(st.integers(1, 2))
        return self._net.conv1d(x, makes, kernel, strides=stride, padding=sides, groups=groups)

    def _pool(self, x: Any) -> Any:
        plane = shape_of(x)[2:]
        size = [self._draw(st.integers(1, min(4, extent))) for extent in plane]
        strides = [self._draw(st.integers(1, min(3, extent))) for extent in size]
        before = [self._draw(st.integers(0, extent // 2)) for extent in size]
        # No window may lie in the padding only, where the number of windows is rounded up.
        steps = zip(size, strides, strict=True)
        after = [self._draw(st.integers(0, min(k // 2, k - stride))) for k, stride in steps]
        options = {"ceil_mode": self._draw(st.booleans())}
        arguments = (size, strides, [*before, *after])
        if self._draw(st.booleans()):
            return self._net.emit(op.nn.max_pool2d(x, *arguments, **options))
        options["count_include_pad"] = self._draw(st.booleans())
        return self._net.emit(op.nn.avg_pool2d(x, *arguments, **options))

    def _pool_all(self, x: Any) -> Any:
        height, width = shape_of(x)[2:]
        output = self._choose([(1, 1), (1, 1), (min(2, height), min(3, width))])
        return self._net.emit(op.nn.adaptive_avg_pool2d(x, output))

    def _resize(self, x: Any) -> Any:
        factors = self._choose([(2, 2), (1, 3), (1.5, 0.6)])
        size = [max(1, int(f * extent)) for f, extent in zip(factors, shape_of(x)[2:], strict=True)]
        modes = [
            ("nearest_neighbor", "asymmetric", "floor"),
            ("nearest_neighbor", "half_pixel", "round_prefer_floor"),
            ("linear", "half_pixel", "round"),
        ]
        if min(size) > 1:  # TVM would divide by zero
            modes.append(("linear", "align_corners", "round"))
        method, mode, rounding = self._choose(modes)
        return self._net.emit(
            op.image.resize2d(
                x,
                tuple(size),
                method=method,
                coordinate_transformation_mode=mode,
                rounding_method=rounding,
            )
        )

    # Channels ------------------------------------------------------------------------------------

    def _shuffle(self, x: Any) -> Any:
        return self._net.shuffle(x, self._choose(_divisors(shape_of(x)[1])))

    def _gate(self, x: Any) -> Any:
        return self._net.gate(x, self._draw(st.integers(1, 9)))

    def _instance_norm(self, x: Any) -> Any:
        return self._net.instance_norm(x)

    def _concat(self, x: Any) -> Any:
        """With others that differ along the axis at most, and with itself."""
        axis = self._draw(st.integers(0, len(shape_of(x)) - 1))
        fitting = [t for t in self._tensors if _without(t, axis) == _without(x, axis)]
        parts = self._draw(st.lists(st.sampled_from([x, *fitting]), min_size=1, max_size=2))
        return self._net.emit(op.concat([x, *parts], axis))

    # Matrices and rows ---------------------------------------------------------------------------

    def _dense(self, x: Any) -> Any:
        rows = x
        if len(shape_of(x)) == 4 and self._draw(st.booleans()):
            rows = self._net.emit(op.reshape(x, (shape_of(x)[0], -1)))
        units = self._draw(st.sampled_from([1, 5, 16, 33, 65]))
        if math.prod(shape_of(rows)) * units > _MOST_PRODUCTS:
            return self._activate(x)
        return self._net.dense(rows, units)

    def _stack_product(self, x: Any) -> Any:
        """Each matrix of a stack times itself, transposed."""
        rank = len(shape_of(x))
        if rank < 2:
            return self._activate(x)
        axes = [*range(rank - 2), rank - 1, rank - 2]
        return self._net.emit(op.matmul(x, self._net.emit(op.permute_dims(x, axes))))

    def _axis(self, x: Any) -> int:
        return self._draw(st.integers(-1, max(0, len(shape_of(x)) - 1)))

    def _softmax(self, x: Any) -> Any:
        axis = self._axis(x)
        if shape_of(x)[axis] == 1:  # equal numbers, of which a norm that follows leaves rounding
            return x
        softmax = self._choose([op.nn.softmax, op.nn.softmax, op.nn.log_softmax])
        return self._net.emit(softmax(x, axis))

    def _layer_norm(self, x: Any) -> Any:
        rank = len(shape_of(x))
        return self._net.layer_norm(x, range(self._draw(st.integers(1, rank)) - 1, rank))

    def _reduce(self, x: Any) -> Any:
        axes = self._draw(st.sets(st.integers(0, len(shape_of(x)) - 1), min_size=1))
        kind = self._choose([op.sum, op.mean, op.max, op.min, op.variance])
        kept = self._draw(st.booleans()) or len(axes) == len(shape_of(x))
        return self._net.emit(kind(x, sorted(axes), keepdims=kept))

    def _transpose(self, x: Any) -> Any:
        axes = self._draw(st.permutations(range(len(shape_of(x)))))
        return self._net.emit(op.permute_dims(x, axes))

    def _slice(self, x: Any) -> Any:
        axis = self._draw(st.integers(0, len(shape_of(x)) - 1))
        extent = shape_of(x)[axis]
        begin = self._draw(st.integers(0, extent - 1))
        end = self._draw(st.integers(begin + 1, extent))
        step = self._draw(st.integers(1, 2))
        return self._net.emit(op.strided_slice(x, [axis], [begin], [end], [step]))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _without(x: Any, axis: int) -> tuple[int, ...] | None:
    shape = shape_of(x)
    return (len(shape), *shape[:axis], *shape[axis + 1 :])
