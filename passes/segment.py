"""Segments: the layers that every plan of a bundle keeps together, so that plans share code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from partc.graph import Layer, LayerGraph
from partc.plan import (
    FREE_ENTRY,
    Cut,
    EntryCharges,
    NamedPlan,
    Plan,
    PlanTable,
    Segment,
    Side,
    make_plan,
)


def build_plan_table(
    graph: LayerGraph, cuts: Sequence[Cut], entry: EntryCharges = FREE_ENTRY
) -> PlanTable:
    """Build the table of plans that a bundle holds, and the segments that they share.

    Args:
        graph: An annotated graph.
        cuts: The cuts worth keeping. Server-only and device-only come first whether listed or
            not; every other distinct cut follows in the given order.
        entry: What a side of a plan pays besides its layers if it has any.

    Raises:
        GraphError: A cut is none of this graph's, or the graph is not annotated.
    """
    named_cuts = _name_cuts(graph, cuts)
    segments = tuple(
        _build_segment(graph, f"segment_{position}", layers)
        for position, layers in enumerate(_group_layers(graph, list(named_cuts.values())))
    )
    plans = tuple(
        _name_plan(name, make_plan(graph, cut, entry), _find_sides(graph, cut, segments))
        for name, cut in named_cuts.items()
    )
    return PlanTable(segments, plans)


def _name_cuts(graph: LayerGraph, cuts: Sequence[Cut]) -> Mapping[str, Cut]:
    fixed = {"server-only": Cut.server_only(graph), "device-only": Cut.device_only()}
    others = [cut for cut in dict.fromkeys(cuts) if cut not in fixed.values()]
    return fixed | {f"cut-{number}": cut for number, cut in enumerate(others, 1)}


def _group_layers(graph: LayerGraph, cuts: Sequence[Cut]) -> list[list[Layer]]:
    """The layers that share a side in every cut, in topological order of the groups."""
    groups: dict[tuple[Side, ...], list[Layer]] = {}
    for layer in graph.layers:
        groups.setdefault(tuple(cut.side(layer) for cut in cuts), []).append(layer)
    # What reads a server layer is on the server too: an edge between two groups leads to the one
    # with more server sides. Equals are not connected, and stay in order of their first layers.
    return [groups[sides] for sides in sorted(groups, key=lambda sides: sides.count(Side.SERVER))]


def _build_segment(graph: LayerGraph, name: str, layers: Sequence[Layer]) -> Segment:
    inside = {layer.name for layer in layers}
    made = {tensor.name for layer in layers for tensor in layer.outputs}
    read = {tensor.name for layer in layers for tensor in layer.inputs} - made
    wanted = {tensor.name for tensor in graph.outputs} | {
        tensor.name for layer in graph.layers if layer.name not in inside for tensor in layer.inputs
    }
    return Segment(
        name=name,
        layers=tuple(layer.name for layer in layers),
        inputs=tuple(tensor for tensor in graph.tensors if tensor.name in read),
        outputs=tuple(tensor for tensor in graph.tensors if tensor.name in made & wanted),
    )


def _find_sides(graph: LayerGraph, cut: Cut, segments: Sequence[Segment]) -> Mapping[str, Side]:
    return {segment.name: cut.side(graph.by_name[segment.layers[0]]) for segment in segments}


def _name_plan(name: str, plan: Plan, sides: Mapping[str, Side]) -> NamedPlan:
    return NamedPlan(
        name=name,
        plan=plan,
        device_segments=tuple(name for name, side in sides.items() if side is Side.DEVICE),
        server_segments=tuple(name for name, side in sides.items() if side is Side.SERVER),
    )
