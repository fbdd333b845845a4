from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from relax_models import Machine, layer_graph, make_module, weights
from tiny import INPUT, tiny_inputs
from tvm.relax import op

from partc.codegen import calibrate
from partc.codegen.calibrate import measure_encodings, output_deviation
from partc.compiler import lower_model
from partc.graph import LayerGraph, TensorType
from partc.passes.canonicalize import canonicalize
from partc.passes.encode import Measured
from partc.passes.expressions import constant
from partc.runtime.encodings import decode, encode, encoded_nbytes, encodings_of, is_lossless
from partc.runtime.spec import TensorSpec

Array = NDArray[Any]
ALL = encodings_of("float32")
FORMATS = ("plain", "float16", "uint8")

random = np.random.default_rng(0)
W1, W2, W3 = (random.standard_normal((16, 16)).astype("float32") / 4 for _ in range(3))
X = random.standard_normal((4, 16)).astype("float32")


def graph_of(shapes: Mapping[str, tuple[int, ...]], build: Callable[..., Any]) -> LayerGraph:
    return layer_graph(canonicalize(make_module(dict(shapes), build)))


@cache
def skipping() -> LayerGraph:
    """a = relu(x W1), b = a W2, of which one output is b W3 + a, the other b itself."""

    def build(emit: Any, x: Any) -> list[Any]:
        a = emit(op.nn.relu(emit(op.matmul(x, constant(W1)))))
        b = emit(op.matmul(a, constant(W2)))
        return [emit(op.add(emit(op.matmul(b, constant(W3))), a)), b]

    return graph_of({"x": X.shape}, build)


def through(encoding: str, array: Array) -> Array:
    """An array as it is decoded."""
    spec = TensorSpec("t", str(array.dtype), array.shape)
    return decode(encoding, spec, encode(encoding, array))


def by_encoding(measured: Sequence[Measured]) -> dict[str, Measured]:
    return {each.encoding: each for each in measured}


def relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_what_is_behind_a_tensor_is_computed_from_what_was_decoded_and_nothing_else() -> None:
    """What goes around a tensor stays as it was, and so does an output that is the tensor."""
    graph = skipping()
    (first, second, _) = (layer.outputs[0].name for layer in graph.layers)
    measured = measure_encodings(graph, [{"x": X}], FORMATS)
    assert list(measured) == ["x", first, second]

    def forward(a: Array) -> tuple[Array, Array]:
        return a @ W2 @ W3 + a, a @ W2

    a = np.maximum(X @ W1, 0)
    y0, y1 = forward(a)
    for encoding in ("float16", "uint8"):
        expected = {
            "x": max(map(relative, forward(np.maximum(through(encoding, X) @ W1, 0)), (y0, y1))),
            first: max(map(relative, forward(through(encoding, a)), (y0, y1))),
            second: relative(through(encoding, y1) @ W3 + a, y0),
        }
        for name, deviation in expected.items():
            found = by_encoding(measured[name])[encoding].deviation
            assert found == pytest.approx(deviation, rel=0.02), (encoding, name)


def test_an_output_that_is_read_again_is_the_one_computed_anew() -> None:
    def build(emit: Any, x: Any) -> list[Any]:
        y = emit(op.matmul(x, constant(W1)))
        return [y, emit(op.matmul(y, constant(np.zeros((16, 2), "float32"))))]

    measured = measure_encodings(graph_of({"x": X.shape}, build), [{"x": X}], ["uint8"])
    expected = relative(through("uint8", X) @ W1, X @ W1)
    assert [each.deviation for each in measured["x"]] == [pytest.approx(expected, rel=0.02)]


