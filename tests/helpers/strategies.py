"""Layer graphs for tests, drawn at random or written in a few words, and all of their cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from hypothesis import settings
from hypothesis import strategies as st

from partc.graph import (
    IMAGE,
    PLAIN,
    Encoding,
    Layer,
    LayerCost,
    LayerGraph,
    Tensor,
    TensorType,
)
from partc.plan import FREE_ENTRY, Conditions, Cut, DevicePower, EntryCharges

thorough = settings(max_examples=max(200, settings().max_examples), deadline=None)
"""Hundreds of cases, or the thousands of the nightly profile."""

# Whole numbers add up exactly, so plans that cost the same compare as equal.
whole_costs = st.integers(0, 20).map(float)
any_costs = st.one_of(whole_costs, st.floats(0, 50, allow_subnormal=False))


def conditions(costs: st.SearchStrategy[float] = whole_costs) -> st.SearchStrategy[Conditions]:
    """At 8 Mbit/s a kilobyte takes a millisecond."""
    return st.builds(
        Conditions,
        uplink_mbps=st.sampled_from([4.0, 8.0, 16.0]),
        downlink_mbps=st.sampled_from([4.0, 8.0, 16.0]),
        round_trip_ms=st.one_of(st.just(0.0), costs),
        load=st.sampled_from([1.0, 0.5, 2.0]),
    )


def powers(watts: st.SearchStrategy[float] = whole_costs) -> st.SearchStrategy[DevicePower]:
    """Often with a radio that costs so little that the rest decides."""
    others = st.one_of(watts, st.sampled_from([0.0, 0.125]))
    return st.builds(DevicePower, watts, others, others, others, watts)


def entry_charges(
    costs: st.SearchStrategy[float] = whole_costs,
) -> st.SearchStrategy[EntryCharges]:
    """Often none."""
    return st.one_of(st.just(FREE_ENTRY), st.builds(EntryCharges, costs, costs, costs))


def _tensor(draw: st.DrawFn, name: str) -> Tensor:
    return Tensor(name, TensorType("uint8", (1000 * draw(st.integers(0, 20)),)))


@st.composite
def layer_graphs(
    draw: st.DrawFn, costs: st.SearchStrategy[float] = whole_costs, max_layers: int = 10
) -> LayerGraph:
    """Annotated DAGs with shared and unused tensors, several inputs and outputs.

    An output may be returned twice, be read inside as well, or be an input.
    """
    inputs = tuple(_tensor(draw, f"x{index}") for index in range(draw(st.integers(1, 3))))
    tensors = list(inputs)
    layers: list[Layer] = []
    for position in range(draw(st.integers(0, max_layers))):
        read = draw(st.lists(st.sampled_from(tensors), max_size=3, unique=True))
        made = [_tensor(draw, f"t{position}{suffix}") for suffix in "ab"[: draw(st.integers(1, 2))]]
        cost = draw(st.builds(LayerCost, costs, costs, costs))
        layers.append(Layer(f"layer{position}", "toy", tuple(read), tuple(made), cost=cost))
        tensors += made
    outputs = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3))
    return LayerGraph("random", inputs, tuple(layers), tuple(outputs))


@st.composite
def encoded_graphs(
    draw: st.DrawFn, costs: st.SearchStrategy[float] = whole_costs, max_layers: int = 5
) -> LayerGraph:
    """The same with tensors of which some can be sent in several encodings."""
    graph = draw(layer_graphs(costs, max_layers))
    names = draw(st.lists(st.sampled_from([each.name for each in graph.tensors]), max_size=4))
    kilobytes = st.integers(0, 20)

    def encodings(tensor: Tensor) -> tuple[Encoding, ...]:
        given = Encoding(PLAIN, tensor.nbytes)
        if draw(st.booleans()):
            given = Encoding(IMAGE, 1000 * draw(kilobytes), decode_ms=draw(costs))
        others = (
            Encoding(name, 1000 * draw(kilobytes), *(draw(costs) for _ in range(4)))
            for name in ("float16", "uint8")[: draw(st.integers(0, 2))]
        )
        return (given, *others)

    return replace(
        graph,
        encodings={each.name: encodings(each) for each in graph.tensors if each.name in names},
    )


def tiny_graph(
    kilobytes: Mapping[str, int], layers: Mapping[str, tuple[str, float, float]], outputs: str
) -> LayerGraph:
    """A graph from the size of every tensor and ``name: ("reads -> makes", device, server ms)``.

    What no layer makes is an input. Every layer draws 2 W on the device.
    """

    def tensors(names: str) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(name, TensorType("uint8", (1000 * kilobytes[name],))) for name in names.split()
        )

    def layer(name: str, edges: str, device_ms: float, server_ms: float) -> Layer:
        read, made = edges.split("->")
        cost = LayerCost(device_ms, server_ms, device_mj=2 * device_ms)
        return Layer(name, "toy", tensors(read), tensors(made), cost=cost)

    built = tuple(layer(name, *spec) for name, spec in layers.items())
    made = {tensor.name for layer in built for tensor in layer.outputs}
    inputs = tensors(" ".join(name for name in kilobytes if name not in made))
    return LayerGraph("tiny", inputs, built, tensors(outputs))


def all_cuts(graph: LayerGraph) -> Iterator[Cut]:
    """Every cut in which the server feeds no device layer, by trying both sides of each layer.

    Of tensors that can be encoded, with every choice of encodings.
    """
    for server in _server_sides(graph, 0, frozenset()):
        yield from (Cut(server, chosen) for chosen in _encodings(graph, server))


def _encodings(graph: LayerGraph, server: frozenset[str]) -> Iterator[tuple[tuple[str, str], ...]]:
    there = [layer for layer in graph.layers if layer.name in server]
    made = {tensor.name for layer in there for tensor in layer.outputs}
    read = {tensor.name for layer in there for tensor in layer.inputs} - made
    sent = [tensor for tensor in graph.tensors if tensor.name in read]
    for choice in product(*map(graph.encodings_of, sent)):
        pairs = zip(sent, choice, strict=True)
        yield tuple((tensor.name, how.name) for tensor, how in pairs if not how.as_given)


def _server_sides(
    graph: LayerGraph, position: int, server: frozenset[str]
) -> Iterator[frozenset[str]]:
    if position == len(graph.layers):
        yield server
        return
    layer = graph.layers[position]
    yield from _server_sides(graph, position + 1, server | {layer.name})
    makers = (graph.producers.get(tensor.name) for tensor in layer.inputs)
    if all(maker is None or maker.name not in server for maker in makers):
        yield from _server_sides(graph, position + 1, server)


@st.composite
def graphs_and_cuts(
    draw: st.DrawFn, max_layers: int = 10, max_cuts: int = 5
) -> tuple[LayerGraph, list[Cut]]:
    """A graph and some of its cuts, in any order and not all distinct."""
    graph = draw(layer_graphs(max_layers=max_layers))
    return graph, draw(st.lists(st.sampled_from(list(all_cuts(graph))), max_size=max_cuts))
