"""The best of yes-or-no choices of which some imply others, by a minimum cut.

Picard, "Maximal Closure of a Graph and Applications to Combinatorial Problems" (Management Science
1976): a yes that costs is an arc from the source, one that saves an arc to the sink, and what a yes
implies an infinite arc back to it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.max_flow import SimpleMaxFlow

from partc.errors import CompilerError

Integers: TypeAlias = NDArray[np.int64]

LARGEST_SUM = 2**61
"""Of all weights without their signs; residual capacities reach its double in 64 bits."""

# The stubs of SimpleMaxFlow take no NumPy array and leave the type of solve open.
Network: TypeAlias = Any


def find_closure(weights: Integers, causes: Integers, effects: Integers) -> NDArray[np.bool_]:
    """The choices to say yes to: what adds up to least, and of that the fewest.

    Args:
        weights: What each yes adds, in whole units, at most :data:`LARGEST_SUM` together.
        causes: Choices of which a yes implies one to another,
        effects: and these others, one for each.

    Returns:
        For each choice whether it is a yes.
    """
    network: Network = SimpleMaxFlow()
    costly, saving = np.flatnonzero(weights > 0), np.flatnonzero(weights < 0)
    if not saving.size:
        return np.zeros(len(weights), bool)
    no, yes = len(weights), len(weights) + 1
    infinite = int(np.abs(weights).sum()) + 1
    add_arcs(network, no, costly, weights[costly])
    add_arcs(network, saving, yes, -weights[saving])
    add_arcs(network, effects, causes, infinite)
    if (status := network.solve(no, yes)) != SimpleMaxFlow.OPTIMAL:
        raise CompilerError(f"a closure of {len(weights)} choices has no minimum cut: {status}")
    chosen = np.zeros(len(weights) + 2, bool)
    chosen[network.get_sink_side_min_cut()] = True
    return chosen[: len(weights)]


def add_arcs(
    network: Network, tails: Integers | int, heads: Integers | int, capacities: Integers | int
) -> None:
    """Add arcs of whole capacities; what all share may be one number."""
    tail, head, capacity = np.broadcast_arrays(tails, heads, capacities)
    network.add_arcs_with_capacity(
        tail.astype(np.int32), head.astype(np.int32), capacity.astype(np.int64)
    )
