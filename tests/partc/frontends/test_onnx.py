from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxslim
import pytest
import rapidocr_onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import assert_agrees, bindings, operators, parse, refusal

from partc.errors import CompilerError
from partc.frontends.onnx import import_onnx
from partc.graph import Tensor, TensorType

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
OCR = Path(rapidocr_onnxruntime.__file__).parent / "models"
RECOGNITION = OCR / "ch_PP-OCRv4_rec_infer.onnx"
DETECTION = OCR / "ch_PP-OCRv4_det_infer.onnx"
CLASSIFICATION = OCR / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
QUICK = ["inception_v1", "shufflenet", "squeezenet"]
SLOW = ["bvlc_alexnet", "densenet121", "inception_v2", "resnet50", "vgg19", "zfnet512"]


class TestRealModels:
    @pytest.mark.parametrize(
        "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
    )
    def test_light_models_keep_the_names_of_their_nodes(self, name: str):
        path = LIGHT / f"light_{name}.onnx"
        source = import_onnx(path)
        nodes = onnx.load(path).graph.node
        assert source.name == f"light_{name}"
        assert source.inputs[0].type == TensorType("float32", (1, 3, 224, 224))
        assert source.outputs[0].name == nodes[-1].output[0]
        assert {node.name for node in nodes if node.op_type == "Conv"} <= set(bindings(source))
        assert [function.name_hint for function in source.module.functions] == ["main"]

    @pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
    def test_light_models_compile_and_agree(self, name: str):
        assert_agrees(import_onnx(LIGHT / f"light_{name}.onnx"))

    @pytest.mark.parametrize(
        ("path", "shape", "output"),
        [
            (DETECTION, (1, 3, 480, 480), (1, 1, 480, 480)),
            (RECOGNITION, (1, 3, 48, 320), (1, 40, 6625)),
            (CLASSIFICATION, (1, 3, 48, 192), (1, 2)),
        ],
    )
    def test_exports_with_shape_arithmetic_import(self, path, shape, output):
        source = import_onnx(path, {"x": shape})
        assert source.inputs == (Tensor("x", TensorType("float32", shape)),)
        assert source.outputs[0].type.shape == output
        assert not {"shape_of", "tensor_to_shape"} & set(operators(source).values())

    def test_node_names_become_identifiers_with_dots(self):
        source = import_onnx(CLASSIFICATION, {"x": (1, 3, 48, 192)})
        found = operators(source)
        assert found["Conv_0"] == "nn.conv2d"
        assert found["Clip_0"] == "clip"
        assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in found)


