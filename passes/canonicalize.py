"""Bring an imported Relax module into the one form that layers are built from."""
# TVM ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.passes.expressions import as_array, dtype_of, leaves, map_leaves, op_name, shape_of

Rule = Callable[["_Rewriter", relax.Call], "relax.Expr | None"]


def canonicalize(module: tvm.IRModule) -> tvm.IRModule:
    """Fold constants, batch norms and paddings; drop dropout, identities and dead code.

    Args:
        module: One function ``main`` with fixed shapes and weights as constants.

    Returns:
        A module that computes the same. ``main`` is one block of bindings, each to a call or to an
        item of a call's tuple, and returns a tuple. Surviving variables keep their name hints.
    """
    main = relax.transform.Normalize()(module)["main"]
    rewriter = _Rewriter(main)
    for block in main.body.blocks:
        for binding in block.bindings:
            rewriter.bind(binding.var, binding.value)
    outputs = rewriter.outputs(main.body.body)
    bindings = _live(rewriter.definitions, outputs)
    body = relax.SeqExpr([relax.BindingBlock(bindings)], relax.Tuple(outputs))
    returned = relax.TupleType([output.ty for output in outputs])
    function = relax.Function(list(main.params), body, returned)
    return relax.transform.Normalize()(tvm.IRModule({"main": function}))


class _Rewriter:
    """Rewrites bindings one by one, in order.

    ``definitions`` holds what is left: variables and the calls they are bound to. ``replaced``
    holds what became of every variable of the source.
    """

    def __init__(self, main: relax.Function) -> None:
        self.definitions: dict[relax.Var, relax.Expr] = {}
        self.replaced: dict[relax.Var, relax.Expr] = {}
        self.uses = _count_uses(main)

    def bind(self, var: relax.Var, value: relax.Expr) -> None:
        value = self.resolve(value)
        if isinstance(value, relax.Call):
            value = self._simplify(value)
        if isinstance(value, relax.Call) or (
            isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Var)
        ):
            kept = relax.Var(var.name, var.ty)  # the source's may be tied to a dataflow block
            self.definitions[kept], self.uses[kept] = value, self.uses[var]
            self.replaced[var] = kept
        else:
            self.replaced[var] = value

    def resolve(self, expr: relax.Expr) -> relax.Expr:
        """The expression with every variable that was replaced replaced."""
        return map_leaves(
            expr,
            lambda leaf: self.replaced.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf,
        )

    def emit(self, call: relax.Call, like: relax.Expr, name: str) -> relax.Var:
        """Bind a call that no variable of the source is bound to."""
        var = relax.Var(name, like.ty)
        self.definitions[var] = _typed(call, like)
        self.uses[var] = 1
        return var

    def sole_definition(self, expr: relax.Expr) -> relax.Call | None:
        """The call that makes a value, if nothing but one reader needs the value."""
        if isinstance(expr, relax.Var) and self.uses[expr] == 1:
            definition = self.definitions.get(expr)
            return definition if isinstance(definition, relax.Call) else None
        return None

    def outputs(self, result: relax.Expr) -> list[relax.Expr]:
        """The tensors that the function returns, flat, each a variable or a constant."""
        return [
            output
            for leaf in leaves([self.resolve(result)])
            for output in (
                self._take_apart(leaf) if isinstance(leaf.ty, relax.TupleType) else [leaf]
            )
        ]

    def _take_apart(self, whole: relax.Var) -> list[relax.Expr]:
        """Bind every item of a call's tuple."""
        items = [relax.TupleGetItem(whole, index) for index in range(len(whole.ty.fields))]
        variables = [relax.Var(whole.name, field) for field in whole.ty.fields]
        self.definitions.update(zip(variables, items, strict=True))
        return variables

    def _simplify(self, call: relax.Call) -> relax.Expr:
        for rule in (_evaluate, _drop_identity, _RULES.get(op_name(call))):
            result = rule(self, call) if rule else None
            if result is not None:
                return result
        return call


def _typed(call: relax.Call, like: relax.Expr) -> relax.Call:
    """The call with the type of another expression, which normalisation would infer."""
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, ret_ty=like.ty)


