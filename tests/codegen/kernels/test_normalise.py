from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import X86, apply_rules, build_kernel, machine_of
from rows import compile_function, in_float64, randoms, shapes
from tvm import relax, te

from partc.codegen.kernels import normalise
from partc.codegen.machine import Machine

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def check(
    function: Callable[..., te.Tensor],
    reference: Callable[..., Any],
    shapes: list[tuple[int, ...]],
    target_name: str,
) -> None:
    arrays = randoms(*shapes)
    result = compile_function(function, shapes, target_name)(*arrays)
    np.testing.assert_allclose(result, in_float64(reference, arrays), rtol=2e-6, atol=2e-6)


@given(logarithm=st.booleans(), shape=shapes, target_name=st.sampled_from(X86), data=st.data())
@settings(max_examples=20, deadline=None)
def test_softmax_agrees_with_float64(
    logarithm: bool, shape: list[int], target_name: str, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    ours, theirs = (
        (normalise.log_softmax, torch.log_softmax)
        if logarithm
        else (normalise.softmax, torch.softmax)
    )
    check(
        lambda x, machine: ours(x, axis, machine),
        lambda x: theirs(x, axis),
        [tuple(shape)],
        target_name,
    )


def test_softmax_of_large_numbers_does_not_overflow() -> None:
    x = np.array([[3e38, 3e38, -3e38, 0]], np.float32)
    kernel = compile_function(
        lambda x, machine: normalise.softmax(x, 1, machine), [x.shape], "x86-64-v3"
    )
    np.testing.assert_array_equal(kernel(x), [[0.5, 0.5, 0, 0]])


@given(
    shape=shapes,
    count=st.integers(1, 2),
    affine=st.booleans(),
    target_name=st.sampled_from(X86),
)
@settings(max_examples=15, deadline=None)
def test_layer_norm_agrees_with_float64(
    shape: list[int], count: int, affine: bool, target_name: str
) -> None:
    count = min(count, len(shape))
    axes, along = range(-count, 0), tuple(shape[-count:])

    def ours(x: te.Tensor, *rest: Any) -> te.Tensor:
        *parameters, machine = rest
        gamma, beta = parameters or (None, None)
        return normalise.layer_norm(x, gamma, beta, axes, 0.1, machine)

    check(
        ours,
        lambda x, gamma=None, beta=None: functional.layer_norm(x, along, gamma, beta, 0.1),
        [tuple(shape), *[along] * (2 * affine)],
        target_name,
    )


@pytest.mark.parametrize("target_name", X86)
def test_other_norms_agree_with_float64(target_name: str) -> None:
    check(
        lambda x, weight, machine: normalise.rms_norm(x, weight, [-1], 1e-6, machine),
        lambda x, weight: functional.rms_norm(x, x.shape[-1:], weight, 1e-6),
        [(6, 37), (37,)],
        target_name,
    )
    check(
        lambda x, gamma, beta, machine: normalise.instance_norm(x, gamma, beta, 1e-5, machine),
        lambda x, gamma, beta: functional.instance_norm(x, weight=gamma, bias=beta, eps=1e-5),
        [(2, 5, 7, 11), (5,), (5,)],
        target_name,
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("target_name", X86)
def test_elementwise_operators_around_become_part_of_the_kernel(
    axis: int, target_name: str
) -> None:
    def surrounded(x: te.Tensor, y: te.Tensor, machine: Machine) -> te.Tensor:
        doubled = te.compute(x.shape, lambda *at: x(*at) + x(*at), name="doubled")
        result = normalise.softmax(doubled, axis, machine)
        product = te.compute(x.shape, lambda *at: result(*at) * y(*at), name="product")
        return te.compute(x.shape, lambda *at: product(*at) - x(*at), name="difference")

    check(
        surrounded,
        lambda x, y: torch.softmax(2 * x, axis) * y - x,
        [(11, 37), (11, 37)],
        target_name,
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_tvm_fuses_elementwise_operators_behind(axis: int) -> None:
    shape, machine = (3, 5, 39), machine_of("x86-64")
    builder = relax.BlockBuilder()
    x, y = (relax.Var(name, relax.TensorType(shape, "float32")) for name in "xy")
    with builder.function("main", [x, y]):
        with builder.dataflow():
            result = builder.emit_te(lambda x: normalise.softmax(x, axis, machine), x)
            result = builder.emit(relax.op.multiply(result, y))
            output = builder.emit_output(relax.op.add(result, x))
        builder.emit_func_output(output)
    module = relax.transform.AnnotateTIROpPattern()(relax.transform.LegalizeOps()(builder.get()))
    module = relax.transform.FuseTIR()(relax.transform.FuseOps()(module))
    (function,) = (
        each for each in module.functions.values() if not isinstance(each, relax.Function)
    )
    schedule = apply_rules(function.with_attr("global_symbol", "main"), "x86-64")
    kernel = build_kernel(schedule, te.placeholder(shape), "x86-64")
    arrays = randoms(shape, shape)
    np.testing.assert_allclose(
        kernel(*arrays),
        in_float64(lambda x, y: torch.softmax(x, axis) * y + x, arrays),
        rtol=2e-6,
        atol=2e-6,
    )
