# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false, reportAttributeAccessIssue=false
# TVM ships no types
"""What TVM fuses behind a kernel, and what it may not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import tvm
from tvm import relax

from partc.passes.expressions import shape_of

PATTERN = "op_pattern"
"""The attribute of a function by which TVM decides what to fuse with it; its values follow."""

ELEMENTWISE = 0
BROADCAST = 1
INJECTIVE = 2
FUSABLE = 4
"""What is element-wise and comes behind such a function becomes its tail."""


@tvm.transform.module_pass(opt_level=0)
def correct_patterns(module: tvm.IRModule, _: Any) -> tvm.IRModule:
    """Take back that something may become a tail whose result has another shape than its anchor.

    TVM looks at indices only, and those of a slice from the beginning are the same on both sides:
    the anchor would compute what has another shape than its schedule expects. And it lets a gate's
    convolution become part of the product that it scales, which would compute the gate for each
    pixel anew.
    """
    kernels = {
        name: function
        for name, function in module.functions.items()
        if isinstance(function, tvm.tirx.PrimFunc) and function.attrs is not None
    }
    spreading = {
        name
        for function in module.functions.values()
        if isinstance(function, relax.Function)
        for name in _spreading(function, kernels)
    }
    corrected = {
        name: function.with_attr(PATTERN, INJECTIVE)
        for name, function in kernels.items()
        if name in spreading or _changes_shape(function)
    }
    return tvm.IRModule({**module.functions, **corrected}, attrs=module.attrs)


def _changes_shape(function: Any) -> bool:
    """Whether something was taken for element-wise that makes no tensor of a shape it reads."""
    if function.attrs.get(PATTERN) != ELEMENTWISE:
        return False
    *inputs, output = [tuple(int(size) for size in each.ty.shape) for each in function.params]
    return output not in inputs


def _spreading(function: relax.Function, kernels: Mapping[Any, Any]) -> Iterator[Any]:
    """The kernels that spread over a larger tensor what an anchor, or its tail, has made."""
    tails: set[relax.Var] = set()
    for block in function.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not (isinstance(call, relax.Call) and call.args and call.args[0] in kernels):
                continue
            pattern = kernels[call.args[0]].attrs.get(PATTERN)
            small = [each for each in call.args[1] if each in tails and _is_larger(call, each)]
            if pattern == FUSABLE:
                tails.add(binding.var)
            elif pattern in (ELEMENTWISE, BROADCAST):
                if small:
                    yield call.args[0]
                elif any(each in tails for each in call.args[1]):
                    tails.add(binding.var)


def _is_larger(made: relax.Expr, read: relax.Expr) -> bool:
    return math.prod(shape_of(made)) > math.prod(shape_of(read))
