# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false
# pyright: reportAttributeAccessIssue=false
# TVM ships no types
"""Segments that a plan runs one after the other, as one function.

The kernels are those of the segments. But a call crosses from Python once, and what only the
segments among themselves read needs no memory of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from partc.runtime.spec import SegmentSpec, SequenceSpec

_SEQUENCE = "partc.sequence"


@dataclass(frozen=True)
class Run:
    """Segments to call in this order, and which of the tensors that they make to return."""

    segments: tuple[str, ...]
    returned: Collection[str]


def add_sequences(
    module: tvm.IRModule, segments: Sequence[SegmentSpec], runs: Sequence[Run]
) -> tuple[tvm.IRModule, tuple[SequenceSpec, ...]]:
    """Add a function for each run, which calls those of its segments.

    Args:
        module: Holds a function for each segment.
        segments: What these functions take and return.
        runs: A run of less than two segments gets no function.
    """
    builder = relax.BlockBuilder(module)
    by_name = {segment.name: segment for segment in segments}
    longer = [run for run in runs if len(run.segments) > 1]
    specs = [
        _emit(builder, f"sequence_{n}", [by_name[name] for name in run.segments], run.returned)
        for n, run in enumerate(longer)
    ]
    return builder.get(), tuple(specs)


@tvm.transform.module_pass(opt_level=0)
def inline_sequences(module: tvm.IRModule, _: Any) -> tvm.IRModule:
    """Put what segments do into the functions that call them, once kernels are fused.

    So memory is planned for a sequence as for one segment, and its kernels are no others.
    """
    segments = {
        name: function
        for name, function in module.functions.items()
        if isinstance(function, relax.Function) and not _is_sequence(function)
    }
    inlined = {
        name: function.inline_functions(segments)
        for name, function in module.functions.items()
        if _is_sequence(function)
    }
    return tvm.IRModule({**module.functions, **inlined}, attrs=module.attrs)


def _is_sequence(function: Any) -> bool:
    return function.attrs is not None and _SEQUENCE in function.attrs


def _emit(
    builder: relax.BlockBuilder, name: str, calls: Sequence[SegmentSpec], returned: Collection[str]
) -> SequenceSpec:
    module = builder.get()
    taken = [(call, module[call.name].params) for call in calls]
    made = [tensor for call in calls for tensor in call.outputs]
    reads = (pair for call, params in taken for pair in zip(call.inputs, params, strict=False))
    inputs = _variables("input", ((tensor, param) for tensor, param in reads if tensor not in made))
    params = _variables(
        "weight",
        (
            pair
            for call, params in taken
            for pair in zip(call.params, params[len(call.inputs) :], strict=True)
        ),
    )
    outputs = tuple(tensor for tensor in made if tensor in returned)
    attributes: dict[str, Any] = {"num_input": len(inputs), _SEQUENCE: True}
    with builder.function(name, [*inputs.values(), *params.values()], attributes):
        tensors: dict[str, relax.Expr] = dict(inputs)
        for call in calls:
            arguments = [tensors[each] for each in call.inputs]
            arguments += [params[each] for each in call.params]
            result = builder.emit(relax.Call(module.get_global_var(call.name), arguments))
            for position, tensor in enumerate(call.outputs):
                tensors[tensor] = builder.emit(relax.TupleGetItem(result, position))
        builder.emit_func_output(relax.Tuple([tensors[each] for each in outputs]))
    return SequenceSpec(
        name, tuple(inputs), tuple(params), outputs, tuple(call.name for call in calls)
    )


def _variables(prefix: str, params: Iterable[tuple[str, relax.Var]]) -> dict[str, relax.Var]:
    """A parameter for each name, in the order in which names first come."""
    types = {name: param.ty for name, param in params}
    return {
        name: relax.Var(f"{prefix}_{position}", type_)
        for position, (name, type_) in enumerate(types.items())
    }
