# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportArgumentType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
# TVM ships no types
"""Memory for the tensors inside of functions: what one gives back, the next one takes.

TVM plans the storage of each function by itself. Its pool hands out again only what has exactly
the size that is asked for, so segments and sequences whose tensors differ a little would each have
memory of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import tvm
from tvm import relax

_ALLOCATE = "relax.memory.alloc_storage"


@tvm.transform.module_pass(opt_level=0)
def share_storage(module: tvm.IRModule, _: Any) -> tvm.IRModule:
    """Have the largest storage that each function has planned be of one size, and so on down.

    What a function returns has storage of its own, which is not planned.
    """
    functions = {
        name: function
        for name, function in module.functions.items()
        if isinstance(function, relax.Function)
    }
    ranked = (sorted(_planned(function), reverse=True) for function in functions.values())
    sizes = [max(sizes) for sizes in zip_longest(*ranked, fillvalue=0)]
    shared = {name: _resize(function, sizes) for name, function in functions.items()}
    return tvm.IRModule({**module.functions, **shared}, attrs=module.attrs)


def _planned(function: relax.Function) -> list[int]:
    """The sizes of what a function has planned, in bytes, in order."""
    return [_nbytes(value) for _, value in _bindings(function) if _plans(value)]


def _resize(function: relax.Function, sizes: Sequence[int]) -> relax.Function:
    """Give the largest storage the first size, and so on."""
    planned = _planned(function)
    ranks = sorted(range(len(planned)), key=lambda position: -planned[position])
    resized = iter([sizes[ranks.index(position)] for position in range(len(planned))])
    bindings = [
        relax.VarBinding(var, _with_size(value, next(resized)) if _plans(value) else value)
        for var, value in _bindings(function)
    ]
    body = relax.SeqExpr([relax.BindingBlock(bindings)], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _bindings(function: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def _plans(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", None) == _ALLOCATE


def _nbytes(call: relax.Call) -> int:
    (nbytes,) = call.args[0].values
    return int(nbytes)


def _with_size(call: relax.Call, nbytes: int) -> relax.Call:
    args = [relax.ShapeExpr([nbytes]), *call.args[1:]]
    return relax.Call(call.op, args, call.attrs, call.ty_args, ret_ty=call.ty)
