# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false
# pyright: reportUntypedClassDecorator=false
# TVM ships no types.
"""An exported torch program as a Relax function that says where its values come from.

The operators are converted by TVM's own importer. Around it: every operator that it lacks or is
known to get wrong is refused before any work, the type of every value it makes is compared with
what torch inferred, and the variables are named after the modules that compute them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import tvm
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from partc.errors import ModelError

_RANDOM = "draws random numbers"
_TRAINING = "is in training mode; export model.eval()"
_EFFECT = "checks data at run time"
_REFUSED: Mapping[str, str] = {
    "_assert_async.default": _EFFECT,
    "_assert_async.msg": _EFFECT,
    "_native_batch_norm_legit_functional.default": _TRAINING,
    "_upsample_bilinear2d_aa.default": "resizes with antialiasing",
    "exponential.default": _RANDOM,
    "native_dropout.default": _TRAINING,
    "randn.default": _RANDOM,
    "randn_like.default": _RANDOM,
}
_INDEXED_ALONG = frozenset(
    ("gather.default", "index_select.default", "scatter.src", "scatter.value")
)
_NAMESPACES = ("aten", "prims", "torchvision")


def to_relax(program: ExportedProgram, inputs: Sequence[str]) -> tvm.IRModule:
    """Translate a program to one Relax function ``main`` over its user inputs.

    Weights become constants that share torch's memory where its layout allows; torch.export has
    made tied weights one. The function returns the program's tensor outputs as a tuple.

    Args:
        program: A decomposed program with fixed shapes that changes no state; its graph is
            rewritten in place.
        inputs: Names of the user inputs, in order.

    Raises:
        ModelError: Lists every operator that cannot be compiled, with its node and module.
    """
    importer = _Importer()
    _check_operators(program, importer.convert_map)
    _make_indices_positive(program.graph)
    function, weights = importer.function(program, inputs)
    names = _name_values(function, importer.env, inputs)
    renamed: Any = _Rename(names).visit_expr(function)
    tensors = _held_tensors(program)
    bound = renamed.bind_params({var: _constant(tensors[name]) for name, var in weights.items()})
    return tvm.IRModule({"main": bound})


def describe_node(node: fx.Node) -> str:
    """An operator, its node and its module, for a message."""
    module = _module_path(node)
    target = "getitem" if node.target is operator.getitem else node.target
    return f"{target} (node {node.name!r}" + (f" in module {module!r})" if module else ")")


class _Importer(ExportedProgramImporter):
    """TVM's importer, with its errors in terms of the model, and without what is constant.

    What depends on no input, such as the wrapping of an index that is always the same, torch
    computes now: else it would be a layer of its own, for every request.
    """

    def function(
        self, program: ExportedProgram, inputs: Sequence[str]
    ) -> tuple[relax.Function, dict[str, tvm.ir.Var]]:
        """Translate the graph; also returns the parameters that stand for weights."""
        weights, arguments, _ = self.create_input_vars(program)
        known = _known_values(program)
        self.env.update(_constants_read(known))
        builder = self.block_builder = relax.BlockBuilder()
        parameters = [arguments[name] for name in inputs]
        with builder.function("main", [*parameters, *weights.values()]):
            with builder.dataflow():
                outputs = self._translate(program.graph, {**arguments, **weights}, known)
                result = builder.emit_output(relax.Tuple(outputs))
            builder.emit_func_output(result)
        return builder.get()["main"], weights

    def _translate(
        self, graph: fx.Graph, variables: Mapping[str, tvm.ir.Var], known: Container[fx.Node]
    ) -> list[relax.Expr]:
        for node in graph.nodes:
            if node.op == "placeholder":
                self.env[node] = variables[node.name]
            elif node.op == "call_function" and node not in known:
                self.env[node] = self._convert(node)
        outputs = _argument(graph.output_node(), 0)
        return [self.env[output] for output in outputs if output is not None]

    def _convert(self, node: fx.Node) -> relax.Expr:
        try:
            value = self.convert_map[_target_name(node)](node)
        except Exception as error:
            raise ModelError(
                f"TVM cannot import {describe_node(node)}: {first_line(error)}"
            ) from error
        _check_type(node, value)
        return value

    def _upsample_nearest2d(self, node: fx.Node) -> tvm.ir.Var:
        """TVM's converter rounds halves up between pixel centres; torch rounds down."""
        return self.block_builder.emit(
            relax.op.image.resize2d(
                self.env[_argument(node, 0)],
                tuple(node.meta["val"].shape[2:]),
                layout="NCHW",
                method="nearest_neighbor",
                coordinate_transformation_mode="asymmetric",
                rounding_method="floor",
            )
        )


