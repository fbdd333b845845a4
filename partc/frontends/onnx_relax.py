# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportUntypedClassDecorator=false
# TVM ships no types
"""ONNX graphs with fixed shapes as Relax functions that keep the model's names."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import numpy as np
import onnx.helper
from onnx import GraphProto, ModelProto
from tvm import IRModule, relax
from tvm.ir import Call, Expr
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter
from tvm.tirx import IntImm

from partc.errors import ModelError
from partc.frontends.onnx_converters import OperatorBuilder, convert_clip, convert_indexing
from partc.frontends.onnx_messages import describe_node, reason
from partc.graph import ITEM_NBYTES, Tensor, TensorType

_BUILDER_NAME = re.compile(r"(lv|gv)\d*")


def to_relax(model: ModelProto, title: str) -> IRModule:
    """Import a model whose shapes are fixed and folded.

    Args:
        model: The model; every operator in it has a converter.
        title: What messages call the model.

    Returns:
        A module with one function ``main``: weights are constants, and a tuple is returned.

    Raises:
        ModelError: TVM's importer rejects a node.
    """
    importer = _Importer(relax_names(model.graph), title)
    function = importer.convert(model.graph, opset_version(model))
    module = IRModule({"main": _Renamer(importer.labels).visit_expr(function)})
    return relax.transform.DeadCodeElimination()(module)


def output_tensors(module: IRModule, names: Iterable[str]) -> tuple[Tensor, ...]:
    """Names and types of what ``main`` returns.

    Raises:
        ModelError: An output's shape depends on data.
    """
    types = module["main"].ret_ty.fields
    return tuple(
        Tensor(name, _tensor_type(name, type_)) for name, type_ in zip(names, types, strict=True)
    )


def _tensor_type(name: str, found: relax.TensorType) -> TensorType:
    shape, dtype = found.shape, str(found.dtype)
    if not isinstance(shape, relax.ShapeExpr) or not all(
        isinstance(extent, IntImm) for extent in shape
    ):
        raise ModelError(f"the shape of output {name!r} depends on data")
    if dtype not in ITEM_NBYTES:
        raise ModelError(
            f"output {name!r} holds {dtype}; "
            f"element types that can be compiled are {', '.join(ITEM_NBYTES)}"
        )
    return TensorType(dtype, tuple(int(extent) for extent in shape))


def opset_version(model: ModelProto) -> int:
    """The version of ONNX's own operator set that a model uses; 0 if it uses none."""
    return next((entry.version for entry in model.opset_import if is_standard(entry.domain)), 0)


def is_standard(domain: str) -> bool:
    """Whether a domain is that of ONNX's own operators."""
    return domain in ("", "ai.onnx")


def relax_names(graph: GraphProto) -> dict[str, str]:
    """A unique name of letters, digits, dots and underscores for every value of a graph.

    A node's first output is named after the node if no other node has that name, every other
    value after itself.
    """
    shared = Counter(node.name for node in graph.node)
    wanted = {value.name: value.name for value in graph.input}
    for node in graph.node:
        wanted.update((output, output) for output in node.output if output)
        if node.name and shared[node.name] == 1 and node.output[0]:
            wanted[node.output[0]] = node.name
    return dict(zip(wanted, _unique(map(_sanitize, wanted.values())), strict=True))


def _sanitize(name: str) -> str:
    """``/features/conv1/Conv`` becomes ``features.conv1.Conv``."""
    clean = re.sub(r"[^A-Za-z0-9_.]", "_", name.replace("/", ".").strip("."))
    return f"value_{clean}" if not clean or _BUILDER_NAME.fullmatch(clean) else clean


def _unique(names: Iterable[str]) -> list[str]:
    """The names in order, later ones numbered where they repeat an earlier one."""
    found: dict[str, None] = {}
    for name in names:
        candidate, number = name, 0
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found[candidate] = None
    return list(found)


class _Importer(ONNXGraphImporter):
    """TVM's importer, which records the variable that holds each node's result.

    Args:
        names: A name for every value of the graph.
        title: What messages call the model.
    """

    def __init__(self, names: Mapping[str, str], title: str) -> None:
        super().__init__({}, {})
        self.bb = OperatorBuilder()
        self.names = names
        self.title = title
        self.labels: dict[relax.Var, str] = {}

    def convert(self, graph: GraphProto, opset: int) -> relax.Function:
        self.opset = opset
        with self._translated("the weights"):
            self._parse_graph_initializers(graph)
        params = [self._add_input(value) for value in graph.input]
        with self.bb.function("main", params=params):
            with self.bb.dataflow():
                self._construct_nodes(graph)
                outputs = [_as_tensor(self._nodes[output.name]) for output in graph.output]
                result = self.bb.emit_output(relax.Tuple(outputs))
            self.bb.emit_func_output(result)
        return self.bb.get()["main"]

    @contextlib.contextmanager
    def _translated(self, what: str) -> Generator[None]:
        try:
            yield
        except Exception as error:
            # The importer raises whatever its own, NumPy's and TVM's checks happen to raise.
            raise ModelError(
                f"TVM cannot import {what} of {self.title}: {reason(error)}"
            ) from error

    def _add_input(self, value: onnx.ValueInfoProto) -> relax.Var:
        tensor = value.type.tensor_type
        shape: list[Any] = [dim.dim_value for dim in tensor.shape.dim]
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        var = relax.Var(self.names[value.name], relax.TensorType(shape, dtype))
        self._nodes[value.name] = var
        return var

    def _construct_nodes(self, graph: GraphProto) -> None:
        for index, node in enumerate(graph.node):
            with self._translated(describe_node(node, index)):
                super()._construct_nodes(GraphProto(node=[node]))
            for output in filter(None, node.output):
                self._nodes[output] = self._bind(self._nodes[output], self.names[output])

    def _convert_operator(
        self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int
    ) -> Expr:
        converted = (
            convert_clip(inputs, attrs)
            if op_name == "Clip"
            else convert_indexing(op_name, inputs, attrs)
        )
        if converted is not None:
            return self.bb.normalize(converted)
        return super()._convert_operator(op_name, inputs, attrs, opset)

    def _bind(self, value: Expr, label: str) -> Expr:
        if isinstance(value, relax.Tuple):
            (value,) = value.fields
        if isinstance(value, (Call, relax.TupleGetItem)):
            value = self.bb.emit(value)
        if isinstance(value, relax.Var):
            self.labels.setdefault(value, label)
        return value


def _as_tensor(value: Expr) -> Expr:
    """A shape that the model returns, as the tensor that ONNX has in its place."""
    if isinstance(value, relax.ShapeExpr):
        return relax.const(np.array([int(extent) for extent in value]), "int64")
    return value


@mutator
class _Renamer(PyExprMutator):
    """Gives variables other names.

    Args:
        labels: New names; other variables keep theirs.
    """

    def __init__(self, labels: Mapping[relax.Var, str]) -> None:
        super().__init__()
        self.labels = labels

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        return relax.DataflowVar(self.labels[var], var.ty) if var in self.labels else var
