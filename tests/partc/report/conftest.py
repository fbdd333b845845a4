from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st

from partc.graph import ITEM_NBYTES, Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.plan import Conditions, Cut, DevicePower, Objective, make_plan
from partc.report.decision import Decision


def tensor(name: str, *shape: int, dtype: str = "float32") -> Tensor:
    return Tensor(name, TensorType(dtype, shape))


@pytest.fixture
def graph() -> LayerGraph:
    """A diamond behind a stem, with a skip past two rows and two outputs; its names need quotes."""
    image = tensor("image", 1, 3, 224, 224)
    stem = tensor("stem", 1, 16, 56, 56)
    left, right = tensor("left", 1, 64, 28, 28), tensor("<r>")
    mask, scores = tensor('ma"sk', 1, 28, 28, dtype="bool"), tensor("scores", 1, 1000)
    return LayerGraph(
        "diamond & co",
        (image,),
        (
            Layer(
                "stem",
                "conv2d",
                (image,),
                (stem,),
                ("conv2d", "add", "relu"),
                118_013_952,
                9_472,
                {"kernel": 49, "kernel_width": 7, "stride": 16},
                LayerCost(12.5, 0.75, 125.0, device_error=0.125, server_error=0.25),
            ),
            Layer(
                "left/branch [bold]",
                "conv2d",
                (stem,),
                (left, mask),
                ("conv2d", "split"),
                57_802_752,
                36_864,
                cost=LayerCost(31.25, 1.5, 312.5),
            ),
            Layer(
                "right\\branch",
                "max",
                (stem,),
                (right,),
                ("max",),
                cost=LayerCost(0.5, 0, 5, server_extrapolated=True),
            ),
            Layer(
                "<head>",
                "dense",
                (stem, left, right),
                (scores,),
                ("concatenate", "dense", "softmax"),
                100_352_000,
                200_708_000,
                cost=LayerCost(88.0, 4.25, 880.0),
            ),
        ),
        (scores, mask),
    )


@pytest.fixture
def cut() -> Cut:
    return Cut(frozenset({"left/branch [bold]", "<head>"}))


@pytest.fixture
def decision(graph: LayerGraph, cut: Cut) -> Decision:
    return Decision(
        graph=graph,
        objective=Objective.LATENCY,
        target="jetson",
        server="x86-64-v3",
        link="wifi",
        conditions=Conditions(uplink_mbps=40.0, downlink_mbps=200.0, round_trip_ms=3.0, load=2.0),
        power=DevicePower(busy_watts=10.0, idle_watts=2.0, upload_watts=1.5, download_watts=1.0),
        plan=make_plan(graph, cut),
        device_only=make_plan(graph, Cut.device_only()),
        server_only=make_plan(graph, Cut.server_only(graph)),
        server_busy=1.5,
    )


@pytest.fixture
def doubtful(decision: Decision) -> Decision:
    """The same decision from times that are uncertain: two convolutions and two other layers."""
    errors = ((0.5, 0.25), (0.25, 0.5), (0.5, 0.5), (0.125, 0.25))
    layers = (
        replace(layer, cost=replace(layer.annotated_cost, device_error=near, server_error=far))
        for layer, (near, far) in zip(decision.graph.layers, errors, strict=True)
    )
    return replace(decision, graph=decision.graph.with_layers(layers))


@pytest.fixture
def close(doubtful: Decision) -> Decision:
    """A link so slow that device-only is nearly as good."""
    return replace(doubtful, conditions=replace(doubtful.conditions, uplink_mbps=15.5))


TYPES = st.builds(
    TensorType,
    st.sampled_from(sorted(ITEM_NBYTES)),
    st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
)
COSTS = st.builds(LayerCost, *[st.floats(0, allow_infinity=False)] * 5, *[st.booleans()] * 2)
PARAMETERS = st.dictionaries(
    # Words that stand for something elsewhere in the textual form are names here.
    st.text() | st.sampled_from(["kernel", "flops", "errors", "device_extrapolated", "return"]),
    st.integers(0, 2**62),
    max_size=3,
)


@st.composite
def random_graphs(draw: st.DrawFn) -> LayerGraph:
    """Graphs with any names, types, costs and edges."""
    names = iter(draw(st.lists(st.text(), min_size=12, max_size=12, unique=True)))
    known = [Tensor(next(names), draw(TYPES)) for _ in range(draw(st.integers(0, 2)))]
    inputs = tuple(known)
    layers: list[Layer] = []
    for name in draw(st.lists(st.text(), max_size=4, unique=True)):
        read = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        made = [Tensor(next(names), draw(TYPES)) for _ in range(draw(st.integers(1, 2)))]
        layers.append(
            Layer(
                name,
                draw(st.text()),
                tuple(read),
                tuple(made),
                ops=tuple(draw(st.lists(st.text(), max_size=3))),
                flops=draw(st.integers(0, 2**62)),
                weight_nbytes=draw(st.integers(0, 2**62)),
                parameters=draw(PARAMETERS),
                cost=draw(st.none() | COSTS),
            )
        )
        known += made
    outputs = draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
    return LayerGraph(draw(st.text()), inputs, tuple(layers), tuple(outputs))


@pytest.fixture(scope="session")
def graphs() -> st.SearchStrategy[LayerGraph]:
    return random_graphs()
