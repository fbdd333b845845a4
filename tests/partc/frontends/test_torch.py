from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch_sources import (
    IMAGE,
    ROW,
    Function,
    Residual,
    Small,
    check_against_reference,
    export,
    float32,
    variable_names,
)

from partc.errors import ModelError
from partc.frontends.torch import import_torch, load_callable

pytestmark = pytest.mark.usefixtures("seeded_torch")


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
            "examples=(torch.zeros(1, 3, 224, 224),)"
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
