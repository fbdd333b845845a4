from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from partc import compiler
from partc.bundle import Bundle
from partc.codegen import verify as verifying
from partc.codegen.verify import FLOOR, TOLERANCE, Sample, make_samples, run_split, verify
from partc.errors import CompilerError, VerificationError
from partc.frontends.source import SourceModel
from partc.goal import make_goal
from partc.graph import Tensor, TensorType
from partc.runtime.errors import ExecutionError
from partc.runtime.executor import Executor
from partc.runtime.spec import ModelSpec, PlanSpec, SentSpec, TensorSpec

Array = NDArray[Any]
X, Y = TensorSpec("x", "float32", (2,)), TensorSpec("y", "float32", (2,))
MODEL = ModelSpec(
    name="toy",
    digest="0",
    inputs=(X,),
    outputs=(Y,),
    plans=(
        PlanSpec("server-only", 0, (), ("all",), (SentSpec("x", "float32", (2,)),), (Y,)),
        PlanSpec("device-only", 1, ("all",), (), (), ()),
    ),
    default_plan="device-only",
)


@dataclass
class FakeExecutor:
    """A half whose segments all make y from x."""

    function: Callable[[Array], Array]

    def request(self, inputs: Mapping[str, Array]) -> FakeRequest:
        return FakeRequest(self.function, dict(inputs))


@dataclass
class FakeRequest:
    function: Callable[[Array], Array]
    arrays: dict[str, Array]

    def run(self, segments: tuple[str, ...]) -> None:
        if segments:
            self.arrays["y"] = self.function(self.arrays["x"])

    def array(self, name: str) -> Array:
        return self.arrays[name]


def half(function: Callable[[Array], Array]) -> Executor:
    return cast("Executor", FakeExecutor(function))


def check(found: Array, expected: Array) -> None:
    """Verify a model that answers ``found`` where the source answers ``expected``."""
    model = replace(MODEL, plans=MODEL.plans[1:])
    sample = Sample("the test's input", {"x": np.zeros(2, "float32")})
    executor = half(lambda _: found)
    verify(model, executor, executor, lambda _: {"y": expected}, [sample])


def source_of(*inputs: TensorSpec, **changes: Any) -> SourceModel:
    """A source model of which only the inputs matter."""
    tensors = tuple(Tensor(spec.name, TensorType(spec.dtype, spec.shape)) for spec in inputs)
    return SourceModel("toy", cast("Any", None), tensors, (), lambda _: {}, **changes)


def double(array: Array) -> Array:
    return 2 * array


def test_what_agrees_passes() -> None:
    samples = list(make_samples(source_of(X)))
    verify(MODEL, half(double), half(double), lambda x: {"y": 2 * x["x"]}, samples)


@pytest.mark.parametrize(("wrong", "plan"), [("device", "device-only"), ("server", "server-only")])
def test_a_wrong_half_is_found_in_the_plan_that_uses_it(wrong: str, plan: str) -> None:
    halves = [half(np.negative if side == wrong else double) for side in ("device", "server")]
    samples = list(make_samples(source_of(X)))
    with pytest.raises(VerificationError, match=rf"output 'y' of plan '{plan}' deviates by .*seed"):
        verify(MODEL, *halves, lambda x: {"y": 2 * x["x"]}, samples)


def test_a_plan_that_fails_is_a_bug_of_the_compilers() -> None:
    def fail(_: Array) -> Array:
        raise ExecutionError("segment 'all' failed: boom")

    samples = list(make_samples(source_of(X)))
    with pytest.raises(CompilerError, match=r"plan 'server-only' does not run: .* boom"):
        verify(MODEL, half(double), half(fail), lambda x: {"y": x["x"]}, samples)


finite = st.floats(-1e6, 1e6, width=32)


@given(st.lists(finite, min_size=1), st.floats(-0.99, 0.99), st.data())
def test_a_deviation_within_the_tolerance_passes(
    values: list[float], fraction: float, data: st.DataObject
) -> None:
    expected = np.array(values)
    found = expected.copy()
    position = data.draw(st.integers(0, len(values) - 1))
    found[position] += fraction * (TOLERANCE * np.abs(expected).max() + FLOOR)
    check(found, expected)


