"""Write onto every layer what it costs on the device and on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from partc.graph import Layer, LayerCost, LayerGraph
from partc.plan import EntryCharges
from partc.targets.features import Described
from partc.targets.predictor import Prediction, Predictor, UnknownLayerError
from partc.targets.target import Target


def annotate(
    graph: LayerGraph,
    device: Predictor,
    server: Predictor,
    busy_watts: float,
    device_cold_share: float = 0.0,
    server_cold_share: float = 0.0,
) -> LayerGraph:
    """Set the cost of every layer.

    Args:
        graph: The layers; costs that they have are replaced.
        device: Predicts times on the device.
        server: Predicts times on the server.
        busy_watts: What the device draws while it computes.
        device_cold_share: How much longer than predicted layers take on a device that has waited.
        server_cold_share: The same of the server.

    Returns:
        The same graph with costs.

    Raises:
        UnknownLayerError: Names every layer that either predictor does not know.
        GraphError: A predictor returned a time that is no time.
    """
    layers = Described(graph.layers)
    on_device = _slow_down(device.predict(layers), device_cold_share)
    on_server = _slow_down(server.predict(layers), server_cold_share)
    _refuse_unknown({"device": _unknown(graph, on_device), "server": _unknown(graph, on_server)})
    return graph.with_layers(
        replace(layer, cost=_cost(near, far, busy_watts))
        for layer, near, far in zip(graph.layers, on_device, on_server, strict=True)
        if near and far
    )


def entry_charges(device: Target, server: Target) -> EntryCharges:
    """What the two machines pay for entering the layers of a request."""
    return EntryCharges(
        device_ms=device.entry_ms,
        server_ms=server.entry_ms,
        device_mj=device.entry_ms * device.busy_watts,
    )


def _slow_down(
    predictions: Sequence[Prediction | None], cold_share: float
) -> list[Prediction | None]:
    """The times of layers that ran back to back, on a machine that has waited."""
    return [
        prediction and replace(prediction, latency_ms=(1 + cold_share) * prediction.latency_ms)
        for prediction in predictions
    ]


def _cost(device: Prediction, server: Prediction, busy_watts: float) -> LayerCost:
    return LayerCost(
        device_ms=device.latency_ms,
        server_ms=server.latency_ms,
        device_mj=device.latency_ms * busy_watts,
        device_error=device.error,
        server_error=server.error,
        device_extrapolated=device.extrapolated,
        server_extrapolated=server.extrapolated,
    )


def _unknown(graph: LayerGraph, predictions: Sequence[Prediction | None]) -> list[Layer]:
    pairs = zip(graph.layers, predictions, strict=True)
    return [layer for layer, prediction in pairs if prediction is None]


def _refuse_unknown(unknown_by_side: dict[str, list[Layer]]) -> None:
    missing = [
        f"on the {side} for {', '.join(f'{layer.name!r} ({layer.kind})' for layer in layers)}"
        for side, layers in unknown_by_side.items()
        if layers
    ]
    if missing:
        raise UnknownLayerError(
            f"there is no predicted time {' and '.join(missing)}; use a predictor that knows them"
        )
