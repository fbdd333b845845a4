from __future__ import annotations

import pytest
from onnx import ModelProto
from onnx_models import assert_agrees, parse, refusal

from partc.errors import ModelError
from partc.frontends.onnx import import_onnx
from partc.frontends.onnx_shapes import declare_outputs


class TestShapes:
    MODEL = "net (float[n,3,h] x, float[2] s) => (float[n,3,h] y) { y = Relu(x) t = Relu(s) }"

    def test_unknown_input(self):
        assert refusal(parse(self.MODEL), {"z": (1,)}) == (
            "a shape was given for 'z', which is no input; the inputs are x [n, 3, h], s [2]"
        )

    @pytest.mark.parametrize("shape", [(1, 3), (1, 4, 8), (0, 3, 8), (1 << 63, 3, 8)])
    def test_shape_that_does_not_fit(self, shape: tuple[int, ...]):
        given_shape = ", ".join(map(str, shape))
        assert refusal(parse(self.MODEL), {"x": shape}) == (
            "input 'x' is declared as [n, 3, h], "
            f"which the given shape [{given_shape}] does not fit"
        )

    def test_dynamic_dimensions_left(self):
        model = parse("net (float[n,3,h,w] x, int64[n] ids) => (float[n] y) { y = Relu(x) }")
        assert refusal(model) == (
            "the model has inputs without a fixed shape: x [n, 3, h, w], ids [n]; "
            "give their shapes, for example --shape x=1,3,224,224 --shape ids=1, "
            "or shapes={'x': (1, 3, 224, 224), 'ids': (1,)} in Python"
        )

    def test_the_example_can_be_pasted_into_a_shell(self):
        model = parse("net (float[n] x) => (float[n] y) { y = Relu(x) }")
        model.graph.input[0].name = model.graph.node[0].input[0] = "an input"
        assert "for example --shape 'an input=1', or" in refusal(model)

    def test_unknown_rank(self):
        model = parse("net (float[2] x) => (float[2] y) { y = Relu(x) }")
        model.graph.input[0].type.tensor_type.ClearField("shape")
        assert "x of unknown rank" in refusal(model)
        assert import_onnx(model, {"x": (2,)}).outputs[0].type.shape == (2,)

    def test_scalars_have_a_fixed_shape(self):
        source = import_onnx(parse("net (float x) => (float y) { y = Exp(x) }"), {"x": ()})
        assert source.outputs[0].type.shape == ()

    def test_inputs_that_are_no_tensors(self):
        model = parse("net (seq(float[2]) x) => (float[2] y) { y = SequenceAt(x, x) }")
        assert refusal(model) == "input 'x' must be a tensor, but its type is sequence"

    def test_element_types_that_cannot_be_compiled(self):
        model = parse("net (string[2] x) => (string[2] y) { y = Identity(x) }")
        assert refusal(model).startswith("input 'x' holds object; element types")

    def test_outputs_that_cannot_be_compiled(self):
        model = parse("net (float[2] x) => (float8e5m2[2] y) { y = Cast<to=19>(x) }", opset=19)
        assert refusal(model).startswith("output 'y' holds float8_e5m2; element types")

    def test_outputs_whose_shape_depends_on_data(self):
        model = parse("net (float[4] x) => (int64[1,n] y) { y = NonZero(x) }")
        assert "'y'" in refusal(model)


class TestUndeclaredOutputs:
    MODEL = "net (float[2,3] x) => (float[3,2] y) { t = Relu(x) y = Transpose<perm=[1,0]>(t) }"
    COMPUTED = """net (float[2,4] x) => (float[a,b] y, float[c,d] z) {
        z = Relu(x) s = Shape(x) two = Constant<value = int64[2] {1,2}>()
        d = Mul(s, two) e = Div(d, two) y = Reshape(x, e) }"""
    UNSORTED = "net (float[2] x) => (float[2] y) { y = Relu(z) z = Relu(x) }"

    def undeclare(self, text: str, missing: str) -> ModelProto:
        model = parse(text)
        type_ = model.graph.output[0].type
        type_.tensor_type.ClearField("shape") if missing == "shape" else type_.Clear()
        return model

    @pytest.mark.parametrize("missing", ["shape", "type"])
    @pytest.mark.parametrize("text", [MODEL, COMPUTED])
    def test_are_inferred(self, text: str, missing: str):
        assert_agrees(import_onnx(self.undeclare(text, missing)))

    @pytest.mark.parametrize("missing", ["shape", "type"])
    def test_are_named_if_they_cannot_be(self, missing: str):
        assert refusal(self.undeclare(self.UNSORTED, missing)).startswith(
            "model 'net' declares output 'y' without a type or shape, and none can be inferred"
        )

    def test_are_refused_where_onnx_cannot_even_try(self):
        model = self.undeclare(self.MODEL, "shape")
        del model.opset_import[:]
        with pytest.raises(ModelError, match=r"the outputs of net cannot be inferred: .*No opset"):
            declare_outputs(model, "net")
