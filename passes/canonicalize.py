"""Bring an imported Relax module into the one form that layers are built from."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from partc.passes.expressions import (
    as_array,
    constant,
    dtype_of,
    leaves,
    map_leaves,
    op_name,
    shape_of,
)

Rule = Callable[["_Rewriter", relax.Call], "relax.Expr | None"]


def canonicalize(module: tvm.IRModule) -> tvm.IRModule:
    """Fold constants, batch norms and paddings; drop dropout, identities and dead code.

    Args:
        module: One function ``main`` with fixed shapes and weights as constants.

    Returns:
        A module that computes the same. ``main`` is one block of bindings, each to a call or to an
        item of a call's tuple, and returns a tuple. Tuples are read item by item only. Surviving
        variables keep their name hints.
    """
    main = relax.transform.Normalize()(module)["main"]
    with np.errstate(all="ignore"):  # a model may divide by zero, here as well as where it runs
        for rules in (_SIMPLIFICATIONS, _FUSIONS):
            main = _rewrite(main, rules)
    return relax.transform.Normalize()(tvm.IRModule({"main": main}))


def _rewrite(main: relax.Function, rules: Mapping[str, Rule]) -> relax.Function:
    """Apply the rule for each operator, once to each call and in order, and drop dead code."""
    rewriter = _Rewriter(main, rules)
    for block in main.body.blocks:
        for binding in block.bindings:
            rewriter.bind(binding.var, binding.value)
    outputs = list(leaves([rewriter.resolve(main.body.body)]))
    bindings = _live(rewriter.definitions, outputs)
    body = relax.SeqExpr([relax.BindingBlock(bindings)], relax.Tuple(outputs))
    returned = relax.TupleType([output.ty for output in outputs])
    return relax.Function(list(main.params), body, returned)


class _Rewriter:
    """Rewrites bindings one by one, in order.

    ``definitions`` holds what is left: variables and what they are bound to. ``name`` is the hint
    for the variable that is being bound, and for what a rule emits on its behalf.
    """

    def __init__(self, main: relax.Function, rules: Mapping[str, Rule]) -> None:
        self.definitions: dict[relax.Var, relax.Expr] = {}
        self.name = ""
        self._rules = rules
        self._replaced: dict[relax.Var, relax.Expr] = {}
        self._uses = _count_uses(main)
        self._item_names = _item_names(main)

    def bind(self, var: relax.Var, value: relax.Expr) -> None:
        self.name = self._item_names.get((var, 0), var.name)
        value = self.resolve(value)
        if isinstance(value, relax.Call):
            value = self._simplify(value)
        if isinstance(value, relax.Call):
            value = self._define(var, value)
        if isinstance(value, relax.Var):
            self._uses[value] += self._uses[var] - 1  # whoever read the one reads the other now
        self._replaced[var] = value

    def resolve(self, expr: relax.Expr) -> relax.Expr:
        """The expression with every variable that was replaced replaced."""
        return map_leaves(
            expr,
            lambda leaf: self._replaced.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf,
        )

    def emit(self, value: relax.Expr, name: str) -> relax.Var:
        """Bind what no variable of the source is bound to, for one reader."""
        var = relax.Var(name, value.ty)
        self.definitions[var], self._uses[var] = value, 1
        return var

    def definition(self, expr: relax.Expr) -> relax.Call | None:
        """The call that makes a value; None of what none makes, such as an item of a tuple."""
        found = self.definitions.get(expr)
        return found if isinstance(found, relax.Call) else None

    def sole_definition(self, expr: relax.Expr) -> relax.Call | None:
        """The call that makes a value, if nothing but one reader needs the value."""
        is_sole = isinstance(expr, relax.Var) and self._uses[expr] == 1
        return self.definition(expr) if is_sole else None

    def _simplify(self, call: relax.Call) -> relax.Expr:
        for rule in (_evaluate, _drop_identity, self._rules.get(op_name(call))):
            result = rule(self, call) if rule else None
            if result is not None:
                return result
        return call

    def _define(self, source: relax.Var, call: relax.Call) -> relax.Expr:
        """Bind a call to a new variable, since the source's may be tied to a dataflow block."""
        var = self.emit(call, source.name)
        if not isinstance(call.ty, relax.TupleType):
            return var
        items = (relax.TupleGetItem(var, index) for index in range(len(call.ty.fields)))
        names = self._item_names
        return relax.Tuple(
            [self.emit(item, names.get((source, item.index), source.name)) for item in items]
        )


