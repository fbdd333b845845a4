# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# lark's own annotations leave type parameters open.
"""The textual form of a layer graph: one layer a line, printed and parsed.

Everything but a layer's payload survives the way to text and back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

from lark import (
    Lark,
    Token,
    Transformer,
    UnexpectedCharacters,
    UnexpectedToken,
    v_args,
)
from lark.exceptions import VisitError

from partc.errors import GraphError, ModelError
from partc.graph import Layer, LayerCost, LayerGraph, Tensor, TensorType

GRAMMAR = r"""
graph: "graph" STRING "(" definitions ")" "{" layers "return" uses "}"
layers: layer*
layer: definitions "=" word STRING "(" uses ")" ("{" attribute ("," attribute)* "}")?

definitions: (definition ("," definition)*)?
definition: TENSOR ":" WORD "[" (INT ("," INT)*)? "]"
uses: (use ("," use)*)?
use: TENSOR

?attribute: "ops" "=" "[" word ("," word)* "]" -> ops
    | "flops" "=" INT -> flops
    | "weight_nbytes" "=" INT -> weight_nbytes
    | "parameters" "=" "{" word "=" INT ("," word "=" INT)* "}" -> parameters
    | "device_ms" "=" FLOAT "," "server_ms" "=" FLOAT "," "device_mj" "=" FLOAT -> cost
    | "errors" "=" "[" FLOAT "," FLOAT "]" -> errors
    | "device_extrapolated" -> device_extrapolated
    | "server_extrapolated" -> server_extrapolated

?word: WORD | STRING

TENSOR: "%" (STRING | /[A-Za-z0-9_.\/-]+/)
WORD: /[A-Za-z_][A-Za-z0-9_.]*/
STRING: /"([^"\\\x00-\x1f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/
INT: /[0-9]+/
FLOAT: /-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?/