class TestSmallModels:
    def test_nodes_values_and_inputs_name_the_variables(self):
        model = parse("net (float[1,4] x) => (float[1,4] y, float[1,4] z) { y = Relu(x) }")
        model.graph.input[0].name = model.graph.node[0].input[0] = "a.b"
        model.graph.node[0].name = "/features/act/Relu"
        model.graph.node.append(helper.make_node("Sigmoid", ["y"], ["v:0"]))
        model.graph.node.append(helper.make_node("Tanh", ["v:0"], ["v_0"]))
        model.graph.node.append(helper.make_node("Abs", ["v_0"], ["lv"]))
        model.graph.node.append(helper.make_node("Neg", ["lv"], ["m"], name="twice"))
        model.graph.node.append(helper.make_node("Exp", ["m"], ["z"], name="twice"))
        source = import_onnx(model)
        assert [tensor.name for tensor in (*source.inputs, *source.outputs)] == ["a.b", "y", "z"]
        assert [param.name for param in source.module["main"].params] == ["a.b"]
        assert operators(source) == {
            "features.act.Relu": "nn.relu",
            "v_0": "sigmoid",
            "v_0_1": "tanh",
            "value_lv": "abs",
            "m": "negative",
            "z": "exp",
        }

    def test_the_results_of_one_node_are_named_apart(self):
        body = "net (float[2,6] x) => (float[2,3] a, float[2,3] b) { a, b = Split<axis=1>(x) }"
        model = parse(body)
        model.graph.node[0].name = "halves"
        source = import_onnx(model)
        assert {"halves", "b"} <= set(bindings(source))
        assert_agrees(source)

    def test_the_last_step_of_a_node_has_its_name(self):
        body = """net (float[1,1,4,4] x) => (float[1,1,a,b] y)
            <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}, float[1] b = {0.5}> { y = Conv(x, w, b) }"""
        model = parse(body)
        model.graph.node[0].name = "conv"
        source = import_onnx(model)
        (first, *_, last), kinds = operators(source), list(operators(source).values())
        assert (kinds[0], kinds[-1], last) == ("nn.conv2d", "add", "conv")
        assert re.fullmatch(r"lv\d*", first)
        assert_agrees(source)

    def test_identities_do_not_rename(self):
        body = "net (float[2] x) => (float[2] y) { a = Relu(x) y = Identity(a) }"
        assert operators(import_onnx(parse(body))) == {"a": "nn.relu"}

    def test_splitting_into_one_part(self):
        assert_agrees(
            import_onnx(
                parse("n (float[2,6] x) => (float[2,6] y) { a = Split(x)  y = Relu(a) }", opset=13)
            )
        )

    def test_a_single_output_is_returned_in_a_tuple(self):
        source = import_onnx(parse("net (float[2] x) => (float[2] y) { y = Relu(x) }"))
        assert len(source.module["main"].ret_ty.fields) == 1

    def test_inputs_that_nothing_reads_and_outputs_that_are_inputs_stay(self):
        body = "net (float[2] x, float[3] unused) => (float[2] y, float[2] x) { y = Relu(x) }"
        source = import_onnx(parse(body))
        assert [tensor.name for tensor in source.inputs] == ["x", "unused"]
        assert_agrees(source)

    def test_weights_listed_as_inputs_are_no_inputs(self):
        model = parse("net (float[1,2] x, float[2,2] w) => (float[1,2] y) { y = MatMul(x, w) }")
        weight = numpy_helper.from_array(np.float32([[1, 2], [3, 4]]), "w")
        model.graph.initializer.append(weight)
        model.ir_version = 3
        source = import_onnx(model)
        assert [tensor.name for tensor in source.inputs] == ["x"]
        assert_agrees(source)

    def test_shape_arithmetic_and_branches_on_shapes_fold(self):
        model = parse("""
            net (float[n, 4] x) => (float[m] y) {
                shape = Shape(x)
                first = Constant<value_ints=[0]>()
                rows = Gather(shape, first)
                two = Constant<value_ints=[2]>()
                many = Greater(rows, two)
                flag = Squeeze(many)
                chosen = If (flag) <
                    then_branch = yes () => (float[a, b] t) { t = Relu(x) },
                    else_branch = no () => (float[c, d] e) { e = Det(x) }
                >
                size = Mul(rows, two)
                twice = Add(size, size)
                y = Reshape(chosen, twice)
            }""")
        source = import_onnx(model, {"x": (3, 4)})
        assert source.outputs == (Tensor("y", TensorType("float32", (12,))),)
        assert operators(source) == {"chosen": "nn.relu", "y": "reshape"}

    def test_large_weights_behind_shape_arithmetic_fold(self):
        model = parse("""
            net (float[n, 256] x) => (float[n, 256] y) {
                shape = Shape(x)
                axis = Constant<value_ints=[0]>()
                rows = Gather(shape, axis)
                part = Slice(positions, axis, rows, axis)
                y = Add(x, part)
            }""")
        positions = np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(positions, "positions"))
        source = import_onnx(model, {"x": (100, 256)})
        assert operators(source) == {"y": "add"}
        assert_agrees(source)

    def test_functions_of_the_model_are_inlined(self):
        model = onnx.parser.parse_model("""
            <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
            net (float[2] x) => (float[2] y) { y = local.twice(x) }
            <domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }""")
        assert_agrees(import_onnx(model))

    @pytest.mark.parametrize(
        ("node", "expected"),
        [
            ("y = Clip(x, low, high)", {"y": "clip"}),
            ("y = Clip(x, high, low)", {"y": "clip"}),
            ("y = Clip(x, , high)", {"y": "clip"}),
            ("y = Clip(x, nan, high)", {"y": "clip"}),
            ("y = Pad(x, pads)", {"y": "nn.pad"}),
            ('y = Pad<mode="reflect">(x, pads)', {"y": "nn.pad"}),
            ('y = Pad<mode="edge">(x, pads)', {"y": "nn.pad"}),
            ("y = Tile(x, repeats)", {"y": "tile"}),
            ('y = Einsum<equation="ij,kj->ik">(x, x)', {"y": "einsum"}),
        ],
    )
    def test_no_loop_nests_where_relax_has_an_operator(self, node, expected):
        model = parse(f"""net (float[3,4] x) => (float[a,b] y)
            <float low = {{-0.5}}, float high = {{0.5}}, int64[4] pads = {{1,0,2,1}},
             int64[2] repeats = {{2,3}}>
            {{ nan = Constant<value_float=0.0>() {node} }}""")
        model.graph.node[0].attribute[0].f = np.nan
        source = import_onnx(model)
        assert operators(source) == expected
        assert_agrees(source)

    def test_bounds_of_old_and_integer_clips(self):
        old = parse("n (float[3] x) => (float[3] y) { y = Clip<max=0.25>(x) }", opset=10)
        assert_agrees(import_onnx(old))
        integer = parse(
            "n (int32[9] x) => (int32[9] y) <int32 low = {-1}> { y = Clip(x, low) }", opset=13
        )
        inputs = {"x": np.arange(-4, 5, dtype=np.int32)}
        assert_agrees(import_onnx(integer), inputs)

    def test_clip_between_computed_bounds(self):
        source = import_onnx(parse("n (float[9] x, float a) => (float[9] y) { y = Clip(x, a) }"))
        inputs = {"x": np.linspace(-1, 1, 9, dtype=np.float32), "a": np.array(0.1, np.float32)}
        assert_agrees(source, inputs)

    def test_convolutions_that_pad_by_themselves(self):
        body = "n (float[1,1,7,7] x, float[1,1,4,4] w) => (float[1,1,a,b] y) "
        source = import_onnx(
            parse(body + '{ y = Conv<auto_pad="SAME_LOWER", kernel_shape=[4,4]>(x, w) }')
        )
        assert set(operators(source).values()) == {"nn.conv2d", "nn.pad"}
        assert_agrees(source)

    def test_shapes_that_are_returned(self):
        source = import_onnx(parse("n (float[2,3] x) => (int64[2] y) { y = Shape(x) }"))
        assert source.outputs == (Tensor("y", TensorType("int64", (2,))),)
        assert_agrees(source)

    def test_same_model_same_text(self):
        sources = [import_onnx(LIGHT / "light_squeezenet.onnx") for _ in range(2)]
        first, second = (source.module.script(show_meta=True) for source in sources)
        assert first == second

    def test_nothing_is_printed(self, capfd):
        import_onnx(LIGHT / "light_shufflenet.onnx")
        refusal(parse("n (float[1] x, int64[1] k) => (float[1] y) { y, i = TopK(x, k) }"))
        assert capfd.readouterr() == ("", "")


