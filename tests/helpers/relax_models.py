"""Small Relax modules for tests, drawn at random or built by hand, and the means to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import relax
from tvm.relax import op

from partc.graph import Layer, LayerCost, LayerGraph, Tensor
from partc.passes.build import build_graph
from partc.passes.expressions import constant, op_name, shape_of, tensor_type
from partc.plan import Cut
from partc.profiler.layers import make_module as make_module

Array = NDArray[np.generic]


def weights(*shape: int, dtype: str = "float32", low: float = -1.0, high: float = 1.0) -> Any:
    """A constant of numbers that look random, different for every shape."""
    generator = np.random.default_rng(len(shape) + sum(shape))
    return constant(generator.uniform(low, high, shape).astype(dtype))


def batch_norm(data: Any, channels: int, dtype: str = "float32", **attributes: Any) -> Any:
    """A batch norm for inference over axis 1, with different statistics for every channel."""
    mean, gamma, beta = (weights(channels, dtype=dtype, low=low) for low in (-1, 0.5, -0.7))
    variance = weights(channels, dtype=dtype, low=0.3, high=2)
    attributes = {"axis": 1, "training": False, **attributes}
    return op.nn.batch_norm(data, gamma, beta, mean, variance, **attributes)


def op_names(module: tvm.IRModule) -> list[str]:
    """The operators that ``main`` calls, in order."""
    return [
        op_name(binding.value)
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]


def signature(module: tvm.IRModule) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs of a canonical module, by its variables' names, and its outputs, ``y0``, ...."""
    main = module["main"]
    return (
        [Tensor(param.name, tensor_type(param)) for param in main.params],
        [
            Tensor(f"y{index}", tensor_type(output))
            for index, output in enumerate(main.body.body.fields)
        ],
    )


def layer_graph(canonical: tvm.IRModule) -> LayerGraph:
    """The layers of a canonical module; they cost nothing."""
    graph = build_graph("toy", canonical, *signature(canonical))
    free = LayerCost(device_ms=0, server_ms=0, device_mj=0)
    return graph.with_layers(replace(layer, cost=free) for layer in graph.layers)


def cut_from(graph: LayerGraph, layers: Sequence[Layer]) -> Cut:
    """These layers and all that depend on them on the server."""
    server = {layer.name for layer in layers}
    for layer in graph.layers:
        makers = (graph.producers.get(tensor.name) for tensor in layer.inputs)
        if any(maker and maker.name in server for maker in makers):
            server.add(layer.name)
    return Cut(frozenset(server))


def random_inputs(function: relax.Function) -> list[Array]:
    """One array for each parameter: normal numbers, or small integers."""
    generator = np.random.default_rng(0)
    types = [tensor_type(param) for param in function.params]
    return [(3 * generator.standard_normal(t.shape)).astype(t.dtype) for t in types]


class Machine:
    """Every function of a module, compiled by TVM's default pipeline and hardly optimised."""

    def __init__(self, module: tvm.IRModule) -> None:
        target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
        self._machine = relax.VirtualMachine(tvm.compile(module, target), tvm.cpu())

    def run(self, name: str, arrays: Sequence[Array]) -> list[Array]:
        results = self._machine[name](*map(tvm.runtime.tensor, arrays))
        return [result.numpy() for result in results]