def _count_uses(main: relax.Function) -> Counter[relax.Var]:
    uses: Counter[relax.Var] = Counter()

    def count(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            uses[expr] += 1

    for block in main.body.blocks:
        for binding in block.bindings:
            relax.analysis.post_order_visit(binding.value, count)
    relax.analysis.post_order_visit(main.body.body, count)
    return uses


def _live(
    definitions: dict[relax.Var, relax.Expr], outputs: Sequence[relax.Expr]
) -> list[relax.VarBinding]:
    """The bindings that the outputs need, in order."""
    needed = {output for output in outputs if isinstance(output, relax.Var)}
    kept: list[relax.VarBinding] = []
    for var, value in reversed(definitions.items()):
        if var in needed:
            kept.append(relax.VarBinding(var, value))
            needed.update(relax.analysis.free_vars(value))
    return kept[::-1]


# Constants -------------------------------------------------------------------------------------

_NUMPY: dict[str, Callable[[relax.Call, list[NDArray[np.generic]]], NDArray[np.generic]]] = {
    "add": lambda _, a: a[0] + a[1],
    "astype": lambda call, a: a[0].astype(dtype_of(call)),
    "broadcast_to": lambda call, a: np.broadcast_to(a[0], shape_of(call)),
    "concat": lambda call, a: np.concatenate(a, axis=int(call.attrs["axis"])),
    "divide": lambda call, a: (a[0] / a[1]).astype(dtype_of(call)),
    "expand_dims": lambda call, a: a[0].reshape(shape_of(call)),
    "flatten": lambda call, a: a[0].reshape(shape_of(call)),
    "multiply": lambda _, a: a[0] * a[1],
    "negative": lambda _, a: -a[0],
    "permute_dims": lambda call, a: np.transpose(
        a[0], None if call.attrs["axes"] is None else [int(axis) for axis in call.attrs["axes"]]
    ),
    "reshape": lambda call, a: a[0].reshape(shape_of(call)),
    "sqrt": lambda _, a: np.sqrt(a[0]),
    "squeeze": lambda call, a: a[0].reshape(shape_of(call)),
    "subtract": lambda _, a: a[0] - a[1],
}


def _evaluate(_: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """Compute a call on constants now; integer division rounds in ways that differ, so not that."""
    name = op_name(call)
    tensors = [leaf for leaf in leaves(call.args) if not isinstance(leaf, relax.ShapeExpr)]
    arrays = [as_array(tensor) for tensor in tensors]
    known = [array for array in arrays if array is not None]
    if name not in _NUMPY or not tensors or len(known) < len(arrays):
        return None
    if name == "divide" and not np.issubdtype(known[0].dtype, np.floating):
        return None
    return relax.const(np.ascontiguousarray(_NUMPY[name](call, known)).reshape(shape_of(call)))


# Identities --------------------------------------------------------------------------------------

_MAY_CHANGE_NOTHING = frozenset(
    ("astype", "broadcast_to", "expand_dims", "flatten", "reshape", "squeeze")
)


def _drop_identity(_: _Rewriter, call: relax.Call) -> relax.Expr | None:
    if op_name(call) in _MAY_CHANGE_NOTHING and _same_type(call, call.args[0]):
        return call.args[0]
    return None


def _drop_dropout(_: _Rewriter, call: relax.Call) -> relax.Expr:
    """Inference keeps every value; the mask, its second result, is not read."""
    return relax.Tuple([call.args[0], call.args[0]])


# Affine operators --------------------------------------------------------------------------------


def _expand_batch_norm(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """Turn ``(x - mean) / sqrt(variance + epsilon) * gamma + beta`` into ``x * scale + shift``."""
    data, *statistics = call.args
    constants = [as_array(statistic) for statistic in statistics]
    if any(constant is None for constant in constants):
        return None
    gamma, beta, mean, variance = (np.asarray(constant, dtype=np.float64) for constant in constants)
    attrs = call.attrs
    scale = (gamma if attrs["scale"] else 1.0) / np.sqrt(variance + float(attrs["epsilon"]))
    shift = (beta if attrs["center"] else 0.0) - mean * scale
    channel_shape = [1] * len(shape_of(data))
    channel_shape[int(attrs["axis"])] = -1

    def per_channel(values: NDArray[np.float64]) -> relax.Expr:
        return relax.const(values.reshape(channel_shape).astype(dtype_of(data)))

    scaled = _typed(relax.op.multiply(data, per_channel(scale)), data)
    folded = rewriter.emit(_first(_fold_multiply(rewriter, scaled), scaled), data, _name(data))
    shifted = _typed(relax.op.add(folded, per_channel(shift)), data)
    result = rewriter.emit(_first(_fold_add(rewriter, shifted), shifted), data, _name(data))
    return relax.Tuple([result, statistics[2], statistics[3]])


def _fold_multiply(rewriter: _Rewriter, call: relax.Call) -> relax.Call | None:
    """Move a constant factor per channel into the convolution, or past the bias, before it."""
    data, factor = call.args
    values, definition = as_array(factor), rewriter.sole_definition(data)
    if values is None or definition is None or not _same_type(call, data):
        return None
    if op_name(definition) == "add" and as_array(definition.args[1]) is not None:
        inner = _typed(relax.op.multiply(definition.args[0], factor), data)
        scaled = _fold_multiply(rewriter, inner)
        if scaled is None:
            return None
        bias = relax.const(np.asarray(as_array(definition.args[1]) * values))
        unbiased = rewriter.emit(scaled, data, _name(definition.args[0]))
        return _typed(relax.op.add(unbiased, bias), data)
    return _scale_convolution(definition, values)


def _scale_convolution(call: relax.Call, factor: NDArray[np.generic]) -> relax.Call | None:
    """``conv(x, w) * factor`` as ``conv(x, w * factor)``."""
    weight = as_array(call.args[1]) if op_name(call) == "conv2d" else None
    if weight is None or call.attrs["kernel_layout"] != "OIHW":
        return None
    channels = weight.shape[0]
    if factor.shape not in ((1, channels, 1, 1), (channels, 1, 1)):
        return None
    scaled = relax.const(weight * factor.reshape(channels, 1, 1, 1))
    return relax.Call(call.op, [call.args[0], scaled], call.attrs, ret_ty=call.ty)


def _fold_add(rewriter: _Rewriter, call: relax.Call) -> relax.Call | None:
    """``(x + a) + b`` as ``x + (a + b)``, a and b constant."""
    data, addend = call.args
    values, definition = as_array(addend), rewriter.sole_definition(data)
    if values is None or definition is None or op_name(definition) != "add":
        return None
    inner = as_array(definition.args[1])
    if inner is None or not _same_type(call, data) or not _same_type(data, definition.args[0]):
        return None
    return _typed(relax.op.add(definition.args[0], relax.const(inner + values)), call)


def _constant_last(rule: Rule) -> Rule:
    """Apply a rule to a commutative call with its constant, if any, as second argument."""

    def apply(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
        if as_array(call.args[0]) is not None:
            call = relax.Call(call.op, [call.args[1], call.args[0]], ret_ty=call.ty)
            return _first(rule(rewriter, call), call)
        return rule(rewriter, call)

    return apply


def _fold_pad(rewriter: _Rewriter, call: relax.Call) -> relax.Call | None:
    """Let a convolution pad by itself where zeros were put around its input before."""
    padding = _spatial_zero_padding(rewriter.definitions.get(call.args[0]))
    if padding is None or call.attrs["data_layout"] != "NCHW":
        return None
    total = [int(own) + extra for own, extra in zip(call.attrs["padding"], padding, strict=True)]
    attrs = call.attrs
    return _typed(
        relax.op.nn.conv2d(
            rewriter.definitions[call.args[0]].args[0],
            call.args[1],
            strides=attrs["strides"],
            padding=total,
            dilation=attrs["dilation"],
            groups=attrs["groups"],
            data_layout=attrs["data_layout"],
            kernel_layout=attrs["kernel_layout"],
            out_layout=attrs["out_layout"],
            out_dtype=attrs["out_dtype"],
        ),
        call,
    )


def _spatial_zero_padding(definition: relax.Expr | None) -> list[int] | None:
    """``[top, left, bottom, right]`` of a call that pads height and width with zeros."""
    if not isinstance(definition, relax.Call) or op_name(definition) != "pad":
        return None
    attrs = definition.attrs
    widths = [int(width) for width in attrs["pad_width"]]
    if attrs["pad_mode"] != "constant" or float(attrs["pad_value"]) != 0.0 or len(widths) != 8:
        return None
    if any(widths[:4]) or min(widths) < 0:
        return None
    top, bottom, left, right = widths[4:]
    return [top, left, bottom, right]


def _first(rewritten: relax.Expr | None, original: relax.Expr) -> relax.Expr:
    """Relax expressions refuse ``or``."""
    return original if rewritten is None else rewritten


def _sum_of_stacked(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """Add tensors one to another instead of copying them together and reducing."""
    stacked = rewriter.sole_definition(call.args[0])
    if stacked is None or op_name(stacked) != "stack" or call.attrs["keepdims"]:
        return None
    if [int(axis) for axis in call.attrs["axis"]] != [int(stacked.attrs["axis"])]:
        return None
    first, *others = stacked.args[0].fields
    for other in others[:-1]:
        first = rewriter.emit(relax.op.add(first, other), call, _name(call.args[0]))
    return _typed(relax.op.add(first, others[-1]), call) if others else None


def _same_type(one: relax.Expr, other: relax.Expr) -> bool:
    return shape_of(one) == shape_of(other) and dtype_of(one) == dtype_of(other)


def _name(expr: relax.Expr) -> str:
    return expr.name if isinstance(expr, relax.Var) else "affine"


_RULES: dict[str, Rule] = {
    "add": _constant_last(_fold_add),
    "batch_norm": _expand_batch_norm,
    "conv2d": _fold_pad,
    "dropout": _drop_dropout,
    "multiply": _constant_last(_fold_multiply),
    "sum": _sum_of_stacked,
}