def _check_type(node: fx.Node, value: Any) -> None:
    """Refuse a value that is not of the type that torch inferred for it."""
    expected = node.meta.get("val")
    if not isinstance(expected, torch.Tensor) or not isinstance(
        getattr(value, "ty", None), relax.TensorType
    ):
        return
    shape = [int(extent) for extent in value.ty.shape]
    dtype = str(value.ty.dtype)
    if (dtype, shape) != (dtype_name(expected.dtype), list(expected.shape)):
        raise ModelError(
            f"TVM cannot import {describe_node(node)}: it makes {dtype}{shape} of it, "
            f"not {dtype_name(expected.dtype)}{list(expected.shape)}"
        )


def first_line(error: Exception) -> str:
    """What a foreign library says is wrong, without the trace that it appends."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def dtype_name(dtype: torch.dtype) -> str:
    """A torch element type's NumPy name."""
    return str(dtype).removeprefix("torch.")


def _check_operators(program: ExportedProgram, convertible: Container[object]) -> None:
    problems = [
        f"{describe_node(node)} {problem}"
        for node in program.graph.nodes
        if node.op not in ("placeholder", "output")
        and (problem := _operator_problem(node, convertible))
    ]
    if problems:
        raise ModelError(
            "the model uses operators that cannot be compiled, replace them and export again: "
            + "; ".join(problems)
        )


def _operator_problem(node: fx.Node, convertible: Container[object]) -> str | None:
    if node.target is operator.getitem:
        return None
    if not isinstance(node.target, OpOverload):
        return "is control flow or no operator of torch"
    name = node.target.__name__
    if name in _REFUSED:
        return _REFUSED[name]
    if name not in convertible or node.target.namespace not in _NAMESPACES:
        return "has no converter"
    if _has_unknown_shape(node):
        return "makes a tensor whose shape depends on data"
    return _argument_problem(node, name)


def _target_name(node: fx.Node) -> str:
    """What TVM's importer knows an operator by."""
    return getattr(node.target, "__name__", str(node.target))


def _argument(node: fx.Node, index: int) -> Any:
    return node.args[index]