class TestFiles:
    @pytest.fixture
    def external(self, tmp_path: Path) -> Path:
        model = parse("net (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }")
        weight = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        path = tmp_path / "my-net.2.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        return path

    def test_external_data(self, external: Path):
        source = import_onnx(external)
        assert source.name == "my_net_2"
        assert_agrees(source)

    def test_external_data_missing(self, external: Path):
        (external.parent / "weights.bin").unlink()
        message = refusal(external)
        assert message.startswith(f"the external data of {external} cannot be read: ")
        assert "weights.bin" in message

    def test_external_data_too_short(self, external: Path):
        (external.parent / "weights.bin").write_bytes(b"1234")
        assert "exceeds available data (4 bytes" in refusal(external)

    def test_no_file(self, tmp_path: Path):
        path = tmp_path / "net.onnx"
        assert refusal(path) == f"there is no model file {path}"

    def test_directory(self, tmp_path: Path):
        assert refusal(tmp_path) == f"{tmp_path} is a directory; give the .onnx file in it"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"hello world, this is no model\n", "is no ONNX model; give an .onnx file"),
            (b"", "is no ONNX model: it holds no graph"),
        ],
    )
    def test_no_model(self, tmp_path: Path, content: bytes, problem: str):
        path = tmp_path / "net.onnx"
        path.write_bytes(content)
        assert refusal(path) == f"{path} {problem}"

    def test_name_that_starts_with_a_digit(self, tmp_path: Path):
        path = tmp_path / "2nd net.onnx"
        onnx.save(parse("net (float[2] x) => (float[2] y) { y = Relu(x) }"), path)
        assert import_onnx(path).name == "model_2nd_net"

    def test_file_that_cannot_be_read(self, tmp_path: Path):
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "net.onnx"
        assert refusal(path) == f"the model file {path} cannot be read: Not a directory"


