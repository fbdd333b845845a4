# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false, reportAttributeAccessIssue=false
# TVM ships no types
"""What TVM fuses behind a kernel, and what it may not."""

from __future__ import annotations

from typing import Any

import tvm

PATTERN = "op_pattern"
"""The attribute of a function by which TVM decides what to fuse with it; its values follow."""

ELEMENTWISE = 0
INJECTIVE = 2
FUSABLE = 4
"""What is element-wise and comes behind such a function becomes its tail."""


@tvm.transform.module_pass(opt_level=0)
def correct_patterns(module: tvm.IRModule, _: Any) -> tvm.IRModule:
    """Take back that what changes a shape is element-wise.

    TVM looks at indices only, and those of a slice from the beginning are the same on both sides.
    As a tail it would have an anchor compute what has another shape than its schedule expects.
    """
    corrected = {
        name: function.with_attr(PATTERN, INJECTIVE)
        for name, function in module.functions.items()
        if isinstance(function, tvm.tirx.PrimFunc) and _changes_shape(function)
    }
    return tvm.IRModule({**module.functions, **corrected}, attrs=module.attrs)


def _changes_shape(function: Any) -> bool:
    """Whether something was taken for element-wise that makes no tensor of a shape it reads."""
    if function.attrs is None or function.attrs.get(PATTERN) != ELEMENTWISE:
        return False
    *inputs, output = [tuple(int(size) for size in each.ty.shape) for each in function.params]
    return output not in inputs
