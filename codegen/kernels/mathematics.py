# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportAttributeAccessIssue=false, reportReturnType=false
# TVM ships no types
"""Elementary functions that come out as vector instructions: LLVM calls its own for each number.

Each takes and returns a float32 expression. Arguments are reduced as in W. J. Cody and W. Waite,
"Software Manual for the Elementary Functions" (1980); what remains is a polynomial found with
Remez's algorithm, or a ratio of two found with Lawson's. Nothing asks for an instruction that the
smallest vector unit lacks, rounding least of all. Relative errors stay below 1e-6.
Results too small for a normal number may come out as 0, and such arguments are taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tvm import relax, te, tirx
from tvm.ir import GenericConst

# An expression over scalars, tvm.tirx.PrimExpr.
Scalar: TypeAlias = Any
Function: TypeAlias = Callable[[Scalar], Scalar]
Legalization: TypeAlias = Callable[[relax.BlockBuilder, Any], Any]

_LOG2_E = math.log2(math.e)
# ln 2 in two parts: the first has so few digits that a product with an exponent is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440054690583e-4

_SMALLEST_NORMAL, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
_MANTISSA_BITS, _EXPONENT_BIAS = 23, 127
_SQRT_HALF_BITS = 0x3F3504F3

# Added to a number below 2^22 it leaves the nearest integer in the low bits of the sum.
_ROUNDING = 1.5 * 2.0**_MANTISSA_BITS

# e^x = 1 + x P(x) for |x| <= ln(2) / 2, relative error 9e-8.
_EXP = (0.999999706313, 0.499991478411, 0.166676381279, 0.0418981596187, 0.0082902720728)

# ln(1 + x) = x - x^2 / 2 + x^3 P(x) for sqrt(1/2) <= 1 + x <= sqrt(2), relative error 6e-9.
_LOG1P = (
    0.333333316822,
    -0.250008267662,
    0.200012358606,
    -0.166231445287,
    0.142013690417,
    -0.131620039793,
    0.12765425185,
    -0.076343848083,
)

# tanh(x) = x P(x^2) / Q(x^2) up to where it rounds to 1, relative error 1.3e-9.
_TANH_END = 9.02
_TANH = (
    (1.0, 0.1367991571, 0.003868328559, 2.800747555e-05, 3.058506264e-08, -1.220349521e-11),
    (1.0, 0.4701324777, 0.02724584176, 0.000393863256, 1.287367769e-06),
)

# erf(x) likewise, relative error 2e-8.
_ERF_END = 3.93
_ERF = (
    (1.128379145, 0.1907835719, 0.05279025306, 0.003779598429, 0.0002848084117, 2.04197348e-06),
    (1.0, 0.502410258, 0.1142574164, 0.01499741578, 0.001165210189, 3.800409279e-05),
)


def exp(x: Scalar) -> Scalar:
    """The exponential function of x."""
    high = f32(89)  # beyond, the power of 2 below would not be a float32
    return exp_of_negative(_let(x, lambda x: tirx.Select(x > high, high, x)))


def exp_of_negative(x: Scalar) -> Scalar:
    """The exponential function of x, which is not above 0: a little faster."""
    low = f32(-87.33)
    return _let(_let(x, lambda x: tirx.Select(x < low, low, x)), _exp_inside)


def _exp_inside(x: Scalar) -> Scalar:
    """2^n e^r; half of 2^n, as the largest results have 2^128."""
    shifted = x * f32(_LOG2_E) + f32(_ROUNDING + _EXPONENT_BIAS - 1)
    return _let(shifted, lambda s: _let(_remainder(x, s), lambda r: _exp_near_zero(r) * _half(s)))


def _remainder(x: Scalar, shifted: Scalar) -> Scalar:
    whole = shifted - f32(_ROUNDING + _EXPONENT_BIAS - 1)
    return _let(whole, lambda n: x - n * f32(_LN2_HIGH) - n * f32(_LN2_LOW))


def _half(shifted: Scalar) -> Scalar:
    return _as_float(tirx.shift_left(_bits(shifted), _i32(_MANTISSA_BITS)))


def _exp_near_zero(r: Scalar) -> Scalar:
    """Twice e^r."""
    return _polynomial((2.0, *(2 * each for each in _EXP)), r)


def log(x: Scalar) -> Scalar:
    """The natural logarithm of x."""
    return _let(x, _log)


def _log(x: Scalar) -> Scalar:
    bits = _bits(x)
    exponent = tirx.shift_right(bits - _i32(_SQRT_HALF_BITS), _i32(_MANTISSA_BITS))
    finite = _let(
        exponent,
        lambda n: _log_of_product(
            n.astype("float32"), _as_float(bits - tirx.shift_left(n, _i32(_MANTISSA_BITS)))
        ),
    )
    pole = tirx.Select(x < f32(0), f32(math.nan), f32(-math.inf))
    inside = tirx.Select(x <= f32(_LARGEST), finite, x)
    return tirx.Select(x < f32(_SMALLEST_NORMAL), pole, inside)


def _log_of_product(n: Scalar, factor: Scalar) -> Scalar:
    """The logarithm of 2^n times a factor near 1."""
    return _let(
        factor - f32(1),
        lambda f: _log1p_near_zero(f, n * f32(_LN2_LOW)) + n * f32(_LN2_HIGH),
    )


def _log1p_near_zero(f: Scalar, more: Scalar) -> Scalar:
    """ln(1 + f), and a little more."""
    return f + (f * f * (f * _polynomial(_LOG1P, f) - f32(0.5)) + more)


def _log1p_of_fraction(x: Scalar) -> Scalar:
    """ln(1 + x) for 0 <= x <= 1, exact where x is tiny."""
    large = x > f32(math.sqrt(2) - 1)
    return _let(
        tirx.Select(large, x * f32(0.5) - f32(0.5), x),
        lambda f: (
            _log1p_near_zero(f, tirx.Select(large, f32(_LN2_LOW), f32(0)))
            + tirx.Select(large, f32(_LN2_HIGH), f32(0))
        ),
    )


def tanh(x: Scalar) -> Scalar:
    """The hyperbolic tangent of x."""
    return _let(x, lambda x: _between_poles(x, _TANH, _TANH_END))


def erf(x: Scalar) -> Scalar:
    """The error function of x."""
    return _let(x, lambda x: _between_poles(x, _ERF, _ERF_END))


def _between_poles(x: Scalar, ratio: tuple[Sequence[float], Sequence[float]], end: float) -> Scalar:
    """An odd function that is -1 and 1 beyond its ends."""
    numerator, denominator = ratio
    inside = _let(x * x, lambda y: x * _polynomial(numerator, y) / _polynomial(denominator, y))
    above = tirx.Select(x > f32(end), f32(1), inside)
    return tirx.Select(x < f32(-end), f32(-1), above)


def sigmoid(x: Scalar) -> Scalar:
    """The logistic function of x."""
    return f32(1) / (f32(1) + exp(-x))


def silu(x: Scalar) -> Scalar:
    """The product of x and its logistic function."""
    return _let(x, lambda x: x / (f32(1) + exp(-x)))


def gelu(x: Scalar) -> Scalar:
    """The product of x and the cumulative normal distribution at x."""
    return _let(x, lambda x: x * (f32(0.5) + f32(0.5) * erf(x * f32(math.sqrt(0.5)))))


def gelu_tanh(x: Scalar) -> Scalar:
    """The approximation of gelu through tanh."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715

    def body(x: Scalar) -> Scalar:
        inner = x * (f32(scale) + f32(scale * cubic) * x * x)
        return x * (f32(0.5) + f32(0.5) * tanh(inner))

    return _let(x, body)