class TestFolding:
    MODEL = "net (float[2] x) => (float[2] y) { y = Relu(x) }"

    def test_failures_are_translated(self, monkeypatch: pytest.MonkeyPatch):
        def fail(model: ModelProto, **_: object) -> ModelProto:
            raise RuntimeError("Traceback (most recent call last):\n  File x\n  no such tensor.")

        monkeypatch.setattr(onnxslim, "slim", fail)
        assert refusal(parse(self.MODEL)) == (
            "constants in model 'net' cannot be folded: no such tensor"
        )

    def test_changed_outputs_are_our_fault(self, monkeypatch: pytest.MonkeyPatch):
        def rename(model: ModelProto, **_: object) -> ModelProto:
            model.graph.output[0].name = "other"
            return model

        monkeypatch.setattr(onnxslim, "slim", rename)
        with pytest.raises(CompilerError, match="changed the outputs of model 'net'"):
            import_onnx(parse(self.MODEL))


CHAIN = st.lists(
    st.sampled_from(
        ["Conv", "BatchNormalization", "Relu", "Clip", "Add", "Mul", "MaxPool", "Concat", "Sigmoid"]
    ),
    min_size=1,
    max_size=6,
)


def random_network(chain: list[str], seed: int, classes: int) -> ModelProto:
    """A chain of operators over 4 channels with skips to the input, then a Gemm."""
    rng = np.random.default_rng(seed)
    weights: list[TensorProto] = []

    def weight(*shape: int) -> str:
        array = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{len(weights)}"))
        return weights[-1].name

    def node(operator: str, reads: str, index: int) -> list[onnx.NodeProto]:
        made = f"v{index}"
        extra: dict[str, tuple[list[str], dict[str, object]]] = {
            "Conv": ([weight(4, 4, 3, 3), weight(4)], {"pads": [1, 1, 1, 1]}),
            "BatchNormalization": ([weight(4) for _ in range(4)], {}),
            "Clip": ([weight(), weight()], {}),
            "Add": (["x"], {}),
            "Mul": ([weight(1, 4, 1, 1)], {}),
            "MaxPool": ([], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        }
        if operator == "Concat":
            joined = helper.make_node("Concat", [reads, "x"], [f"{made}_joined"], axis=1)
            kernel = weight(4, 8, 1, 1)
            return [joined, helper.make_node("Conv", [joined.output[0], kernel], [made])]
        inputs, attributes = extra.get(operator, ([], {}))
        return [helper.make_node(operator, [reads, *inputs], [made], **attributes)]

    nodes = [
        made
        for index, operator in enumerate(chain)
        for made in node(operator, f"v{index - 1}" if index else "x", index)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"v{len(chain) - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", weight(classes, 4), weight(classes)], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(chain=CHAIN, seed=st.integers(0, 99), classes=st.integers(1, 5), side=st.integers(1, 9))
def test_random_networks_agree(chain: list[str], seed: int, classes: int, side: int):
    assert_agrees(import_onnx(random_network(chain, seed, classes), {"x": (2, 4, side, side)}))
