from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from partc.errors import GraphError
from partc.graph import Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.passes.annotate import annotate, entry_charges
from partc.plan import FREE_ENTRY, EntryCharges
from partc.targets.predictor import Prediction, UnknownLayerError
from partc.targets.target import load_target

X, Y, Z = (Tensor(name, TensorType("float32", (4,))) for name in "xyz")
PAYLOAD = object()
CONV = Layer("conv", "conv2d", (X,), (Y,), flops=100, payload=PAYLOAD)
GATE = Layer("gate", "lstm", (Y,), (Z,), flops=200)
GRAPH = LayerGraph("model", (X,), (CONV, GATE), (Z,))


@dataclass(frozen=True)
class PerFlop:
    """Knows a time for each operation, but not for every kind of layer."""

    ms: float
    unknown: tuple[str, ...] = ()

    error: float = 0.0
    extrapolated: bool = False

    def predict(self, layers: Sequence[Layer]) -> list[Prediction | None]:
        return [
            None
            if layer.kind in self.unknown
            else Prediction(layer.flops * self.ms, self.error, self.extrapolated)
            for layer in layers
        ]


def test_every_layer_gets_its_costs():
    annotated = annotate(GRAPH, PerFlop(0.02), PerFlop(0.005), busy_watts=3)
    assert [layer.cost for layer in annotated.layers] == [
        LayerCost(device_ms=2, server_ms=0.5, device_mj=6),
        LayerCost(device_ms=4, server_ms=1, device_mj=12),
    ]


def test_costs_say_how_certain_they_are():
    device, server = PerFlop(0.02, error=0.1), PerFlop(0.005, error=0.3, extrapolated=True)
    assert annotate(GRAPH, device, server, busy_watts=3).layers[0].cost == LayerCost(
        2, 0.5, 6, device_error=0.1, server_error=0.3, server_extrapolated=True
    )


def test_layers_take_longer_on_machines_that_have_waited():
    device, server = PerFlop(0.02, error=0.1), PerFlop(0.005, error=0.3)
    annotated = annotate(GRAPH, device, server, 3, device_cold_share=0.5, server_cold_share=0.25)
    assert annotated.layers[1].cost == LayerCost(
        device_ms=6, server_ms=1.25, device_mj=18, device_error=0.1, server_error=0.3
    )


def test_each_machine_charges_for_entering_it():
    native = load_target("native")
    device, server = replace(native, entry_ms=2, busy_watts=7), replace(native, entry_ms=3)
    assert entry_charges(device, server) == EntryCharges(device_ms=2, server_ms=3, device_mj=14)
    assert entry_charges(native, native) == FREE_ENTRY


def test_nothing_else_changes():
    annotated = annotate(GRAPH, PerFlop(1), PerFlop(1), busy_watts=1)
    assert annotated.layers[0].payload is PAYLOAD
    assert (annotated.inputs, annotated.outputs) == (GRAPH.inputs, GRAPH.outputs)
    assert GRAPH.layers[0].cost is None


def test_costs_are_replaced():
    once = annotate(GRAPH, PerFlop(1), PerFlop(1), busy_watts=1)
    twice = annotate(once, PerFlop(2), PerFlop(2), busy_watts=1)
    assert twice == annotate(GRAPH, PerFlop(2), PerFlop(2), busy_watts=1)


def test_all_unknown_layers_are_named_at_once():
    device, server = PerFlop(1, unknown=("conv2d", "lstm")), PerFlop(1, unknown=("lstm",))
    with pytest.raises(UnknownLayerError) as raised:
        annotate(GRAPH, device, server, busy_watts=1)
    assert str(raised.value) == (
        "there is no predicted time on the device for 'conv' (conv2d), 'gate' (lstm) "
        "and on the server for 'gate' (lstm); use a predictor that knows them"
    )


def test_only_the_side_that_lacks_a_time_is_named():
    with pytest.raises(UnknownLayerError, match=r"^there is no predicted time on the server for"):
        annotate(GRAPH, PerFlop(1), PerFlop(1, unknown=("lstm",)), busy_watts=1)


@pytest.mark.parametrize("ms", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_no_time_is_refused(ms: float):
    with pytest.raises(GraphError, match="a cost must be finite and not negative"):
        annotate(GRAPH, PerFlop(1), PerFlop(ms), busy_watts=1)