def _typed(call: relax.Call, like: relax.Expr) -> relax.Call:
    """The call with the type of another expression, which normalisation would infer."""
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, ret_ty=like.ty)


def _count_uses(main: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read, as an argument or as a result."""
    values = [binding.value for block in main.body.blocks for binding in block.bindings]
    arguments = (value.args if isinstance(value, relax.Call) else [value] for value in values)
    read = leaves([*chain.from_iterable(arguments), main.body.body])
    return Counter(leaf for leaf in read if isinstance(leaf, relax.Var))


def _item_names(main: relax.Function) -> dict[tuple[relax.Var, int], str]:
    """What the source calls the items of tuples, by tuple and position."""
    return {
        (binding.value.tuple_value, binding.value.index): binding.var.name
        for block in main.body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.TupleGetItem)
    }


def _live(
    definitions: Mapping[relax.Var, relax.Expr], outputs: Sequence[relax.Expr]
) -> list[relax.VarBinding]:
    """The bindings that the outputs need, in order."""
    needed = {output for output in outputs if isinstance(output, relax.Var)}
    kept: list[relax.VarBinding] = []
    for var, value in reversed(list(definitions.items())):
        if var in needed:
            kept.append(relax.VarBinding(var, value))
            needed.update(relax.analysis.free_vars(value))
    return kept[::-1]


# Constants -------------------------------------------------------------------------------------

_NUMPY: dict[str, Callable[[relax.Call, list[NDArray[Any]]], NDArray[Any]]] = {
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
    return constant(np.asarray(_NUMPY[name](call, known), dtype_of(call)).reshape(shape_of(call)))


# Operators that do nothing -----------------------------------------------------------------------

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
    attrs = call.attrs
    constants = [as_array(statistic) for statistic in statistics]
    if attrs["training"] or any(constant is None for constant in constants):
        return None
    gamma, beta, mean, variance = (np.asarray(constant, dtype=np.float64) for constant in constants)
    scale = (gamma if attrs["scale"] else 1.0) / np.sqrt(variance + float(attrs["epsilon"]))
    shift = (beta if attrs["center"] else 0.0) - mean * scale
    channel_shape = [1] * len(shape_of(data))
    channel_shape[int(attrs["axis"])] = -1

    def per_channel(values: NDArray[np.float64]) -> relax.Expr:
        return constant(values.reshape(channel_shape).astype(dtype_of(data)))

    scaled = rewriter.emit(_typed(relax.op.multiply(data, per_channel(scale)), data), rewriter.name)
    shifted = rewriter.emit(_typed(relax.op.add(scaled, per_channel(shift)), data), rewriter.name)
    return relax.Tuple([shifted, statistics[2], statistics[3]])


def _fold_multiply(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """``(conv(x, w) + b) * f`` as ``conv(x, w * f) + b * f``; without ``b`` likewise."""
    data, factor = call.args
    values, definition = as_array(factor), rewriter.sole_definition(data)
    if values is None or definition is None:
        return None
    if op_name(definition) != "add":
        return _scale_convolution(rewriter, data, values)
    bias = as_array(definition.args[1])
    if bias is None or not _same_type(definition.args[0], data):
        return None
    scaled = _scale_convolution(rewriter, definition.args[0], values)
    return None if scaled is None else _typed(relax.op.add(scaled, constant(bias * values)), data)


def _scale_convolution(
    rewriter: _Rewriter, data: relax.Expr, factor: NDArray[Any]
) -> relax.Var | None:
    """Move a factor for each channel of a convolution that nothing else reads into its weight."""
    call = rewriter.sole_definition(data)
    if call is None or op_name(call) != "conv2d" or call.attrs["out_layout"] != "NCHW":
        return None
    weight = as_array(call.args[1])
    if weight is None or weight.dtype != factor.dtype or call.attrs["kernel_layout"] != "OIHW":
        return None
    per_channel = (1, weight.shape[0], 1, 1)
    if np.broadcast_shapes(factor.shape, per_channel) != per_channel:
        return None
    scaled = constant(weight * np.broadcast_to(factor, per_channel).reshape(-1, 1, 1, 1))
    folded = relax.Call(call.op, [call.args[0], scaled], call.attrs, ret_ty=call.ty)
    return rewriter.emit(folded, data.name)


def _fold_add(rewriter: _Rewriter, call: relax.Call) -> relax.Call | None:
    """``(x + a) + b`` as ``x + (a + b)``, a and b constant."""
    data, addend = call.args
    values, definition = as_array(addend), rewriter.sole_definition(data)
    if values is None or definition is None or op_name(definition) != "add":
        return None
    inner = as_array(definition.args[1])
    if inner is None:
        return None
    return _typed(relax.op.add(definition.args[0], constant(inner + values)), call)


def _constant_last(rule: Rule) -> Rule:
    """Apply a rule to a commutative call with its constant, if any, as second argument."""

    def apply(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
        if as_array(call.args[0]) is None:
            return rule(rewriter, call)
        swapped = relax.Call(call.op, [call.args[1], call.args[0]], ret_ty=call.ty)
        rewritten = rule(rewriter, swapped)
        return swapped if rewritten is None else rewritten

    return apply


# Copies ------------------------------------------------------------------------------------------


def _fold_pad(rewriter: _Rewriter, call: relax.Call) -> relax.Call | None:
    """Let a convolution pad by itself where zeros, once or more, were put around its input."""
    attrs, pad = call.attrs, rewriter.definitions.get(call.args[0])
    padding = _spatial_zero_padding(pad)
    if padding is None or attrs["data_layout"] != "NCHW":
        return None
    kept = ("strides", "dilation", "groups", "data_layout", "kernel_layout")
    unpadded = relax.op.nn.conv2d(
        pad.args[0],
        call.args[1],
        padding=[int(own) + extra for own, extra in zip(attrs["padding"], padding, strict=True)],
        out_layout=attrs["out_layout"],
        out_dtype=attrs["out_dtype"],
        **{name: attrs[name] for name in kept},
    )
    folded = _typed(unpadded, call)
    further = _fold_pad(rewriter, folded)
    return folded if further is None else further


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


def _sum_of_stacked(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """Add tensors one to another instead of copying them together and reducing."""
    stacked = rewriter.sole_definition(call.args[0])
    if stacked is None or op_name(stacked) != "stack" or call.attrs["keepdims"]:
        return None
    rank, axes = len(shape_of(stacked)), call.attrs["axis"]
    if axes is None or [int(axis) % rank for axis in axes] != [int(stacked.attrs["axis"]) % rank]:
        return None
    total, *others = stacked.args[0].fields
    for other in others:
        total = rewriter.emit(_typed(relax.op.add(total, other), call), rewriter.name)
    return total


def _fold_shuffle(rewriter: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """Splitting channels in two axes, exchanging and joining these takes them in another order."""
    exchanged = rewriter.definition(call.args[0])
    if exchanged is None or op_name(exchanged) != "permute_dims":
        return None
    split = rewriter.definition(exchanged.args[0])
    if split is None or op_name(split) != "reshape" or not _same_type(split.args[0], call):
        return None
    groups = shape_of(split)
    if len(groups) < 4 or len(shape_of(call)) != len(groups) - 1:
        return None
    batch, channels, *plane = shape_of(call)
    swap = [0, 2, 1, *range(3, len(groups))]
    axes = [int(axis) for axis in exchanged.attrs["axes"] or ()]
    if axes != swap or [groups[0], *groups[3:]] != [batch, *plane]:
        return None
    order = np.arange(channels).reshape(groups[1:3]).T.reshape(-1)
    indices = constant(order.astype(np.int32))
    return _typed(relax.op.take(split.args[0], indices, axis=1, mode="clip"), call)


def _bound_indices(_: _Rewriter, call: relax.Call) -> relax.Expr | None:
    """Clip indices: in TVM's default mode a wrong one reads whatever memory it leads to."""
    if str(call.attrs["mode"]) != "fast":
        return None
    bounded = relax.op.take(*call.args, axis=call.attrs["axis"], mode="clip")
    return _typed(bounded, call)


def _same_type(one: relax.Expr, other: relax.Expr) -> bool:
    return shape_of(one) == shape_of(other) and dtype_of(one) == dtype_of(other)


_SIMPLIFICATIONS: Mapping[str, Rule] = {
    "batch_norm": _expand_batch_norm,
    "dropout": _drop_dropout,
    "take": _bound_indices,
}
"""What leaves no operator, or others, in one's place; no rule asks who else reads a value."""

_FUSIONS: Mapping[str, Rule] = {
    "add": _constant_last(_fold_add),
    "conv2d": _fold_pad,
    "multiply": _constant_last(_fold_multiply),
    "reshape": _fold_shuffle,
    "sum": _sum_of_stacked,
}
"""What merges a call with the one before it; dead code, which would count as a reader, is gone."""
