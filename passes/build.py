"""Group the operators of a canonical Relax module into layers."""
# TVM declares expressions and types only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from partc.errors import CompilerError, ModelError
from partc.graph import Layer, LayerGraph, Tensor
from partc.passes.expressions import leaves, op_name, shape_of, tensor_type
from partc.passes.flops import count_flops
from partc.passes.parameters import anchor_parameters

ELEMENTWISE = frozenset(
    "abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or "
    "bitwise_xor ceil clip cos cosh divide equal erf ewise_fma exp floor floor_divide floor_mod "
    "gelu gelu_tanh greater greater_equal isfinite isinf isnan leakyrelu left_shift less "
    "less_equal log log_add_exp logical_and logical_not logical_or logical_xor maximum minimum "
    "mod multiply negative not_equal power prelu relu right_shift round rsqrt selu sigmoid sign "
    "silu sin sinh softplus sqrt square subtract tan tanh trunc where".split()
)
"""Operators that compute each element from the elements at the same place."""

REARRANGING = frozenset("astype expand_dims flatten permute_dims reshape squeeze".split())
"""Operators of one tensor that move or convert its elements one by one."""

_LONGEST_TAIL = 32


@dataclass(frozen=True)
class LayerPayload:
    """The part of the module that a layer stands for.

    Args:
        bindings: In order; each binds a variable to a call or to an item of a call's tuple.
        inputs: The variables read from outside, parallel to ``Layer.inputs``.
        outputs: The variables read outside, parallel to ``Layer.outputs``.
    """

    bindings: tuple[relax.VarBinding, ...]
    inputs: tuple[relax.Var, ...]
    outputs: tuple[relax.Var, ...]


