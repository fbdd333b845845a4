from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lowered import Network
from relax_models import Machine, assert_close, make_module, op_names, weights
from tvm.relax import op

from partc.errors import ModelError
from partc.frontends.normalisation import Normalisation
from partc.frontends.preprocess import add_preprocessing
from partc.frontends.source import SourceModel
from partc.graph import LayerGraph, Tensor, TensorType
from partc.passes.annotate import annotate
from partc.passes.build import build_graph
from partc.passes.canonicalize import canonicalize
from partc.targets.predictor import predictor_for
from partc.targets.target import Target, builtin_targets

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = Normalisation((0.0,), (1.0,))


def convolution(*shape: int, dtype: str = "float32", channels_last: bool = False) -> SourceModel:
    """A convolution of an image, and a vector that is added to what it makes."""
    channels = shape[3 if channels_last else 1]

    def build(emit: Any, image: Any, offset: Any) -> list[Any]:
        if channels_last:
            image = emit(op.permute_dims(image, (0, 3, 1, 2)))
        made = emit(op.nn.conv2d(image, weights(4, channels, 3, 3, dtype=dtype), padding=(1, 1)))
        return [emit(op.add(made, offset))]

    shapes = {"image": shape, "offset": (1, 4, 1, 1)}
    return source_of(make_module(shapes, build, dtype), shapes, dtype)


def source_of(module: Any, shapes: dict[str, tuple[int, ...]], dtype: str) -> SourceModel:
    """The module as a model whose original is the module itself."""
    (made,) = module["main"].ret_ty.fields
    machine = Machine(module)

    def reference(arrays: Any) -> dict[str, Any]:
        return {"y": machine.run("main", [arrays[name] for name in shapes])[0]}

    output = Tensor("y", TensorType(dtype, tuple(int(extent) for extent in made.shape)))
    inputs = tuple(Tensor(name, TensorType(dtype, shape)) for name, shape in shapes.items())
    return SourceModel("toy", module, inputs, (output,), reference)


def layers(source: SourceModel) -> LayerGraph:
    return build_graph(source.name, canonicalize(source.module), source.inputs, source.outputs)


def pixels(source: SourceModel) -> np.ndarray:
    image = next(tensor for tensor in source.inputs if tensor.name == "image")
    assert image.type.dtype == "uint8"
    return np.random.default_rng(0).integers(0, 256, image.type.shape, np.uint8)


class TestWhatIsComputed:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize(
        ("shape", "channels_last", "normalisation"),
        [
            ((2, 3, 5, 6), False, IMAGENET),
            ((2, 5, 6, 3), True, IMAGENET),
            ((1, 3, 5, 3), False, IMAGENET),
            ((1, 1, 5, 6), False, Normalisation((0.1307,), (0.3081,))),
            ((1, 5, 6, 1), True, UNIT),
            ((1, 3, 5, 6), False, Normalisation((0.5,), (0.2, 0.3, 0.4))),
        ],
    )
    def test_compiled_and_reference_agree_with_numpy(
        self,
        shape: tuple[int, ...],
        channels_last: bool,
        normalisation: Normalisation,
        dtype: str,
    ) -> None:
        plain = convolution(*shape, dtype=dtype, channels_last=channels_last)
        source = add_preprocessing(plain, {"image": normalisation})
        image, offset = pixels(source), np.ones((1, 4, 1, 1), dtype)
        numbers = (image / 255 - normalisation.mean) / normalisation.std
        numbers = numbers if channels_last else numbers.transpose(0, 3, 1, 2)
        expected = plain.reference({"image": numbers.astype(dtype), "offset": offset})["y"]
        found = source.reference({"image": image, "offset": offset})["y"]
        compiled = Machine(canonicalize(source.module)).run("main", [image, offset])
        assert_close([found, *compiled], [expected, expected])

    def test_an_input_keeps_its_place_and_its_name(self) -> None:
        plain = convolution(1, 3, 5, 6)
        source = add_preprocessing(plain, {"image": UNIT})
        assert source.inputs == (
            Tensor("image", TensorType("uint8", (1, 5, 6, 3))),
            plain.inputs[1],
        )
        assert [param.name for param in source.module["main"].params] == ["image", "offset"]
        assert source.outputs == plain.outputs

    def test_two_images(self) -> None:
        def build(emit: Any, left: Any, right: Any) -> list[Any]:
            return [emit(op.subtract(left, right))]

        shapes = {"left": (1, 3, 2, 2), "right": (1, 3, 2, 2)}
        plain = source_of(make_module(shapes, build), shapes, "float32")
        source = add_preprocessing(plain, {"right": UNIT, "left": Normalisation((0,), (0.5,))})
        left, right = np.full((2, 1, 2, 2, 3), [[[[[51]]]], [[[[102]]]]], np.uint8)
        (made,) = Machine(canonicalize(source.module)).run("main", [left, right])
        np.testing.assert_allclose(made, 0, atol=1e-6)
        np.testing.assert_allclose(source.reference({"left": left, "right": right})["y"], made)

    def test_a_model_without_images_stays_as_it_is(self) -> None:
        plain = convolution(1, 3, 5, 6)
        assert add_preprocessing(plain, {}) is plain

    def test_an_input_that_is_returned_is_normalised(self) -> None:
        shapes = {"image": (1, 1, 2, 2)}
        module = make_module(shapes, lambda _, image: [image])
        source = add_preprocessing(source_of(module, shapes, "float32"), {"image": UNIT})
        image = pixels(source)
        (made,) = Machine(canonicalize(source.module)).run("main", [image])
        np.testing.assert_allclose(made[0, 0], image[0, ..., 0] / 255, rtol=1e-6)


