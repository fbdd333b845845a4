"""Time the exact cut on graphs of 100 to 100,000 layers, beside networkx and DADS.

Solving is everything from an annotated graph to a cut. Every repetition has a graph of its own, so
that nothing is remembered; the least of several counts. That networkx's cuts cost the same is
checked on the way; DADS's are often none, as the server would feed the device. The exit status is 1
if partc misses a bar; what is skipped misses none.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import networkx
from rich.console import Console
from rich.table import Table
from synthetic import LINK, WIRINGS, make_graph

from partc.cost import LATENCY
from partc.errors import GraphError
from partc.graph import LayerGraph
from partc.passes.baselines import Problem, dads_choice
from partc.passes.cut import find_cut
from partc.passes.price import price
from partc.plan import Cut, make_plan
from partc.report.terminal import report_console
from partc.runtime.chooser import Chooser
from partc.runtime.spec import PlanSpec, SentSpec

_COUNTS = (100, 1_000, 10_000, 100_000)
_PLANS = 30
_CHOOSING_BAR_US = 20
_BARS_MS = {1_000: 10.0, 100_000: 2_000.0}
_REPETITIONS = 20
_ENOUGH_S = 2.0  # of solving the same again and again
_UNITS_PER_MS = 1e6

_PROGRESS = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Solved:
    """How long a solver took, the least of several, and what it found.

    Args:
        seconds: From a graph to a cut.
        latency_ms: Of the cut; not a number if the server would feed the device.
        server_share: Of the layers.
    """

    seconds: float
    latency_ms: float
    server_share: float


_Measured: TypeAlias = Mapping[str, Sequence[Solved]]
"""What each solver found, from the smallest graph on."""


# Solvers -----------------------------------------------------------------------------------------


def solve_ours(graph: LayerGraph) -> Cut:
    return find_cut(graph, price(graph, LATENCY, LINK))


def solve_networkx(graph: LayerGraph) -> Cut:
    """The cut graph as one would draw it, arc by arc, with a vertex for every tensor."""
    prices = price(graph, LATENCY, LINK)
    network = networkx.DiGraph()
    for layer, server_ms, device_ms in zip(graph.layers, prices.server, prices.device, strict=True):
        network.add_edge("device", layer.name, capacity=_units(server_ms))
        network.add_edge(layer.name, "server", capacity=_units(device_ms))
    for tensor, upload_ms in zip(graph.tensors, prices.upload, strict=True):
        producer = graph.producers.get(tensor.name)
        maker = producer.name if producer else "device"
        network.add_edge(maker, tensor.name, capacity=_units(upload_ms))
        for reader in graph.consumers[tensor.name]:
            network.add_edge(tensor.name, reader.name)
            network.add_edge(reader.name, maker)
    _, (_, server) = networkx.minimum_cut(network, "device", "server")
    return Cut(frozenset(server & graph.by_name.keys()))


def solve_dads(graph: LayerGraph) -> Cut:
    return dads_choice(Problem(graph, LATENCY, LINK))


def _units(cost_ms: float) -> int:
    return round(cost_ms * _UNITS_PER_MS)


_SOLVERS: Mapping[str, Callable[[LayerGraph], Cut]] = {
    "partc": solve_ours,
    "networkx": solve_networkx,
    "DADS": solve_dads,
}


# Measuring ---------------------------------------------------------------------------------------


def solve_all(solver: str, kind: str, counts: Sequence[int], patience_s: float) -> Iterator[Solved]:
    """Graph after graph, until one takes longer than one wants to wait."""
    _PROGRESS.print(f"{solver}: {kind}")
    for count in counts:
        # A solver that is at work cannot be interrupted, but its process can be.
        with multiprocessing.get_context("fork").Pool(1) as pool:
            try:
                yield pool.apply_async(time_solver, (solver, kind, count)).get(patience_s)
            except multiprocessing.TimeoutError:
                return


def time_solver(solver: str, kind: str, count: int) -> Solved:
    """Solve graphs that are the same but new, until that has taken long enough."""
    seconds: list[float] = []
    while True:
        graph = make_graph(kind, count)
        # Whatever else is in this process would be walked through by the garbage collector.
        gc.collect()
        gc.freeze()
        started = time.perf_counter()
        cut = _SOLVERS[solver](graph)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == _REPETITIONS or sum(seconds) > _ENOUGH_S:
            break
    return Solved(min(seconds), _latency_ms(graph, cut), len(cut.server_layers) / count)


def _latency_ms(graph: LayerGraph, cut: Cut) -> float:
    try:
        return make_plan(graph, cut).latency_ms(LINK)
    except GraphError:
        return math.nan


def check_solutions(kind: str, ours: Sequence[Solved], others: Sequence[Solved]) -> None:
    """Refuse graphs that leave nothing to decide, and cuts of different cost."""
    if not all(0 < each.server_share < 1 for each in ours):
        raise AssertionError(f"a {kind} graph is not split, so its time says little")
    for one, other in zip(ours, others, strict=False):
        if not math.isclose(one.latency_ms, other.latency_ms, rel_tol=1e-9, abs_tol=1e-3):
            raise AssertionError(f"{kind}: {one.latency_ms} ms, by networkx {other.latency_ms} ms")


# Tables ------------------------------------------------------------------------------------------


def measure_all(counts: Sequence[int], patience_s: float) -> Iterator[tuple[str, _Measured]]:
    """Every kind of graph, and what each solver found on it."""
    for kind in WIRINGS:
        found = {name: [*solve_all(name, kind, counts, patience_s)] for name in _SOLVERS}
        check_solutions(kind, found["partc"], found["networkx"])
        yield kind, found


def solve_table(counts: Sequence[int], measured: Mapping[str, _Measured]) -> Table:
    """Times in ms, a row for each solver on each kind of graph."""
    table = Table("graph", "solver", *(f"{count:,}" for count in counts), "grows with", "bars")
    for column in table.columns[2:]:
        column.justify = "right"
    for kind, found in measured.items():
        for name, solved in found.items():
            cells = _padded([f"{1e3 * each.seconds:,.2f}" for each in solved], counts)
            table.add_row(kind, name, *cells, _growth(counts, solved), _verdict(counts, solved))
        shares = _padded([f"{each.server_share:.0%}" for each in found["partc"]], counts)
        table.add_row("", "on the server", *shares, "", "", end_section=True, style="dim")
    return table


def _padded(cells: Sequence[str], counts: Sequence[int]) -> list[str]:
    """A cell for every number of layers; a solver that takes too long gets no larger graph."""
    return [*cells, *["skipped"] * (len(counts) - len(cells))]


def _growth(counts: Sequence[int], solved: Sequence[Solved]) -> str:
    """Of which power of the layers time is a multiple, beyond the smallest graph."""
    known = [(count, each.seconds) for count, each in zip(counts, solved, strict=False)][1:]
    if len(known) < 2:
        return "-"
    (first, least), (last, most) = known[0], known[-1]
    return f"n^{math.log(most / least) / math.log(last / first):.2f}"


def _verdict(counts: Sequence[int], solved: Sequence[Solved]) -> str:
    if any(math.isnan(each.latency_ms) for each in solved):
        return "no cuts"
    times_ms = {count: 1e3 * each.seconds for count, each in zip(counts, solved, strict=False)}
    bars_ms = {count: bar for count, bar in _BARS_MS.items() if count in counts}
    if any(times_ms[count] >= bar for count, bar in bars_ms.items() if count in times_ms):
        return "misses"
    return "reaches" if bars_ms.keys() <= times_ms.keys() else "skipped"


def choosing_us(count: int) -> float:
    """Time to choose one of so many plans at run time, the least of several."""
    tensor = SentSpec("tensor", "float32", (1, 250_000), nbytes=1_000_000)
    plans = [
        PlanSpec(f"cut-{n}", n, ("a",), ("b",), (tensor,), (), 1.0 + n, 2.0 * (count - n))
        for n in range(count)
    ]
    choose = Chooser(plans).choose
    times_s = timeit.repeat(lambda: choose(18.88, 54.97, 5.0), number=1000, repeat=9)
    return min(times_s) / 1000 * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=_COUNTS[-1], help="layers of the largest graph")
    parser.add_argument(
        "--patience", type=float, default=20.0, help="seconds for one size of graph"
    )
    options = parser.parse_args(arguments)
    counts = [count for count in _COUNTS if count <= options.most]
    console = report_console(sys.stdout)
    bars = ", ".join(f"{count:,} layers in {bar:,.0f} ms" for count, bar in _BARS_MS.items())
    console.print(f"From an annotated graph to the best cut, ms, by layers; bars: {bars}")
    measured = dict(measure_all(counts, options.patience))
    console.print(solve_table(counts, measured))
    choosing = choosing_us(_PLANS)
    verdict = "reaches" if choosing < _CHOOSING_BAR_US else "misses"
    console.print(
        f"Choosing one of {_PLANS} plans at run time: {choosing:.1f} us; "
        f"bar {_CHOOSING_BAR_US} us, {verdict}"
    )
    verdicts = [verdict, *(_verdict(counts, found["partc"]) for found in measured.values())]
    return 1 if "misses" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