@given(st.lists(finite, min_size=1), st.floats(1.01, 1e6), st.booleans(), st.data())
def test_a_deviation_beyond_the_tolerance_is_refused(
    values: list[float], factor: float, below: bool, data: st.DataObject
) -> None:
    expected = np.array(values)
    step = factor * (TOLERANCE * np.abs(expected).max() + FLOOR)
    found = expected.copy()
    found[data.draw(st.integers(0, len(values) - 1))] += -step if below else step
    with pytest.raises(VerificationError, match="deviates by"):
        check(found, expected)


@pytest.mark.parametrize(("deviation", "passes"), [(0.9, True), (1.1, False)])
def test_half_precision_may_be_as_wrong_as_its_steps_are_wide(
    deviation: float, passes: bool
) -> None:
    expected = np.array([0.0, 1.0])
    found = expected + np.array([0.0, deviation * 16 * float(np.finfo("float16").eps)])
    if passes:
        check(found.astype("float16"), expected.astype("float16"))
        return
    with pytest.raises(VerificationError, match=r"where 0\.0156 is allowed"):
        check(found.astype("float16"), expected.astype("float16"))


@pytest.mark.parametrize(
    "values", [[np.nan, 1], [np.inf, -np.inf], [0, 0], [], [1, np.nan, np.inf]]
)
def test_the_same_infinities_and_nans_agree(values: list[float]) -> None:
    check(np.array(values), np.array(values))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([np.nan, 1], [0, 1]),
        ([0, 1], [np.nan, 1]),
        ([np.inf, 1], [-np.inf, 1]),
        ([np.inf, 1], [1, 1]),
        ([1, 1], [np.inf, 1]),
        ([np.inf, 1], [np.nan, 1]),
    ],
)
def test_other_infinities_and_nans_are_refused(found: list[float], expected: list[float]) -> None:
    with pytest.raises(VerificationError, match="has infinities or NaNs where the source"):
        check(np.array(found, "float32"), np.array(expected, "float32"))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_whole_numbers_must_be_equal(dtype: str) -> None:
    expected = np.array([0, 1, 1], dtype)
    check(expected, expected)
    with pytest.raises(VerificationError, match="differs in 2 of 3 elements"):
        check(1 - expected.astype("int64") * np.array([1, 1, 0]), expected.astype("int64"))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.zeros((2, 1), "float32"), r"is float32\[2, 1\], not float32\[2\]"),
        (np.zeros(2, "float64"), r"is float64\[2\], not float32\[2\]"),
        (np.float32(0), r"is float32\[\], not float32\[2\]"),
    ],
)
def test_another_shape_or_dtype_is_refused(found: Array, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        check(np.asarray(found), np.zeros(2, "float32"))


def test_the_message_names_where_and_what() -> None:
    with pytest.raises(VerificationError) as raised:
        check(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    assert str(raised.value) == (
        "the compiled model differs from its source: output 'y' of plan 'device-only' deviates by "
        "2, where 0.000401 is allowed for values to 4, on the test's input; nothing was written. "
        "An importer or a kernel of partc is wrong"
    )


class Encoded:
    """A model of one server segment, y = 2 x, whose plans send x in encodings."""

    values = np.array([-1.0, 0.1234567, 1.0], "float32")

    def __init__(
        self, *encodings: str, dtype: str = "float32", shape: tuple[int, ...] = (3,)
    ) -> None:
        self.ran: list[Array] = []
        self.spec = TensorSpec("x", dtype, shape)
        self.model = replace(
            MODEL,
            inputs=(self.spec,),
            plans=tuple(
                PlanSpec(how, n, (), ("all",), (SentSpec("x", dtype, shape, how),), (Y,))
                for n, how in enumerate(encodings)
            ),
        )

    def verify(self, calibration: bool, max_error: float = 0.0, x: Array | None = None) -> None:
        sample = Sample("the test's input", {"x": self.values if x is None else x}, calibration)
        executor = half(self._run)
        reference: Any = lambda inputs: {"y": 2 * inputs["x"]}  # noqa: E731
        verify(self.model, executor, executor, reference, [sample], max_error)

    def _run(self, array: Array) -> Array:
        self.ran.append(array)
        return 2 * array


def test_plans_of_the_same_segments_run_once_with_tensors_as_they_are() -> None:
    encoded = Encoded("plain", "plain+lz4", "plain+zstd")
    encoded.verify(calibration=False)
    assert len(encoded.ran) == 3


def test_what_loses_nothing_is_run_on_every_sample() -> None:
    for calibration in (False, True):
        encoded = Encoded("plain+zstd")
        encoded.verify(calibration)
        assert [array.tobytes() for array in encoded.ran] == [encoded.values.tobytes()] * 2


def test_what_loses_something_is_run_on_calibration_inputs() -> None:
    encoded = Encoded("uint8")
    encoded.verify(calibration=False)
    assert len(encoded.ran) == 1
    encoded.verify(calibration=True, max_error=0.01)
    assert len(encoded.ran) == 3
    assert 0 < np.abs(encoded.ran[2] - encoded.values).max() < 0.004


def test_what_encodings_lose_is_limited() -> None:
    encoded = Encoded("plain", "uint8+lz4")
    with pytest.raises(VerificationError) as raised:
        encoded.verify(calibration=True, max_error=0.0005)
    assert re.fullmatch(
        r"--max-error 0\.0005 is not kept: output 'y' of plan 'uint8\+lz4' deviates by 0\.00\d+, "
        r"where 0\.00101 is allowed for values to 2, on the test's input, when the device sends "
        r"'x' as uint8\+lz4; nothing was written\. Give a smaller --max-error, or --calibration "
        r"inputs that are more like those of the model",
        str(raised.value),
    )


def test_kernels_that_round_use_up_nothing_of_what_is_allowed() -> None:
    """Float16 takes 1.00001 for 1: too much for the second limit, though kernels may err more."""
    encoded = Encoded("float16", shape=(2,))
    encoded.verify(calibration=True, max_error=1e-5, x=np.array([1.0, 1.00001], "float32"))
    with pytest.raises(VerificationError, match="--max-error 1e-06 is not kept"):
        encoded.verify(calibration=True, max_error=1e-6, x=np.array([1.0, 1.00001], "float32"))


def test_what_small_outputs_lose_counts_as_much() -> None:
    tiny = np.float32(1e-7) * Encoded.values
    with pytest.raises(VerificationError, match="is not kept"):
        Encoded("uint8").verify(calibration=True, max_error=1e-4, x=tiny)


def test_no_error_is_allowed_for_what_is_sent_as_it_is() -> None:
    executor = half(lambda x: 2 * x + 0.01)
    sample = Sample("the test's input", {"x": np.ones(3, "float32")}, calibration=True)
    model = Encoded("uint8").model
    with pytest.raises(VerificationError, match="the compiled model differs from its source"):
        verify(model, executor, executor, lambda x: {"y": 2 * x["x"]}, [sample], 0.5)


def test_whole_numbers_must_be_equal_however_tensors_are_sent() -> None:
    executor = half(lambda x: np.rint(x * 1000).astype("int64"))
    sample = Sample("the test's input", {"x": Encoded.values}, calibration=True)
    expected = {"y": np.rint(Encoded.values * 1000).astype("int64")}
    with pytest.raises(VerificationError, match=r"differs in \d of 3 elements .*'x' as uint8"):
        verify(Encoded("uint8").model, executor, executor, lambda _: expected, [sample], 0.9)


def test_images_are_sent_as_files() -> None:
    encoded = Encoded("image", dtype="uint8", shape=(1, 5, 4, 3))
    sample = next(make_samples(source_of(encoded.spec)))
    encoded.verify(calibration=False, x=sample.inputs["x"])
    direct, decoded = encoded.ran
    assert np.array_equal(direct, decoded)
    assert not np.shares_memory(direct, decoded)


class TestSamples:
    inputs = (
        TensorSpec("image", "float16", (2, 3)),
        TensorSpec("ids", "int64", (50,)),
        TensorSpec("mask", "bool", (50,)),
        TensorSpec("bytes", "uint8", ()),
        TensorSpec("large", "uint64", (3,)),
    )
    source = source_of(*inputs)

    def test_have_the_types_of_the_inputs(self) -> None:
        for sample in make_samples(self.source):
            for spec in self.inputs:
                array = sample.inputs[spec.name]
                assert (array.dtype, array.shape) == (np.dtype(spec.dtype), spec.shape)

    def test_are_the_same_every_time_and_differ_from_each_other(self) -> None:
        once, again = (list(make_samples(self.source)) for _ in range(2))
        for one, other in zip(once, again, strict=True):
            np.testing.assert_equal(one.inputs, other.inputs)
        assert not np.array_equal(once[0].inputs["image"], once[1].inputs["image"])

    def test_whole_numbers_are_valid_as_an_index_or_a_mask(self) -> None:
        for sample in make_samples(self.source):
            assert set(np.unique(sample.inputs["ids"])) == {0, 1}

    def test_whole_numbers_stay_in_the_range_of_the_example(self) -> None:
        large = np.array([2**63 + 1, 2**64 - 1, 2**63], "uint64")
        examples = {"ids": np.array([7, 9]), "mask": np.array([False]), "large": large}
        own, *others = make_samples(replace(self.source, examples=examples))
        assert own == Sample("the example inputs", examples, calibration=True)
        assert len(others) == verifying._RANDOM_SAMPLES
        for sample in others:
            assert set(np.unique(sample.inputs["ids"])) == {7, 8, 9}
            assert set(np.unique(sample.inputs["mask"])) == {False, True}
            assert sample.inputs["large"].min() >= 2**63

    def test_what_can_be_an_image_is_one(self) -> None:
        photo = TensorSpec("photo", "uint8", (1, 20, 20, 3))
        for sample in make_samples(source_of(photo, TensorSpec("tokens", "uint8", (1, 20)))):
            assert sample.inputs["photo"].max() > 200
            assert sample.inputs["tokens"].max() == 1

    def test_are_for_calibration_as_far_as_the_user_says(self) -> None:
        one, other, example = ({"x": np.full(2, value, "int64")} for value in (5, 6, 7))
        source = source_of(TensorSpec("x", "int64", (2,)))
        given = replace(source, calibration=(one, other))
        both = replace(given, examples=example)
        origins = {
            name: [each.origin for each in make_samples(model) if each.calibration]
            for name, model in {
                "neither": source,
                "examples": replace(source, examples=example),
                "calibration": given,
                "both": both,
            }.items()
        }
        assert origins == {
            "neither": ["random inputs of seed 0", "random inputs of seed 1"],
            "examples": ["the example inputs"],
            "calibration": ["calibration inputs 1", "calibration inputs 2"],
            "both": ["calibration inputs 1", "calibration inputs 2"],
        }
        assert [each.inputs["x"].max() for each in make_samples(given)][:2] == [5, 6]
        assert len(list(make_samples(both))) == 3 + verifying._RANDOM_SAMPLES


def test_only_what_crosses_the_cut_reaches_the_server(tiny_bundle: Bundle) -> None:
    client, server = (tiny_bundle.half(side) for side in compiler.Side)
    halves = [
        Executor(tiny_bundle.path / side.value, module.ARTIFACT)
        for side, module in zip(compiler.Side, (client, server), strict=True)
    ]
    plan = next(plan for plan in client.MODEL.plans if plan.name == "cut-1")
    inputs = tiny.tiny_inputs()
    whole = run_split(client.MODEL, plan, *halves, inputs)
    lost = replace(plan, upload=())
    assert list(whole) == [tiny.OUTPUT]
    with pytest.raises(Exception, match="reads tensor"):
        run_split(client.MODEL, lost, *halves, inputs)


def test_a_wrong_importer_is_caught_and_nothing_is_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm.relax.frontend.onnx import onnx_frontend

    def negate(_cls: type, block: Any, inputs: Any, *_: Any) -> Any:
        from tvm import relax

        return relax.op.negative(inputs[0])

    for name in [name for name in vars(onnx_frontend.Relu) if name.startswith("_impl_v")]:
        monkeypatch.setattr(onnx_frontend.Relu, name, classmethod(negate))
    goal = make_goal("native", "native")
    with pytest.raises(VerificationError, match="output 'class' of plan 'server-only' deviates"):
        compiler.compile_model(tiny_model, goal, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