class TestExamples:
    def test_they_become_the_pixels_that_they_were_made_of(self) -> None:
        plain = convolution(1, 3, 5, 6)
        image = pixels(add_preprocessing(plain, {"image": IMAGENET}))
        numbers = ((image / 255 - IMAGENET.mean) / IMAGENET.std).transpose(0, 3, 1, 2)
        examples = {"image": numbers.astype(np.float32), "offset": np.ones((1, 4, 1, 1), "f")}
        source = add_preprocessing(replace(plain, examples=examples), {"image": IMAGENET})
        assert source.examples is not None
        np.testing.assert_array_equal(source.examples["image"], image)
        assert source.examples["offset"] is examples["offset"]

    def test_what_no_pixel_makes_becomes_the_nearest_that_there_is(self) -> None:
        given = np.array([-1e9, -0.1, 0.4999, 1.1, np.inf, np.nan], "f").reshape(1, 1, 1, 6)
        plain = convolution(1, 1, 1, 6)
        examples = {"image": given, "offset": np.ones((1, 4, 1, 1), "f")}
        source = add_preprocessing(replace(plain, examples=examples), {"image": UNIT})
        assert source.examples is not None
        assert source.examples["image"].dtype == np.uint8
        assert source.examples["image"].reshape(-1).tolist() == [0, 0, 127, 255, 255, 0]


class TestLayers:
    def test_preprocessing_is_one_layer_before_the_first(self) -> None:
        source = add_preprocessing(convolution(1, 3, 5, 6), {"image": IMAGENET})
        first, *others = layers(source).layers
        assert first.name == "image.preprocess"
        assert first.ops == ("astype", "permute_dims", "multiply", "add")
        assert [str(tensor) for tensor in (*first.inputs, *first.outputs)] == [
            "%image: uint8[1, 5, 6, 3]",
            "%image.normalised: float32[1, 3, 5, 6]",
        ]
        assert [layer.kind for layer in others] == ["conv2d"]

    def test_what_changes_nothing_is_left_out(self) -> None:
        source = add_preprocessing(convolution(1, 5, 6, 3, channels_last=True), {"image": UNIT})
        assert op_names(source.module)[:3] == ["astype", "multiply", "permute_dims"]

    def test_kernels_compute_them(self) -> None:
        source = add_preprocessing(convolution(1, 3, 5, 6), {"image": IMAGENET})
        network = Network(canonicalize(source.module), "x86-64-v3")
        network.check()
        assert network.lowered.without_rule == ()

    @pytest.mark.parametrize("target", builtin_targets(), ids=lambda target: target.name)
    def test_every_target_knows_what_they_cost(self, target: Target) -> None:
        graph = layers(add_preprocessing(convolution(1, 3, 32, 32), {"image": IMAGENET}))
        predict = predictor_for(target)
        annotated = annotate(graph, predict, predict, busy_watts=1)
        first = annotated.layers[0]
        assert first.annotated_cost.device_ms > 0
        assert not first.annotated_cost.extrapolated


class TestRefusals:
    def test_an_input_that_is_none(self) -> None:
        with pytest.raises(ModelError) as caught:
            add_preprocessing(convolution(1, 3, 5, 6), {"picture": UNIT})
        assert str(caught.value) == (
            "--preprocess is about 'picture', which is no input; the inputs are image, offset"
        )

    @pytest.mark.parametrize(
        ("dtype", "shape"),
        [
            ("float32", (1, 2, 5, 6)),
            ("float32", (3, 5, 6)),
            ("float32", (1, 1, 3, 5, 6)),
            ("float64", (1, 3, 5, 6)),
            ("uint8", (1, 3, 5, 6)),
        ],
    )
    def test_an_input_that_is_no_image(self, dtype: str, shape: tuple[int, ...]) -> None:
        module = make_module({"x": shape}, lambda _, x: [x], dtype)
        source = source_of(module, {"x": shape}, dtype)
        with pytest.raises(ModelError) as caught:
            add_preprocessing(source, {"x": UNIT})
        assert str(caught.value) == (
            "an image is an input float32 or float16 of shape [N, C, H, W] or [N, H, W, C] with 1 "
            f"or 3 channels C, but 'x' is {source.inputs[0].type}; normalise it before it is given"
        )

    @pytest.mark.parametrize(("part", "what"), [("mean", "means"), ("std", "standard deviations")])
    @pytest.mark.parametrize(("channels", "count", "expected"), [(3, 2, "1 or 3"), (1, 3, "1")])
    def test_as_many_numbers_as_channels(
        self, part: str, what: str, channels: int, count: int, expected: str
    ) -> None:
        wrong = replace(Normalisation((0.5,), (0.5,)), **{part: (0.5,) * count})
        with pytest.raises(ModelError) as caught:
            add_preprocessing(convolution(1, channels, 5, 6), {"image": wrong})
        assert str(caught.value) == (f"--preprocess image has {count} {what}, expected {expected}")