def _has_unknown_shape(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and any(
        isinstance(extent, torch.SymInt) for extent in value.shape
    )


def _argument_problem(node: fx.Node, name: str) -> str | None:
    """Arguments that TVM's converter ignores."""
    last = node.args[-1] if node.args else None
    if name.startswith("avg_pool") and len(node.args) == 7 and last is not None:
        return "overrides the divisor"
    if name.startswith("upsample_") and isinstance(last, list | tuple):
        extents = _argument(node, 0).meta["val"].shape[2:]
        scales = [scale for scale in last if isinstance(scale, float)]
        if any(
            not (extent * scale).is_integer()
            for extent, scale in zip(extents, scales, strict=False)
        ):
            return "has a scale factor that gives no whole size, so pass the size instead"
    return None


def _make_indices_positive(graph: fx.Graph) -> None:
    """Count negative indices from the front, and let none lead out of its tensor.

    TVM converts them to a ``take`` that reads outside of the tensor. This, and not the recurrent
    layers, is what makes the usual ``lstm(x)[0][:, -1]`` come out as garbage. Where torch refuses
    an index, as an embedding does, no caller may use it to read or write what is not the tensor's.
    """
    for node in list(graph.nodes):
        name = _target_name(node)
        if name == "select.int":
            source, axis, index = node.args
            node.args = (source, axis, index % source.meta["val"].shape[axis])
        elif name in ("index.Tensor", "index_put.default"):
            indices = [_wrap(node, axis, index) for axis, index in enumerate(node.args[1])]
            node.args = (node.args[0], indices, *node.args[2:])
        elif name == "embedding.default":
            table, index, *rest = node.args
            node.args = (table, _wrap(node, 0, index), *rest)
        elif name in _INDEXED_ALONG:
            source, axis, index, *rest = node.args
            node.args = (source, axis, _wrap(node, axis, index), *rest)


def _wrap(node: fx.Node, axis: int, index: fx.Node | None) -> fx.Node | None:
    if index is None or index.meta["val"].dtype == torch.bool:
        return index
    with node.graph.inserting_before(node):
        extent = _argument(node, 0).meta["val"].shape[axis]
        wrapped = node.graph.call_function(torch.ops.aten.remainder.Scalar, (index, extent))
    wrapped.meta = {**node.meta, "val": index.meta["val"]}
    return wrapped


def _held_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """The weights, buffers and constants by placeholder name."""
    by_target: dict[str, Any] = {**program.constants, **program.state_dict}
    return {
        spec.arg.name: by_target[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    }


def _constant(tensor: torch.Tensor) -> relax.Expr:
    # Whoever reads a constant's data expects it dense and in row-major order.
    shared: Any = tvm.runtime.from_dlpack(tensor.detach().cpu().to_dense().contiguous())
    return relax.const(shared)


def _known_values(program: ExportedProgram) -> dict[fx.Node, torch.Tensor]:
    """What the operators make that depend on no input; like calls make one tensor.

    So what is computed from a weight that is tied is tied, too.
    """
    held = _held_tensors(program)
    values = {node: held[node.name] for node in program.graph.nodes if node.name in held}
    made: dict[fx.Node, torch.Tensor] = {}
    by_call: dict[str, torch.Tensor] = {}
    for node in program.graph.nodes:
        if _makes_tensor(node) and all(each in values for each in node.all_input_nodes):
            arguments = fx.map_arg((node.args, node.kwargs), lambda each: f"@{id(values[each])}")
            call = f"{node.target} {arguments}"
            if call not in by_call:
                by_call[call] = _compute(node, values)
            made[node] = values[node] = by_call[call]
    return made


def _constants_read(known: Mapping[fx.Node, torch.Tensor]) -> dict[fx.Node, relax.Expr]:
    """Constants for the known values that others are computed from; one for each tensor."""
    read = [node for node in known if any(user not in known for user in node.users)]
    constants = {id(tensor): _constant(tensor) for tensor in map(known.__getitem__, read)}
    return {node: constants[id(known[node])] for node in read}


def _makes_tensor(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)


def _compute(node: fx.Node, values: Mapping[fx.Node, torch.Tensor]) -> torch.Tensor:
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    compute: Any = node.target
    try:
        with torch.no_grad():
            return compute(*args, **kwargs)
    except Exception as error:
        raise ModelError(
            f"torch cannot compute {describe_node(node)}, which depends on no input: "
            f"{first_line(error)}"
        ) from error


@mutator
class _Rename(PyExprMutator):
    """Gives variables other name hints."""

    def __init__(self, names: Mapping[tvm.ir.Var, str]) -> None:
        super().__init__()
        self._names = names

    def visit_var_def_(self, var: tvm.ir.Var) -> tvm.ir.Var:
        if var not in self._names:
            return var
        renamed = type(var)(self._names[var], var.ty)
        self.set_var_remap(var, renamed)
        return renamed

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> tvm.ir.Var:
        return self.visit_var_def_(var)


def _name_values(
    function: relax.Function, values: Mapping[fx.Node, object], taken: Iterable[str]
) -> dict[tvm.ir.Var, str]:
    """A name for every variable: its node's, or its node's and its operator's if in between."""
    body: Any = function.body
    bindings = [binding for block in body.blocks for binding in block.bindings]
    made = {binding.var for binding in bindings}
    nodes: dict[tvm.ir.Var, fx.Node] = {}
    for node, value in values.items():
        if isinstance(value, tvm.ir.Var) and value in made:
            nodes.setdefault(value, node)
    used = set(taken)
    names = dict(zip(nodes, _unique(_node_names(list(nodes.values())), used), strict=True))
    owner = ""
    for binding in reversed(bindings):
        if binding.var in names:
            owner = names[binding.var]
        else:
            name = f"{owner}.{_operator_name(binding)}" if owner else "outputs"
            names[binding.var] = next(_unique([name], used))
    return names


def _operator_name(binding: relax.VarBinding) -> str:
    called = getattr(binding.value, "op", None)
    return called.name.split(".")[-1] if called is not None else "value"


def _node_names(nodes: Sequence[fx.Node]) -> list[str]:
    """The module's path for the result of a module without submodules, else path and operator."""
    calls = [_module_calls(node) for node in nodes]
    composite = {call for stack in calls for call in stack[:-1]}
    last = {stack[-1]: index for index, stack in enumerate(calls) if stack}
    names: list[str] = []
    for index, (node, stack) in enumerate(zip(nodes, calls, strict=True)):
        path = _module_path(node)
        is_result = path and stack[-1] not in composite and last[stack[-1]] == index
        kind = _target_name(node).split(".")[0].lstrip("_")
        names.append(path if is_result else f"{path}.{kind}" if path else kind)
    return names


def _module_calls(node: fx.Node) -> list[str]:
    """Calls of modules that the node is in, outermost first; every call has its own key."""
    return list(node.meta.get("nn_module_stack") or ())


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return list(stack.values())[-1][0]


def _unique(names: Iterable[str], used: set[str]) -> Iterator[str]:
    """The names with characters outside of ``[A-Za-z0-9_.]`` replaced and repetitions numbered."""
    for name in names:
        base = candidate = re.sub(r"[^A-Za-z0-9_.]", "_", name)
        count = 0
        while candidate in used:
            count += 1
            candidate = f"{base}_{count}"
        used.add(candidate)
        yield candidate