def build_graph(
    name: str, module: tvm.IRModule, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> LayerGraph:
    """Make the layer graph of a canonical module.

    A layer is one anchor operator and the longest run of element-wise operators behind it that
    leaves a single tensor to be read by others. An operator joins the layer of the last of its
    producers, so the order of layers stays topological.

    Args:
        name: The model's name.
        module: What :func:`partc.passes.canonicalize.canonicalize` returned.
        inputs: The model's inputs, parallel to the parameters of ``main``.
        outputs: The model's outputs, parallel to the tuple that ``main`` returns.

    Raises:
        ModelError: Two tensors of the model's signature have one name.
    """
    main = module["main"]
    if len(main.params) != len(inputs) or len(main.body.body.fields) != len(outputs):
        raise CompilerError("import: the module's signature differs from the model's")
    body = _name_signature(main, inputs, outputs)
    nodes = _Nodes(body)
    groups = [_grow(nodes, anchor) for anchor in nodes.anchors()]
    names = _tensor_names(body)
    layers = [
        _make_layer(nodes, group, layer_name, names)
        for group, layer_name in zip(groups, _layer_names(nodes, groups), strict=True)
    ]
    return LayerGraph(name, tuple(inputs), tuple(layers), tuple(outputs))


@dataclass(frozen=True)
class _Body:
    """The bindings, and the names of the variables that are inputs or outputs."""

    bindings: tuple[relax.VarBinding, ...]
    signature: dict[relax.Var, str]


def _name_signature(
    main: relax.Function, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> _Body:
    """Give every output a variable of its own.

    A model may return an input, a constant, or the same value under two names; a reshape to the
    same shape makes it a tensor that some layer makes.
    """
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    signature = dict(zip(main.params, (tensor.name for tensor in inputs), strict=True))
    for value, tensor in zip(main.body.body.fields, outputs, strict=True):
        if not isinstance(value, relax.Var) or signature.get(value, tensor.name) != tensor.name:
            call = relax.op.reshape(value, shape_of(value))
            value = relax.Var(tensor.name, value.ty)
            bindings.append(
                relax.VarBinding(value, relax.Call(call.op, call.args, ret_ty=value.ty))
            )
        signature[value] = tensor.name
    for name, count in Counter(signature.values()).items():
        if count > 1:
            raise ModelError(
                f"the inputs and outputs of a model need different names, but {count} different "
                f"tensors are called {name!r}; rename all but one in the model"
            )
    return _Body(tuple(bindings), signature)


class _Nodes:
    """The calls of a body by position, with who makes and who reads what.

    A call that returns a tuple and the bindings that take the tuple apart are one node.
    """

    def __init__(self, body: _Body) -> None:
        self.bindings: list[list[relax.VarBinding]] = []
        self.producer: dict[relax.Var, int] = {}
        self.readers: dict[relax.Var, list[int]] = {}
        self.returned = body.signature.keys()
        self.grouped: set[int] = set()
        for binding in body.bindings:
            self._add(binding)

    def _add(self, binding: relax.VarBinding) -> None:
        if not isinstance(binding.var.ty, (relax.TensorType, relax.TupleType)):
            raise ModelError(
                f"operator {op_name(binding.value)!r}, imported as {str(binding.var.name)!r}, "
                f"makes {binding.var.ty} and not a tensor of fixed shape, which cannot be compiled"
            )
        if isinstance(binding.value, relax.TupleGetItem):
            node = self.producer[binding.value.tuple_value]
            self.bindings[node].append(binding)
        else:
            node = len(self.bindings)
            self.bindings.append([binding])
            for var in relax.analysis.free_vars(binding.value):
                self.readers.setdefault(var, []).append(node)
        self.producer[binding.var] = node

    def call(self, node: int) -> relax.Call:
        return self.bindings[node][0].value

    def reads(self, node: int) -> list[relax.Var]:
        """What a node reads, each variable once, in the order of its arguments."""
        args = leaves(self.call(node).args)
        return list(dict.fromkeys(arg for arg in args if isinstance(arg, relax.Var)))

    def makes(self, node: int) -> list[relax.Var]:
        """The tensors that a node makes; there is no dead code, so something needs each."""
        made = (binding.var for binding in self.bindings[node])
        return [var for var in made if not isinstance(var.ty, relax.TupleType)]

    def sizes(self, node: int) -> set[int]:
        """How many elements the tensors have that a node makes."""
        return {tensor_type(var).count for var in self.makes(node)}

    def anchors(self) -> Iterator[int]:
        """The nodes that are in no group when their turn comes."""
        for node in range(len(self.bindings)):
            if node not in self.grouped:
                yield node

    def escaping(self, group: Sequence[int]) -> list[relax.Var]:
        """The tensors that a group makes for others."""
        inside = set(group)
        return [
            var
            for node in group
            for var in self.makes(node)
            if var in self.returned or not inside.issuperset(self.readers[var])
        ]


def _grow(nodes: _Nodes, anchor: int) -> tuple[int, ...]:
    """The group of an anchor: the longest tail that leaves one tensor to be read by others."""
    tail = list(_fusable_tail(nodes, anchor))
    group = max(
        (
            (anchor, *tail[:length])
            for length in range(len(tail) + 1)
            if length == 0 or len(nodes.escaping((anchor, *tail[:length]))) == 1
        ),
        key=len,
    )
    nodes.grouped.update(group)
    return group


def _fusable_tail(nodes: _Nodes, anchor: int) -> Iterator[int]:
    """Element-wise nodes that can follow the anchor, in order."""
    group = {anchor}
    sizes = nodes.sizes(anchor)
    candidates = set(_reader_nodes(nodes, anchor))
    while candidates and len(group) < _LONGEST_TAIL:
        node = min(candidates)
        candidates.remove(node)
        if nodes.sizes(node) == sizes and _can_join(nodes, node, anchor, group):
            group.add(node)
            candidates.update(_reader_nodes(nodes, node))
            yield node


def _reader_nodes(nodes: _Nodes, node: int) -> Iterator[int]:
    for var in nodes.makes(node):
        yield from nodes.readers.get(var, ())


def _can_join(nodes: _Nodes, node: int, anchor: int, group: set[int]) -> bool:
    """Whether a node is element-wise and everything it reads exists when the anchor's layer runs.

    Nodes before the anchor are in earlier layers; of those after it only the group's are.
    """
    name = op_name(nodes.call(node))
    if name not in ELEMENTWISE and name not in REARRANGING:
        return False
    producers = (nodes.producer.get(var, -1) for var in nodes.reads(node))
    return all(producer < anchor or producer in group for producer in producers)


def _make_layer(
    nodes: _Nodes, group: tuple[int, ...], name: str, names: dict[relax.Var, str]
) -> Layer:
    made = {binding.var for node in group for binding in nodes.bindings[node]}
    reads = dict.fromkeys(var for node in group for var in nodes.reads(node) if var not in made)
    outputs = nodes.escaping(group)
    calls = [nodes.call(node) for node in group]
    constants = (leaf for call in calls for leaf in leaves(call.args))
    return Layer(
        name=name,
        kind=layer_kind(calls[0]),
        inputs=tuple(Tensor(names[var], tensor_type(var)) for var in reads),
        outputs=tuple(Tensor(names[var], tensor_type(var)) for var in outputs),
        ops=tuple(op_name(call) for call in calls),
        flops=sum(count_flops(call) for call in calls),
        weight_nbytes=sum(
            tensor_type(leaf).nbytes for leaf in constants if isinstance(leaf, tvm.ir.GenericConst)
        ),
        parameters=anchor_parameters(calls[0]),
        payload=LayerPayload(
            tuple(binding for node in group for binding in nodes.bindings[node]),
            tuple(reads),
            tuple(outputs),
        ),
    )


def layer_kind(anchor: relax.Call) -> str:
    """The anchor operator, with depthwise convolution, which costs otherwise, a kind of its own."""
    name = op_name(anchor)
    if name == "conv2d" and int(anchor.attrs["groups"]) > 1 and shape_of(anchor.args[1])[1] == 1:
        return "depthwise_conv2d"
    return name


# Names -------------------------------------------------------------------------------------------

_ANONYMOUS = re.compile(r"(lv|gv)\d*")


def _tensor_names(body: _Body) -> dict[relax.Var, str]:
    """Name every tensor: the model's by its signature, the others after their variables."""
    names = dict(body.signature)
    unique = _UniqueNames(names.values())
    for binding in body.bindings:
        if binding.var not in names and not isinstance(binding.var.ty, relax.TupleType):
            names[binding.var] = unique(str(binding.var.name))
    return names


def _layer_names(nodes: _Nodes, groups: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Name each layer after the first operator in it that the source named, or else by its kind."""
    unique = _UniqueNames()
    for group in groups:
        hints = (str(binding.var.name) for node in group for binding in nodes.bindings[node])
        named = (hint for hint in hints if not _ANONYMOUS.fullmatch(hint))
        yield unique(next(named, layer_kind(nodes.call(group[0]))))


class _UniqueNames:
    """Hands out each name once, and then with ``_1``, ``_2``, … behind it."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._count: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        candidate = name
        while candidate in self._taken:
            self._count[name] = self._count.get(name, 0) + 1
            candidate = f"{name}_{self._count[name]}"
        self._taken.add(candidate)
        return candidate