def softplus(x: Scalar) -> Scalar:
    """ln(1 + e^x)."""
    return _let(
        x,
        lambda x: (
            tirx.Select(x < f32(0), f32(0), x)
            + _let(exp_of_negative(tirx.Select(x < f32(0), x, -x)), _log1p_of_fraction)
        ),
    )


def selu(x: Scalar) -> Scalar:
    """The self-normalising exponential linear unit."""
    alpha, scale = 1.6732632423543772848, 1.0507009873554804934
    return _let(
        x,
        lambda x: tirx.Select(x < f32(0), f32(alpha * scale) * (exp(x) - f32(1)), f32(scale) * x),
    )


def power(x: Scalar, exponent: float) -> Scalar:
    """A power of x with a constant exponent for which ``is_simple_exponent`` holds."""
    if exponent < 0:
        return f32(1) / power(x, -exponent)
    whole, quarters = divmod(round(exponent * 4), 4)
    return _let(x, lambda x: math.prod(_roots(x, quarters), start=_integer_power(x, whole)))


def power_of_positive(x: Scalar, exponent: float) -> Scalar:
    """A power of a number above 0 with any constant exponent."""
    if is_simple_exponent(exponent):
        return power(x, exponent)
    return exp(log(x) * f32(exponent))


def is_simple_exponent(exponent: float) -> bool:
    """Whether a power comes down to a few products and square roots."""
    return exponent != 0 and abs(exponent) <= 16 and exponent * 4 == round(exponent * 4)