def test_tensors_in_blocked_layout_are_encoded_as_they_are_sent() -> None:
    """Convolutions hold tensors in blocks of channels, which have other ranges."""
    w1, w2 = weights(32, 3, 3, 3), weights(8, 32, 3, 3)

    def first(emit: Any, x: Any) -> Any:
        return emit(op.nn.relu(emit(op.nn.conv2d(x, w1, padding=1))))

    def second(emit: Any, x: Any) -> Any:
        return emit(op.nn.conv2d(x, w2, padding=1))

    shapes = {"x": (1, 3, 12, 12)}, {"x": (1, 32, 12, 12)}
    halves = [
        Machine(canonicalize(make_module(shape, build)))
        for shape, build in zip(shapes, (first, second), strict=True)
    ]
    graph = graph_of(shapes[0], lambda emit, x: second(emit, first(emit, x)))
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype("float32")
    name = graph.layers[0].outputs[0].name
    found = by_encoding(measure_encodings(graph, [{"x": x}], ALL)[name])

    (between,) = halves[0].run("main", [x])
    (expected,) = halves[1].run("main", [between])
    (decoded,) = halves[1].run("main", [through("uint8", between)])
    assert found["uint8"].deviation == pytest.approx(relative(decoded, expected), rel=0.02)
    assert found["uint8"].nbytes == encoded_nbytes(encode("uint8", between))
    assert found["plain"].nbytes == between.nbytes


def test_lossless_encodings_change_nothing_and_a_format_is_as_wrong_compressed() -> None:
    for measured in measure_encodings(skipping(), [{"x": X}], ALL).values():
        assert [each.encoding for each in measured] == list(ALL)
        found = by_encoding(measured)
        assert {found[name].deviation for name in ALL if is_lossless(name)} == {0}
        for name in ("float16", "uint8"):
            deviations = {found[name + end].deviation for end in ("", "+lz4", "+zstd")}
            assert len(deviations) == 1
            assert 0 < deviations.pop() < 0.1
        assert found["float16"].deviation < found["uint8"].deviation


def test_each_number_format_runs_once_for_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counting(encoding: str, *arguments: Any) -> Array:
        decoded.append(encoding)
        return decode(encoding, *arguments)

    monkeypatch.setattr(calibrate, "decode", counting)
    measure_encodings(skipping(), [{"x": X}], ALL)
    assert decoded == ["float16", "uint8"] * 3


def test_sizes_are_averages_and_deviations_the_largest() -> None:
    zeros = np.zeros_like(X)
    name = "plain+zstd"
    sizes = [encoded_nbytes(encode(name, array)) for array in (X, zeros, zeros)]
    alone, none, both = (
        by_encoding(measure_encodings(skipping(), samples, [name, "uint8"])["x"])
        for samples in ([{"x": X}], [{"x": zeros}], [{"x": zeros}, {"x": X}, {"x": zeros}])
    )
    assert sum(sizes) % 3, "else nothing is rounded"
    assert both[name].nbytes == sum(sizes) // 3 + 1
    assert none["uint8"].deviation == 0 < alone["uint8"].deviation
    assert both["uint8"].deviation == alone["uint8"].deviation


def test_the_same_comes_out_every_time() -> None:
    runs = [measure_encodings(skipping(), [{"x": X}], ALL) for _ in range(2)]
    assert runs[0] == runs[1]


def test_an_integer_that_differs_is_infinitely_wrong() -> None:
    """Two scores are equal in float16, and the first of them wins."""

    def build(emit: Any, x: Any) -> list[Any]:
        scores = emit(op.matmul(x, constant(np.eye(4, dtype="float32"))))
        return [emit(op.argmax(scores, axis=1))]

    graph = graph_of({"x": (1, 4)}, build)
    close, apart = (np.array([[0.5, 1.0, second, 0.0]], "float32") for second in (1.00001, 2.0))
    for scores, deviation in ((close, np.inf), (apart, 0)):
        found = by_encoding(measure_encodings(graph, [{"x": scores}], ALL)["x"])
        assert found["float16"].deviation == found["float16+lz4"].deviation == deviation
        assert found["plain+zstd"].deviation == 0


def test_integers_are_sent_without_loss_and_what_nobody_reads_is_not_sent() -> None:
    def build(emit: Any, x: Any) -> list[Any]:
        index = emit(op.argmax(emit(op.matmul(x, constant(W1))), axis=1))
        return [emit(op.take(constant(W2), index, axis=0))]

    graph = graph_of({"x": X.shape}, build)
    measured = measure_encodings(graph, [{"x": X}], ALL)
    (output,) = graph.outputs
    assert output.name not in measured
    (integers,) = (t for t in graph.tensors if t.type == TensorType("int64", (4,)))
    names = [each.encoding for each in measured[integers.name]]
    assert names == ["plain", "plain+lz4", "plain+zstd"]


