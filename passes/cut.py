"""The optimal cut of an annotated layer graph, as a closure of least weight.

A cut is a number of choices of which some imply others (:mod:`partc.passes.choices`), and a minimum
cut finds the best of these (:mod:`partc.passes.closure`). DADS (Hu, Bao, Wang and Liu, "Dynamic
Adaptive DNN Surgery for Inference Acceleration on the Edge", INFOCOM 2019) made sending an arc of
the network. Such a network lets the server feed the device; with that corrected it gives the same
cuts, but takes many times longer to solve.

Outputs that the server makes pay their download. What a side costs that has any layers is weighed
at the end: entering it and, for the server, the round trip and the energy of the radio's tail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from partc.graph import LayerGraph
from partc.passes.choices import Choices, find_choices
from partc.passes.closure import LARGEST_SUM, Integers, find_closure
from partc.passes.pins import check_pins
from partc.passes.price import UNITS_PER_MILLI, Array, Price, check_total
from partc.plan import Cut, Side

# A cost counts in two weights at most, and all costs together in two more, those of the pins.
_LARGEST_UNITS = LARGEST_SUM / 4


def find_cut(graph: LayerGraph, price: Price, pins: Mapping[str, Side] = {}) -> Cut:
    """The cut that costs least; among equals the one with the fewest server layers.

    Args:
        graph: Layers.
        price: What every choice costs, in ms or mJ.
        pins: The side on which a layer must run, by layer name.

    Returns:
        An exact optimum, up to rounding of each cost to a nanosecond or a nanojoule.

    Raises:
        GraphError: A pin names no layer.
        InfeasibleError: A layer pinned to the device depends on one pinned to the server.
        TargetError: The costs are too large to add up.
    """
    if pins:
        check_pins(graph, pins)
    check_total(price.total, _LARGEST_UNITS)
    best = min(_candidates(graph, price, pins), key=lambda candidate: candidate[0])[1]
    return price.best_encodings(graph, best)


def _candidates(
    graph: LayerGraph, price: Price, pins: Mapping[str, Side]
) -> Iterator[tuple[int, Cut]]:
    """Cuts with their costs, less what all layers cost on the device.

    The best is among them; those with fewer server layers come first. Every cut that uses both
    sides pays the same charges. So if the best choices do, no other that does is better; if they
    leave a side out, no cut that uses both is better than it.
    """
    choices = find_choices(graph)
    device, server, upload = map(_round, (price.device, price.server, price.upload))
    entries = _round(np.array([price.device_entry, price.server_entry]))
    weights = choices.weigh(server - device, upload)
    if Side.SERVER not in pins.values():
        yield int(entries[0]), Cut.device_only()
    bound = int(device.sum() + server.sum() + upload.sum()) + 1
    chosen = _choose(choices, weights, [pins.get(layer.name) for layer in graph.layers], bound)
    server_layers = frozenset(layer.name for layer in compress(graph.layers, chosen))
    if 0 < len(server_layers) < len(graph.layers):
        yield int(weights[chosen].sum() + entries.sum()), Cut(server_layers)
    if Side.DEVICE not in pins.values():
        yield int(weights.sum() + entries[1]), Cut.server_only(graph)


def _round(costs: Array) -> Integers:
    """Round milliseconds or millijoules to whole units, of which a cut can be computed exactly."""
    return np.rint(costs * UNITS_PER_MILLI).astype(np.int64)


def _choose(
    choices: Choices, weights: Integers, sides: Sequence[Side | None], bound: int
) -> NDArray[np.bool_]:
    """The best choices that agree with the pins.

    Two more choices are worth more than all others, one a no and one a yes: layers that are pinned
    to the device imply the first, and the second those that are pinned to the server.
    """
    no, yes = choices.count, choices.count + 1
    device = np.flatnonzero([side is Side.DEVICE for side in sides])
    server = np.flatnonzero([side is Side.SERVER for side in sides])
    chosen = find_closure(
        np.append(weights, [bound, -bound]),
        np.concatenate([choices.causes, device, np.full_like(server, yes)]),
        np.concatenate([choices.effects, np.full_like(device, no), server]),
    )
    return chosen[:no]