def _integer_power(x: Scalar, exponent: int) -> Scalar:
    if exponent < 2:
        return x if exponent else f32(1)
    square = _let(x * x, lambda y: _integer_power(y, exponent // 2))
    return square * x if exponent % 2 else square


def _roots(x: Scalar, quarters: int) -> list[Scalar]:
    """The factors of x to the power of quarters / 4, which is less than 1."""
    square_root = tirx.sqrt(x)
    return [square_root] * (quarters // 2) + [tirx.sqrt(square_root)] * (quarters % 2)


def elementwise(function: Function, name: str) -> Callable[[te.Tensor], te.Tensor]:
    """A function of one number as a TE function of one tensor of any shape."""
    return lambda x: te.compute(x.shape, lambda *index: function(x(*index)), name=name)


def legalize_map() -> dict[str, Legalization]:
    """What ``relax.transform.LegalizeOps`` needs to use these functions, where data are float32."""
    operators = {
        "exp": exp,
        "log": log,
        "tanh": tanh,
        "erf": erf,
        "sigmoid": sigmoid,
        "nn.silu": silu,
        "nn.gelu": gelu,
        "nn.gelu_tanh": gelu_tanh,
        "nn.selu": selu,
    }
    unary = {f"relax.{name}": _legalize_unary(each) for name, each in operators.items()}
    return unary | {"relax.nn.softplus": _legalize_softplus, "relax.power": _legalize_power}


def _legalize_unary(function: Function) -> Legalization:
    return lambda builder, call: _legalize(builder, call, function)


def _legalize_softplus(builder: relax.BlockBuilder, call: Any) -> Any:
    beta, threshold = call.attrs.beta, call.attrs.threshold

    def body(x: Scalar) -> Scalar:
        scaled = x * f32(beta)
        return tirx.Select(scaled > f32(threshold), x, softplus(scaled) / f32(beta))

    return _legalize(builder, call, lambda x: _let(x, body))


def _legalize_power(builder: relax.BlockBuilder, call: Any) -> Any:
    exponent = _scalar_constant(call.args[1])
    if exponent is None or not is_simple_exponent(exponent):
        return _legalize_by_default(builder, call)
    return _legalize(builder, call, lambda x: power(x, exponent))


def _scalar_constant(operand: Any) -> float | None:
    if not isinstance(operand, GenericConst) or operand.ty.ndim != 0:
        return None
    return operand.value.numpy().item()


def _legalize(builder: relax.BlockBuilder, call: Any, function: Function) -> Any:
    if str(call.ty.dtype) != "float32":
        return _legalize_by_default(builder, call)
    name = call.op.name.rpartition(".")[2]
    hint = f"tir_{name}"  # a bare name could be one of the C library's
    return builder.call_te(elementwise(function, name), call.args[0], primfunc_name_hint=hint)


def _legalize_by_default(builder: relax.BlockBuilder, call: Any) -> Any:
    return call.op.get_attr("FLegalize")(builder, call)


def _polynomial(coefficients: Sequence[float], x: Scalar) -> Scalar:
    """Horner's scheme; the constant term comes first."""
    *lower, result = map(f32, coefficients)
    for coefficient in reversed(lower):
        result = result * x + coefficient
    return result


def _let(value: Scalar, body: Function) -> Scalar:
    """An expression that uses a value several times and computes it once.

    TVM refuses a function where the same variable is bound twice, so what may hold such an
    expression must not be repeated otherwise.
    """
    variable = tirx.Var("value", value.ty)
    return tirx.Let(variable, value, body(variable))


def _bits(x: Scalar) -> Scalar:
    return tirx.reinterpret("int32", x)


def _as_float(bits: Scalar) -> Scalar:
    return tirx.reinterpret("float32", bits)


def f32(value: float) -> Scalar:
    """A constant."""
    return tirx.const(value, "float32")


def _i32(value: int) -> Scalar:
    return tirx.const(value, "int32")
