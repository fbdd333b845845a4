from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from kernels import EVERYWHERE, X86, Kernel, build_kernel, machine_of
from numpy.typing import NDArray
from tvm import relax, te
from tvm.s_tir import Schedule

from partc.codegen.kernels import mathematics

torch = pytest.importorskip("torch")

SIZE = 1 << 14
SMALLEST_NORMAL = 2.0**-126

REFERENCES: dict[str, Callable[[Any], Any]] = {
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros(1)),
    "selu": torch.nn.functional.selu,
}
# Their definitions take the difference of two numbers that may be close.
CANCELLING = {"gelu", "gelu_tanh", "selu"}


@functools.cache
def compile_function(function: mathematics.Function, target_name: str) -> Kernel:
    x = te.placeholder((SIZE,), name="x")
    y = mathematics.elementwise(function, "y")(x)
    schedule: Any = Schedule(te.create_prim_func([x, y]))
    _, inner = schedule.split(
        *schedule.get_loops(schedule.get_sblock("y")), [None, machine_of(target_name).lanes]
    )
    schedule.vectorize(inner)
    return build_kernel(schedule, y, target_name)


def numbers() -> NDArray[np.float32]:
    """Numbers of every size, of both signs, most of them where functions bend."""
    rng = np.random.default_rng(0)
    parts = [rng.uniform(-limit, limit, SIZE // 4) for limit in (1, 10, 100)]
    magnitudes = 2.0 ** rng.uniform(-126, 128, SIZE // 4)
    parts.append(magnitudes * rng.choice([-1, 1], SIZE // 4))
    return np.concatenate(parts).astype(np.float32)


def expected(name: str, x: NDArray[np.float32]) -> NDArray[np.float64]:
    return REFERENCES[name](torch.from_numpy(x.astype(np.float64))).numpy()


@pytest.mark.parametrize("target_name", X86)
@pytest.mark.parametrize("name", REFERENCES)
def test_functions_agree_with_float64(name: str, target_name: str) -> None:
    x = numbers()
    result = compile_function(getattr(mathematics, name), target_name)(x)
    wanted = expected(name, x)
    with np.errstate(over="ignore"):
        representable = np.isfinite(wanted.astype(np.float32)) | np.isnan(wanted)
    tolerance = 1e-6 if name in CANCELLING else 256 * SMALLEST_NORMAL
    np.testing.assert_allclose(
        result[representable], wanted[representable], rtol=1e-6, atol=tolerance
    )
    np.testing.assert_array_equal(result[~representable], np.sign(wanted[~representable]) * np.inf)


@pytest.mark.parametrize("target_name", X86)
def test_exponentials_and_logarithms_are_within_three_units_in_the_last_place(
    target_name: str,
) -> None:
    x = numbers()
    for name in ("exp", "log"):
        result = compile_function(getattr(mathematics, name), target_name)(x)
        wanted = expected(name, x)
        normal = (np.abs(wanted) > 2 * SMALLEST_NORMAL) & (np.abs(wanted) < 2.0**127)
        error = np.abs(result[normal] - wanted[normal])
        assert (error <= 3 * np.spacing(np.abs(wanted[normal]).astype(np.float32))).all()


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("target_name", X86)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("exp", [1, 1, np.inf, 0, np.nan]),
        ("log", [-np.inf, -np.inf, np.inf, np.nan, np.nan]),
        ("tanh", [0.0, -0.0, 1, -1, np.nan]),
        ("erf", [0.0, -0.0, 1, -1, np.nan]),
        ("sigmoid", [0.5, 0.5, 1, 0, np.nan]),
    ],
)
def test_zeros_infinities_and_no_number_at_all(
    name: str, wanted: list[float], target_name: str
) -> None:
    x = np.resize(SPECIAL, SIZE)
    result = compile_function(getattr(mathematics, name), target_name)(x)[: len(SPECIAL)]
    np.testing.assert_array_equal(result, np.array(wanted, np.float32))
    np.testing.assert_array_equal(
        np.signbit(result)[:4], np.signbit(np.array(wanted, np.float32))[:4]
    )


@pytest.mark.parametrize("exponent", [-2.5, -1, -0.5, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 7])
def test_powers_agree_with_float64(exponent: float) -> None:
    x = np.abs(numbers()).clip(1e-4, 1e4)
    result = compile_function(lambda x: mathematics.power(x, exponent), "x86-64")(x)
    np.testing.assert_allclose(result, x.astype(np.float64) ** exponent, rtol=1e-6)


def test_whole_powers_of_negative_numbers_keep_their_sign() -> None:
    x = -np.abs(numbers()).clip(1e-4, 1e4)
    result = compile_function(lambda x: mathematics.power(x, 3), "x86-64")(x)
    np.testing.assert_allclose(result, x.astype(np.float64) ** 3, rtol=1e-6)


def test_powers_that_are_no_few_products_are_left_alone() -> None:
    assert all(map(mathematics.is_simple_exponent, (2, -0.75, 16)))
    assert not any(map(mathematics.is_simple_exponent, (0, 0.3, 1 / 3, 17)))


@pytest.mark.parametrize("target_name", EVERYWHERE)
@pytest.mark.parametrize("name", REFERENCES)
def test_every_instruction_is_a_vector_one(name: str, target_name: str) -> None:
    assembly = compile_function(getattr(mathematics, name), target_name).assembly()
    (body,) = re.findall(r"\nmain_compute_:.*?\n\.Lfunc_end", assembly, re.DOTALL)
    scalar_or_call = r"\t(?:v?\w+ss|call\w*|bl|f\w+\ts\d+,.*)\s"
    assert not re.search(scalar_or_call, body.replace("broadcastss", ""))
    assert re.search(r"\t(?:v?mulps|fmul\tv|v?f\w*132ps|v?fmadd\w+ps|fmla\tv)", body)


def legalized(call: Callable[[Any], Any], dtype: str) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([3, 5], dtype))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(call(x)))
    legalize = relax.transform.LegalizeOps(mathematics.legalize_map())
    return relax.transform.AnnotateTIROpPattern()(legalize(builder.get()))


CALLS: dict[str, Callable[[Any], Any]] = {
    "exp": relax.op.exp,
    "log": relax.op.log,
    "tanh": relax.op.tanh,
    "erf": relax.op.erf,
    "sigmoid": relax.op.sigmoid,
    "silu": relax.op.nn.silu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "softplus": relax.op.nn.softplus,
    "selu": relax.op.nn.selu,
    "power": lambda x: relax.op.power(x, relax.const(2.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_become_elementwise_functions_that_agree(name: str) -> None:
    module = legalized(CALLS[name], "float32")
    (function,) = (
        each for each in module.functions.values() if not isinstance(each, relax.Function)
    )
    assert int(function.attrs["op_pattern"]) == 0
    assert "T.exp(" not in str(function)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    references = REFERENCES | {"power": torch.square}
    np.testing.assert_allclose(
        machine["main"](tvm.runtime.tensor(x)).numpy(),
        references[name](torch.from_numpy(x)).numpy(),
        rtol=2e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "call",
    [relax.op.exp, lambda x: relax.op.power(x, relax.const(2.0, "float64"))],
)
def test_other_types_are_left_to_tvm(call: Callable[[Any], Any]) -> None:
    assert "T.Let" not in str(legalized(call, "float64"))


def test_powers_that_are_not_simple_are_left_to_tvm() -> None:
    module = legalized(lambda x: relax.op.power(x, relax.const(0.3)), "float32")
    assert "T.pow(" in str(module)