def test_no_two_inputs_of_a_version_have_one_name() -> None:
    """Numbers in eight bits come with the input NAME.range."""
    graph = graph_of(
        {"x": (1, 4), "x.range": (1, 4)}, lambda emit, x, other: [emit(op.add(x, other))]
    )
    measured = measure_encodings(graph, [dict.fromkeys(("x", "x.range"), X[:1, :4])], ALL)
    names = {name: {each.encoding for each in found} for name, found in measured.items()}
    assert names["x.range"] - names["x"] == {"uint8"}


def test_only_what_was_asked_for_is_measured() -> None:
    names = ("uint8+zstd", "plain+lz4")
    for measured in measure_encodings(skipping(), [{"x": X}], names).values():
        assert [each.encoding for each in measured] == ["plain+lz4", "uint8+zstd"]


def test_names_that_are_no_identifiers(tiny_model: Path) -> None:
    measured = measure_encodings(lower_model(tiny_model), [tiny_inputs()], ["float16"])
    assert list(measured) == [INPUT, "act"]
    assert all(0 < each.deviation < 1e-2 for (each,) in measured.values())


class TestProgress:
    SAMPLES = ({"x": X}, {"x": 2 * X})

    def test_counts_the_tensors_of_all_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibrate, "_PACE_S", 0)
        told: list[str] = []
        measure_encodings(skipping(), self.SAMPLES, ALL, told.append)
        assert told == [
            "Compiling 3 layers one by one for this machine",
            *(f"Calibrating tensors: {done} of 6" for done in range(6)),
        ]

    def test_is_told_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibrate, "_PACE_S", 1000)
        told: list[str] = []
        measure_encodings(skipping(), self.SAMPLES, ALL, told.append)
        assert told[1:] == ["Calibrating tensors: 0 of 6"]

    @pytest.mark.parametrize("line", ["Compiling", "Calibrating"])
    def test_an_interruption_that_nobody_saw_ends_it(self, line: str) -> None:
        def interrupt(told: str) -> None:
            if not told.startswith(line):
                return
            try:
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait(5)
            except KeyboardInterrupt:
                pass

        with pytest.raises(KeyboardInterrupt):
            measure_encodings(skipping(), [{"x": X}], ALL, interrupt)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("found", "expected", "deviation"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0),
        ([1.0, -4.5], [1.5, -4.0], 0.125),
        ([0.0, 0.0], [0.0, 0.0], 0),
        ([0.0, 1e-30], [0.0, 0.0], INF),
        ([NAN, 1.0, INF, -INF], [NAN, 2.0, INF, -INF], 0.5),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([INF, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([1.0, 1.0], [INF, 1.0], INF),
        ([-INF, 1.0], [INF, 1.0], INF),
        ([], [], 0),
    ],
)
def test_how_far_an_output_is_off(
    found: list[float], expected: list[float], deviation: float
) -> None:
    arrays = (np.array(found, "float32"), np.array(expected, "float32"))
    assert output_deviation(*arrays) == pytest.approx(deviation)


def test_a_difference_of_large_float16_is_no_infinity() -> None:
    found, expected = np.array([-60000], "float16"), np.array([60000], "float16")
    assert output_deviation(found, expected) == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_what_is_no_floating_point_has_to_be_equal(dtype: str) -> None:
    expected = np.array([0, 1, 1], dtype)
    assert output_deviation(expected.copy(), expected) == 0
    assert output_deviation(np.array([0, 1, 0], dtype), expected) == INF


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), st.floats(0.01, 100))
def test_a_deviation_has_no_unit(values: list[float], scale: float) -> None:
    expected = np.array(values, "float64")
    found = np.roll(expected, 1)
    deviation = output_deviation(found, expected)
    assert output_deviation(scale * found, scale * expected) == pytest.approx(deviation)
    assert 0 <= deviation <= 2
