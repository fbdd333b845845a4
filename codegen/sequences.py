# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false
# TVM ships no types
"""Segments that a plan runs one after the other, as one function.

The kernels are those of the segments. But a call crosses from Python once, and what only the
segments among themselves read needs no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, te, tirx

from partc.runtime.spec import SegmentSpec, SequenceSpec

_SEQUENCE = "partc.sequence"

_CLOCK_MONOTONIC = 1


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


def add_timed_sequence(
    module: tvm.IRModule, segments: Sequence[SegmentSpec], returned: Collection[str], name: str
) -> tuple[tvm.IRModule, SequenceSpec]:
    """Add a function that calls all segments in turn, and reads the clock around each.

    It reads the clock itself. So a time is the same whether the function is called from here or
    over a network, and is that of a segment in a model: its inputs were just made, and its weights
    were last read a run ago.

    Args:
        module: Holds a function for each segment.
        segments: What these functions take and return.
        returned: Which of the tensors that they make to return.
        name: Of the function.

    Returns:
        The module, and what the function takes and returns. Behind the outputs it returns two more
        tensors than there are segments, of type int64 and shape (2,): seconds and nanoseconds of a
        clock that only goes on. The first two are read one after the other and tell what reading
        takes.
    """
    builder = relax.BlockBuilder(module)
    clock = builder.add_func(_clock(), "read_clock")

    def read_clock(position: int) -> relax.Expr:
        # What differs between the calls keeps TVM from taking them for one.
        which = tirx.IntImm("int64", position)
        return builder.emit(relax.op.call_tir(clock, [which], relax.TensorType((2,), "int64")))

    spec = _emit(builder, name, segments, returned, read_clock)
    return builder.get(), spec


def _clock() -> tvm.tirx.PrimFunc:
    """A kernel that writes what the C library's monotonic clock says; its number is not used."""

    def read(_inputs: Any, outputs: Any) -> Any:
        now = outputs[0].data
        return tirx.Evaluate(tirx.call_extern("int32", "clock_gettime", _CLOCK_MONOTONIC, now))

    now = te.extern((2,), [], read, name="now", dtype="int64")
    kernel = te.create_prim_func([te.var("position", "int64"), now])
    return kernel.with_attr("tirx.is_scheduled", True)


def _emit(
    builder: relax.BlockBuilder,
    name: str,
    calls: Sequence[SegmentSpec],
    returned: Collection[str],
    read_clock: Callable[[int], relax.Expr] | None = None,
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
        times = [read_clock(-1), read_clock(0)] if read_clock else []
        for number, call in enumerate(calls, 1):
            arguments = [tensors[each] for each in call.inputs]
            arguments += [params[each] for each in call.params]
            result = builder.emit(relax.Call(module.get_global_var(call.name), arguments))
            for position, tensor in enumerate(call.outputs):
                tensors[tensor] = builder.emit(relax.TupleGetItem(result, position))
            times += [read_clock(number)] if read_clock else []
        builder.emit_func_output(relax.Tuple([*(tensors[each] for each in outputs), *times]))
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
