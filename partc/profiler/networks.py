# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false
# TVM ships no types.
"""Networks to measure layers in, drawn at random: layers of every kind, as they follow each other.

A layer alone would be timed with everything it reads in the caches, and some layers would be fused
with nothing. In a network it finds what another layer has just made, and weights that the layers
around it have driven out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm

from partc.profiler.chain import Chain, Scale
from partc.profiler.images import Images, Planes
from partc.profiler.layers import Layers, make_module
from partc.profiler.sequences import Rows, Sequences

_CHAINS = 4
_KINDS: Sequence[type[Chain]] = (Images, Sequences, Planes, Rows)
_SHARES = (0.58, 0.16, 0.17, 0.09)
"""How many chains are of each kind."""


def draw_network(seed: int) -> tvm.IRModule:
    """A network of several chains, with an input for each; the same for the same seed.

    Some chains are mostly products, others only move and compare what they read; some networks are
    small enough for a core's caches, in others everything comes from memory.
    """
    random = np.random.default_rng(seed)
    scale = Scale.draw(random)
    kinds = [_KINDS[int(kind)] for kind in random.choice(len(_KINDS), _CHAINS, p=_SHARES)]
    shapes = {f"input_{n}": kind.shape(random, scale) for n, kind in enumerate(kinds)}

    def build(emit: Callable[..., Any], *inputs: Any) -> list[Any]:
        outputs: list[Any] = []
        for kind, x in zip(kinds, inputs, strict=True):
            outputs += kind(random, Layers(emit, seed), scale).grow(x)
        return outputs

    return make_module(shapes, build)
