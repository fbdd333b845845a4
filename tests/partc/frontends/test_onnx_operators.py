from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx_models import assert_agrees, operators, parse, refusal

from partc.frontends.onnx import import_onnx


def refused_node(body: str, opset: int = 17) -> str:
    """The line about the only node that is refused."""
    first, line = refusal(parse(body, opset)).split("\n")
    assert first == "model 'net' holds operators that cannot be compiled:"
    return line.strip()


class TestRefusedOperators:
    def test_all_of_them_are_listed(self):
        model = onnx.parser.parse_model("""
            <ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
            net (float[3,1,4] x) => (float[3,1,1,5] y, float[3,1,4] z) {
                y, h = LSTM<hidden_size=5>(x, w, r)
                v = Relu(x)
                z = com.example.Twist(v)
            }""")
        model.graph.node[0].name = "rnn/LSTM"
        for name, shape in (("w", (1, 20, 4)), ("r", (1, 20, 5))):
            weight = np.zeros(shape, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
        assert refusal(model) == (
            "model 'net' holds operators that cannot be compiled:\n"
            "  LSTM 'rnn/LSTM': TVM has no converter for it\n"
            "  com.example.Twist at node 2 (output 'z'): only ONNX's own operators have converters"
        )

    @pytest.mark.parametrize(
        ("node", "problem"),
        [
            ("y = RandomNormalLike(x)", "random numbers cannot be reproduced"),
            ("y = RandomNormal<shape=[2,3]>()", "random numbers cannot be reproduced"),
            ("s = SequenceConstruct(x, x) y = SequenceAt(s, zero)", "no sequences"),
            ("y, s, z = DynamicQuantizeLinear(x)", "dynamic quantisation"),
            ("y, mask = Dropout(x, half, on)", "it is in training mode"),
            ("a, mask = Dropout(x) b = Cast<to=1>(mask) y = Add(a, b)", "its mask is used"),
            ("y = LayerNormalization<axis=0>(x, scale)", "over axis 0"),
            ("a, y = LayerNormalization(x, row)", "neither its mean nor"),
            (
                "y, m, v = BatchNormalization<training_mode=1>(x, row, row, row, row)",
                "it is in training mode",
            ),
            ('y = RoiAlign<mode="max">(image, rois, zeros)', "mode max"),
            ("y = ConvTranspose<output_shape=[7,7]>(image, image)", "ignores output_shape"),
            ("b = IsInf<detect_negative=0>(x) y = Cast<to=1>(b)", "one infinity"),
            ("y = NonMaxSuppression(rois3, scores)", "cut it off"),
        ],
    )
    def test_each_for_its_own_reason(self, node: str, problem: str):
        message = refusal(
            parse(f"""
            net (float[2,3] x, float[1,1,4,4] image, float[1,4] rois, float[1,1,4] rois3,
                 float[1,1,1] scores) => (float[a,b] y)
            <float half = {{0.5}}, bool on = {{1}}, int64 zero = {{0}}, int64[1] zeros = {{0}},
             float[2,3] scale = {{1,1,1,1,1,1}}, float[3] row = {{1,1,1}}>
            {{ {node} }}""")
        )
        assert message.startswith("model 'net' holds operators that cannot be compiled:\n  ")
        assert problem in message

    @pytest.mark.parametrize(
        ("node", "problem"),
        [
            ("y = RMSNormalization<axis=-2>(x, scale)", "over all axes at once"),
            ("y = Attention<q_num_heads=1, kv_num_heads=1>(x, x, x)", "operator set 22"),
        ],
    )
    def test_of_recent_operator_sets(self, node: str, problem: str):
        body = f"net (float[2,3] x, float[2,3] scale) => (float[a,b] y) {{ {node} }}"
        assert problem in refused_node(body, opset=23)

    def test_normalisation_over_the_last_axis_by_its_number_is_fine(self):
        body = "net (float[2,3] x) => (float[2,3] y) <float[3] s = {1,2,3}> "
        assert_agrees(import_onnx(parse(body + "{ y = LayerNormalization<axis=1>(x, s) }")))

    def test_branches_on_data(self):
        line = refused_node("""
            net (bool c, float[2] x) => (float[2] y) {
                y = If (c) <
                    then_branch = yes () => (float[2] t) { t = Relu(x) },
                    else_branch = no () => (float[2] e) { e = Abs(x) }
                >
            }""")
        assert line == "If at node 0 (output 'y'): control flow that depends on the inputs"

    def test_operators_that_nothing_needs_do_not_matter(self):
        body = "net (float[2] x) => (float[2] y) { y = Relu(x) z, i = com(x) }"
        model = parse(body.replace("z, i = com(x)", "z = Det(x)"))
        assert operators(import_onnx(model)) == {"y": "nn.relu"}

    def test_old_operator_sets(self):
        model = parse("net (float[2] x) => (float[2] y) { y = Relu(x) }", opset=6)
        assert refusal(model) == "model 'net' uses operator set 6; export it with 7 or later"

    def test_models_against_the_specification(self):
        message = refusal(parse("net (float[2] x) => (float[2] y) { y = Relu(nowhere) }"))
        assert message.startswith("model 'net' breaks the ONNX specification: ")
        assert "nowhere" in message

    def test_what_only_the_importer_finds(self):
        message = refusal(
            parse("net (float[4] x, int64[1] k) => (float[a] y) { y, i = TopK(x, k) }")
        )
        assert message.startswith(
            "TVM cannot import TopK at node 0 (output 'y', 'i') of model 'net': "
        )