def assert_close(found: Sequence[Array], expected: Sequence[Array]) -> None:
    """Compare results; floating-point numbers up to what rounding and reordering can do."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if not np.issubdtype(other.dtype, np.floating):
            np.testing.assert_array_equal(one, other)
            continue
        tolerance = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2}[str(other.dtype)]
        scale = float(np.max(np.abs(other), initial=1.0))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


# Modules drawn at random -------------------------------------------------------------------------

_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": op.add,
    "multiply": op.multiply,
    "subtract": op.subtract,
    "divide": op.divide,
}


@st.composite
def relax_modules(draw: st.DrawFn, max_steps: int = 12) -> tvm.IRModule:
    """Convolutional networks with what exporters put between layers, in no sensible order.

    64-bit numbers, so that a wrong result cannot be taken for rounding.
    """
    dtype = draw(st.sampled_from(["float64", "float64", "float64", "int64"]))
    shape = draw(st.sampled_from([(1, 4, 5, 6), (2, 2, 4, 4), (1, 1, 3, 3)]))
    names = [f"x{index}" for index in range(draw(st.integers(1, 2)))]
    drafts: list[_Draft] = []

    def build(emit: Callable[..., Any], *params: Any) -> list[Any]:
        drafts.append(_Draft(draw, emit, list(params), dtype))
        return drafts[0].results(draw(st.integers(1, max_steps)))

    return make_module(dict.fromkeys(names, shape), build, dtype)


class _Draft:
    """Adds operators on tensors that are there; the latest is the likeliest to be read next."""

    def __init__(
        self, draw: st.DrawFn, emit: Callable[..., Any], tensors: list[Any], dtype: str
    ) -> None:
        self._draw = draw
        self._emit = emit
        self._tensors = tensors
        self._dtype = dtype

    def results(self, steps: int) -> list[Any]:
        """Draw operators, then which tensors are returned: any, several times, or a constant."""
        for _ in range(steps):
            made = self._step()
            self._tensors += made
        others = self._draw(st.lists(st.sampled_from(self._tensors), max_size=2))
        constants = [self._constant((3,))] if self._draw(st.integers(0, 5)) == 0 else []
        return [self._tensors[-1], *others, *constants]

    def _step(self) -> list[Any]:
        data = self._pick()
        kinds = [self._affine, self._affine, self._unary, self._pairwise, self._move, self._items]
        if len(shape_of(data)) == 4:
            kinds += [self._convolution, self._convolution, self._convolution, self._window]
        if len(shape_of(data)) > 1 and self._dtype != "int64":
            kinds += [self._batch_norm]
        return self._draw(st.sampled_from(kinds))(data)

    def _pick(self) -> Any:
        if self._draw(st.integers(0, 3)):
            return self._tensors[-1]
        return self._draw(st.sampled_from(self._tensors))

    def _constant(self, shape: tuple[int, ...]) -> Any:
        """Numbers in [0.5, 2] of either sign, so that dividing by them keeps the scale."""
        generator = np.random.default_rng(self._draw(st.integers(0, 9)))
        sizes = generator.uniform(0.5, 2, shape) * generator.choice([-1, 1], shape)
        return constant(np.asarray(sizes if self._dtype == "float64" else 3 * sizes, self._dtype))

    def _affine(self, data: Any) -> list[Any]:
        shape = shape_of(data)
        per_channel = shape[1:2] + (1,) * len(shape[2:])
        shapes = [(), per_channel, (1, *per_channel), shape, shape[-1:], (2, *shape[1:])]
        if len(shape) < 2 or shape[0] != 1:
            shapes.pop()
        if len(shape) < 2:
            shapes = [(), shape]
        other = self._constant(self._draw(st.sampled_from(shapes)))
        name = self._draw(st.sampled_from(["add", "multiply", "subtract", "divide"]))
        if name == "divide":
            name = "multiply" if self._dtype == "int64" else name
        elif self._draw(st.booleans()):
            data, other = other, data
        return [self._emit(_BINARY[name](data, other))]

    def _unary(self, data: Any) -> list[Any]:
        if self._dtype == "int64":
            return [self._emit(op.nn.relu(data))]
        call = self._draw(st.sampled_from([op.nn.relu, op.sigmoid, op.nn.silu]))(data)
        return [self._emit(call)]

    def _pairwise(self, data: Any) -> list[Any]:
        same = [tensor for tensor in self._tensors if shape_of(tensor) == shape_of(data)]
        other = self._draw(st.sampled_from(same))
        if self._draw(st.booleans()):
            return [self._emit(op.add(other, data))]
        axis = self._draw(st.sampled_from([0, -1]))
        stacked = self._emit(op.stack([data, other, data], axis))
        total = self._emit(op.sum(stacked, self._draw(st.sampled_from([axis, 0]))))
        return [total] if self._draw(st.booleans()) else [stacked, total]

    def _move(self, data: Any) -> list[Any]:
        shape = shape_of(data)
        transposed = tuple(reversed(range(len(shape))))
        call = self._draw(
            st.sampled_from(
                [
                    op.reshape(data, shape),
                    op.reshape(data, (*shape, 1)),
                    op.permute_dims(data, transposed),
                    op.squeeze(data),
                    op.astype(data, self._dtype),
                ]
            )
        )
        return [self._emit(call)]

    def _items(self, data: Any) -> list[Any]:
        if self._draw(st.booleans()):
            dropped = self._emit(op.nn.dropout(data, 0.5))
            return [self._emit(relax.TupleGetItem(dropped, 0))]
        axis = next((axis for axis, extent in enumerate(shape_of(data)) if extent % 2 == 0), None)
        if axis is None:
            return []
        halves = self._emit(op.split(data, 2, axis))
        items = [self._emit(relax.TupleGetItem(halves, index)) for index in (1, 0, 1)]
        joined = self._emit(op.concat(self._draw(st.sampled_from([halves, items[:2]])), axis))
        return [*items, joined]

    def _convolution(self, data: Any) -> list[Any]:
        channels = shape_of(data)[1]
        groups = self._draw(st.sampled_from([1, channels]))
        makes = groups * self._draw(st.integers(1, 2))
        sides = self._draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
        if self._draw(st.booleans()):
            top, left, bottom, right = self._draw(st.sampled_from([(1, 1, 1, 1), (0, 2, 1, 0)]))
            widths = [0, 0, 0, 0, top, bottom, left, right]
            value = self._draw(st.sampled_from([0.0, 0.0, 1.0]))
            data = self._emit(op.nn.pad(data, widths, "constant", value))
            self._tensors.append(data)
        extents = shape_of(data)[2:]
        kernel = [
            self._draw(st.integers(1, min(3, extent + sides[axis] + sides[axis + 2])))
            for axis, extent in enumerate(extents)
        ]
        weight = self._constant((makes, channels // groups, *kernel))
        strides = self._draw(st.sampled_from([(1, 1), (2, 1)]))
        conv = op.nn.conv2d(data, weight, strides=strides, padding=sides, groups=groups)
        return [self._emit(conv)]

    def _window(self, data: Any) -> list[Any]:
        padded = self._emit(op.nn.pad(data, [0, 0, 0, 0, 1, 0, 0, 1]))
        return [self._emit(op.nn.max_pool2d(padded, (2, 2)))]

    def _batch_norm(self, data: Any) -> list[Any]:
        axis = self._draw(st.integers(0, len(shape_of(data)) - 1))
        attributes = {
            "axis": axis,
            "scale": self._draw(st.booleans()),
            "center": self._draw(st.booleans()),
            "epsilon": self._draw(st.sampled_from([1e-5, 0.1])),
        }
        normal = self._emit(batch_norm(data, shape_of(data)[axis], self._dtype, **attributes))
        return [self._emit(relax.TupleGetItem(normal, 0))]
