"""Write onto every layer what it costs on the device and on the server."""

from __future__ import annotations

from dataclasses import replace

from partc.graph import Layer, LayerCost, LayerGraph
from partc.targets.predictor import Predictor, UnknownLayerError


def annotate(
    graph: LayerGraph, device: Predictor, server: Predictor, busy_watts: float
) -> LayerGraph:
    """Set the cost of every layer.

    Args:
        graph: The layers; costs that they have are replaced.
        device: Predicts times on the device.
        server: Predicts times on the server.
        busy_watts: What the device draws while it computes.

    Returns:
        The same graph with costs.

    Raises:
        UnknownLayerError: Names every layer that either predictor does not know.
        GraphError: A predictor returned a time that is no time.
    """
    device_ms, unknown_to_device = _predict(graph, device)
    server_ms, unknown_to_server = _predict(graph, server)
    _refuse_unknown({"device": unknown_to_device, "server": unknown_to_server})
    return graph.with_layers(
        replace(
            layer,
            cost=LayerCost(
                device_ms=device_ms[layer.name],
                server_ms=server_ms[layer.name],
                device_mj=device_ms[layer.name] * busy_watts,
            ),
        )
        for layer in graph.layers
    )


def _predict(graph: LayerGraph, predictor: Predictor) -> tuple[dict[str, float], list[Layer]]:
    """Times by layer name, and the layers that the predictor does not know."""
    times_ms: dict[str, float] = {}
    unknown: list[Layer] = []
    for layer in graph.layers:
        latency_ms = _latency_ms(predictor, layer)
        if latency_ms is None:
            unknown.append(layer)
        else:
            times_ms[layer.name] = latency_ms
    return times_ms, unknown


def _latency_ms(predictor: Predictor, layer: Layer) -> float | None:
    try:
        return predictor.latency_ms(layer)
    except UnknownLayerError:
        return None


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