%ignore /[ \t\r\n]+/
"""

_Attribute: TypeAlias = tuple[str, object]

_TERMINALS = {
    "TENSOR": "a %tensor",
    "WORD": "a word",
    "STRING": 'a "string"',
    "INT": "a whole number",
    "FLOAT": "a number",
    "$END": "the end",
}
_PLAIN_TENSOR = re.compile(r"[A-Za-z0-9_./-]+")
_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def print_graph(graph: LayerGraph) -> str:
    """The graph as text in ASCII, which :func:`parse_graph` reads back; payloads are left out."""
    lines = [
        f"graph {_quote(graph.name)} ({_definitions(graph.inputs)}) {{",
        *(f"  {_print_layer(layer)}" for layer in graph.layers),
        f"  return {_uses(graph.outputs)}".rstrip(),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _print_layer(layer: Layer) -> str:
    attributes = _attributes(layer)
    return (
        f"{_definitions(layer.outputs)} = {_word(layer.kind)} {_quote(layer.name)} "
        f"({_uses(layer.inputs)})" + (f" {{{', '.join(attributes)}}}" if attributes else "")
    )


def _attributes(layer: Layer) -> list[str]:
    """What a layer says beyond its default values."""
    found: list[str] = []
    if layer.ops:
        found.append(f"ops = [{', '.join(map(_word, layer.ops))}]")
    if layer.flops:
        found.append(f"flops = {layer.flops}")
    if layer.weight_nbytes:
        found.append(f"weight_nbytes = {layer.weight_nbytes}")
    if layer.parameters:
        numbers = (f"{_word(name)} = {number}" for name, number in layer.parameters.items())
        found.append(f"parameters = {{{', '.join(numbers)}}}")
    if layer.cost:
        found.append(f"device_ms = {float(layer.cost.device_ms)!r}")
        found.append(f"server_ms = {float(layer.cost.server_ms)!r}")
        found.append(f"device_mj = {float(layer.cost.device_mj)!r}")
        errors = [float(layer.cost.device_error), float(layer.cost.server_error)]
        if any(errors):
            found.append(f"errors = {errors!r}")
        if layer.cost.device_extrapolated:
            found.append("device_extrapolated")
        if layer.cost.server_extrapolated:
            found.append("server_extrapolated")
    return found


def _definitions(tensors: Iterable[Tensor]) -> str:
    return ", ".join(f"{_tensor(tensor)}: {tensor.type}" for tensor in tensors)


def _uses(tensors: Iterable[Tensor]) -> str:
    return ", ".join(map(_tensor, tensors))


def _tensor(tensor: Tensor) -> str:
    plain = _PLAIN_TENSOR.fullmatch(tensor.name)
    return f"%{tensor.name if plain else _quote(tensor.name)}"


def _word(text: str) -> str:
    return text if _PLAIN_WORD.fullmatch(text) else _quote(text)


def _quote(text: str) -> str:
    return json.dumps(text)


def parse_graph(text: str) -> LayerGraph:
    """The graph that a text describes.

    Raises:
        ModelError: The text is not in the form that :func:`print_graph` writes, or its graph
            breaks a rule; says in which line and column, and what was expected there.
    """
    try:
        return _Builder().transform(_parser().parse(text))
    except (UnexpectedToken, UnexpectedCharacters) as error:
        place, problem, cause = error, _expectation(error), error
    except VisitError as error:
        if not isinstance(error.orig_exc, ValueError):
            raise
        place = error.obj if isinstance(error.obj, Token) else error.obj.meta
        problem, cause = str(error.orig_exc), error.orig_exc
    raise ModelError(f"graph text, line {place.line}, column {place.column}: {problem}") from cause


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, start="graph", parser="lalr", propagate_positions=True)


def _expectation(error: UnexpectedToken | UnexpectedCharacters) -> str:
    """What could stand where a text goes wrong, and what stands there."""
    if isinstance(error, UnexpectedToken):
        came, names = str(error.token) or "the end", error.accepts
    else:
        came, names = error.char, error.allowed
    return f"expected {' or '.join(sorted(map(_terminal, names)))}, found {came}"


def _terminal(name: str) -> str:
    """A terminal of the grammar as its reader writes it."""
    return _TERMINALS.get(name) or repr(_parser().get_terminal(name).pattern.value)


@v_args(inline=True)
class _Builder(Transformer[Token, LayerGraph]):
    """Makes a graph from the parse tree, from the leaves up and from the left to the right."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Tensor] = {}

    def definition(self, token: Token, dtype: Token, *shape: Token) -> Tensor:
        tensor = Tensor(_text(token), TensorType(str(dtype), tuple(map(int, shape))))
        if tensor.name in self._known:
            raise GraphError(f"{token} is defined twice")
        self._known[tensor.name] = tensor
        return tensor

    def use(self, token: Token) -> Tensor:
        name = _text(token)
        if name not in self._known:
            raise GraphError(f"{token} is used before anything defines it")
        return self._known[name]

    def definitions(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tensors

    def uses(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tensors

    def ops(self, *ops: Token) -> _Attribute:
        return "ops", tuple(map(_text, ops))

    def flops(self, token: Token) -> _Attribute:
        return "flops", int(token)

    def weight_nbytes(self, token: Token) -> _Attribute:
        return "weight_nbytes", int(token)

    def parameters(self, *tokens: Token) -> _Attribute:
        names = tuple(map(_text, tokens[::2]))
        if len(set(names)) < len(names):
            raise GraphError(f"a parameter is given twice: {', '.join(names)}")
        return "parameters", dict(zip(names, map(int, tokens[1::2]), strict=True))

    def cost(self, device_ms: Token, server_ms: Token, device_mj: Token) -> _Attribute:
        return "cost", LayerCost(float(device_ms), float(server_ms), float(device_mj))

    def errors(self, device: Token, server: Token) -> _Attribute:
        return "errors", {"device_error": float(device), "server_error": float(server)}

    def device_extrapolated(self) -> _Attribute:
        return "device_extrapolated", {"device_extrapolated": True}

    def server_extrapolated(self) -> _Attribute:
        return "server_extrapolated", {"server_extrapolated": True}

    def layer(
        self,
        outputs: tuple[Tensor, ...],
        kind: Token,
        name: Token,
        inputs: tuple[Tensor, ...],
        *attributes: _Attribute,
    ) -> Layer:
        layer = Layer(_text(name), _text(kind), inputs, outputs)
        given: dict[str, Any] = dict(attributes)
        if len(given) < len(attributes):
            raise GraphError(f"layer {layer.name!r} has an attribute twice")
        certainty: dict[str, Any] = {}
        for attribute in ("errors", "device_extrapolated", "server_extrapolated"):
            certainty |= given.pop(attribute, {})
        if certainty and "cost" not in given:
            raise GraphError(f"layer {layer.name!r} has no cost that could be uncertain")
        if certainty:
            given["cost"] = replace(given["cost"], **certainty)
        return replace(layer, **given)

    def layers(self, *layers: Layer) -> tuple[Layer, ...]:
        return layers

    def graph(
        self,
        name: Token,
        inputs: tuple[Tensor, ...],
        layers: tuple[Layer, ...],
        outputs: tuple[Tensor, ...],
    ) -> LayerGraph:
        return LayerGraph(_text(name), inputs, layers, outputs)


def _text(token: Token) -> str:
    """What a word, a string or a tensor's name stands for."""
    text = token.removeprefix("%")
    return json.loads(text) if text.startswith('"') else text
