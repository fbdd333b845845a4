"""Pins: the side on which a user wants a layer to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from partc.errors import GraphError, InfeasibleError
from partc.graph import LayerGraph
from partc.plan import Side

_LONGEST_PATH_SHOWN = 8
_KIND = "kind:"
_OTHER = {Side.DEVICE: Side.SERVER, Side.SERVER: Side.DEVICE}


@dataclass(frozen=True)
class Pinned:
    """Layers that have to be on one side, for one reason.

    Args:
        name: What a user knows it by, such as ``--private-until 'stem'``.
        layers: Their names.
        side: Where they have to be.
    """

    name: str
    layers: tuple[str, ...]
    side: Side


def resolve_pins(
    graph: LayerGraph,
    patterns: Sequence[tuple[str, Side]],
    private_until: Sequence[str] = (),
    forbidden: Sequence[tuple[str, Side]] = (),
) -> tuple[Pinned, ...]:
    """The layers that have to be on one side, for each reason.

    Args:
        graph: The graph whose layers are matched.
        patterns: Shell patterns (``*``, ``?``, ``[…]``) or plain names of layers, or, behind
            ``kind:``, of their kinds; with their sides.
        private_until: Layers. What they read, directly or through others, stays on the device,
            and so do all layers that read it.
        forbidden: Patterns, with the sides on which what they match must not be.

    Raises:
        InfeasibleError: A pattern matches no layer, or two disagree on one.
    """
    pinned = (
        *(_pinned(graph, "pin", pattern, side) for pattern, side in patterns),
        *(_pinned(graph, "--forbid", pattern, _OTHER[side]) for pattern, side in forbidden),
        *(
            Pinned(f"--private-until {name!r}", _readers_upstream(graph, name), Side.DEVICE)
            for name in private_until
        ),
    )
    _check_agreement(pinned)
    return pinned


def _pinned(graph: LayerGraph, what: str, pattern: str, side: Side) -> Pinned:
    return Pinned(f"{what} {pattern!r}", _matching_layers(graph, pattern, what), side)


def _check_agreement(pinned: Sequence[Pinned]) -> None:
    chosen: dict[str, Pinned] = {}
    for each in pinned:
        for layer in each.layers:
            first = chosen.setdefault(layer, each)
            if first.side is not each.side:
                raise InfeasibleError(
                    f"layer {layer!r} cannot run on both sides: {first.name} puts it on the "
                    f"{first.side.value} and {each.name} on the {each.side.value}; narrow one of "
                    "the two"
                )


def _matching_layers(graph: LayerGraph, pattern: str, what: str) -> tuple[str, ...]:
    # A name may itself hold brackets, so a pattern also matches the layer it spells exactly.
    found = tuple(
        layer.name
        for layer in graph.layers
        if layer.name == pattern
        or fnmatchcase(layer.name, pattern)
        or (pattern.startswith(_KIND) and fnmatchcase(layer.kind, pattern[len(_KIND) :]))
    )
    if not found:
        known = {_KIND + layer.kind for layer in graph.layers} | graph.by_name.keys()
        near = get_close_matches(pattern.replace("*", ""), sorted(known))
        hint = f"did you mean {' or '.join(near)}?" if near else "partc inspect lists the layers"
        raise InfeasibleError(f"{what} {pattern!r} matches no layer of {graph.name!r}; {hint}")
    return found


def _readers_upstream(graph: LayerGraph, pattern: str) -> tuple[str, ...]:
    """Every layer that reads something upstream of the layers that match."""
    last = set(_matching_layers(graph, pattern, "--private-until"))
    private: set[str] = set()
    for layer in reversed(graph.layers):
        if layer.name in last or any(tensor.name in private for tensor in layer.outputs):
            private.update(tensor.name for tensor in layer.inputs)
    return tuple(
        layer.name
        for layer in graph.layers
        if layer.name in last or any(tensor.name in private for tensor in layer.inputs)
    )


def check_pins(graph: LayerGraph, pins: Mapping[str, Side]) -> None:
    """Refuse pins that send a tensor back from the server to the device.

    Raises:
        GraphError: A pin names no layer.
        InfeasibleError: A layer pinned to the device depends on one pinned to the server.
    """
    unknown = pins.keys() - graph.by_name.keys()
    if unknown:
        raise GraphError(f"the pins name layers that {graph.name!r} lacks: {sorted(unknown)}")
    parents: dict[str, str | None] = {}  # of the layers that the pins force onto the server
    for layer in graph.layers:
        makers = (graph.producers.get(tensor.name) for tensor in layer.inputs)
        parent = next((maker.name for maker in makers if maker and maker.name in parents), None)
        if parent and pins.get(layer.name) is Side.DEVICE:
            path = _path_to(parent, parents)
            raise InfeasibleError(
                f"layer {layer.name!r} is pinned to the device but depends on {path[0]!r}, which "
                f"is pinned to the server ({_shorten([*path, layer.name])}), and nothing returns "
                "from the server to device layers; drop one of the two pins"
            )
        if parent or pins.get(layer.name) is Side.SERVER:
            parents[layer.name] = parent


def _path_to(name: str | None, parents: Mapping[str, str | None]) -> list[str]:
    path: list[str] = []
    while name:
        path.append(name)
        name = parents[name]
    return path[::-1]


def _shorten(path: Sequence[str]) -> str:
    if len(path) > _LONGEST_PATH_SHOWN:
        half = _LONGEST_PATH_SHOWN // 2
        path = [*path[:half], "…", *path[-half:]]
    return " -> ".join(path)
