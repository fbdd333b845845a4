"""A decision as one page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from partc.graph import LayerGraph
from partc.plan import Cut, Plan
from partc.quantities import format_count, format_error, format_mj, format_ms, format_nbytes
from partc.report.certainty import PlanError, plan_error
from partc.report.decision import LATENCY_TERMS, Decision, PlanCost
from partc.report.drawing import Edge, Node, draw
from partc.report.layout import Layout, Point, layered_layout
from partc.report.summary import EXTRAPOLATED, describe_extrapolation, headline, premises

# The picture's measures, in pixels.
_BOX_WIDTH, _BOX_HEIGHT = 176, 42
_COLUMN_WIDTH, _ROW_HEIGHT = 200, 84
_LABEL_HEIGHT = 12
_NAME_LENGTH = 24


def report_html(decision: Decision) -> str:
    """The page: the decision, the plans it was chosen from, what travels, layers and graph."""
    cut = decision.plan.cut
    return _template().render(
        decision=decision,
        cut=cut,
        headline=headline(decision),
        premises=premises(decision),
        bars=_bars(decision),
        terms=list(LATENCY_TERMS),
        mark=EXTRAPOLATED,
        note=describe_extrapolation(decision.graph),
        picture=draw_picture(decision.graph, cut),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("partc.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        nbytes=format_nbytes, ms=format_ms, mj=format_mj, count=format_count, error=format_error
    )
    return environment.get_template("report.html.jinja")


@dataclass(frozen=True)
class Piece:
    """A term of a plan's latency, its error, and its share of the slowest plan in percent."""

    term: str
    ms: float
    error: float
    percent: float


@dataclass(frozen=True)
class Bar:
    """A plan's latency in pieces."""

    title: str
    plan: Plan
    cost: PlanCost
    error: PlanError
    pieces: tuple[Piece, ...]


def _bars(decision: Decision) -> list[Bar]:
    longest_ms = max(decision.cost(plan).latency_ms for plan in decision.plans.values())
    return [_bar(decision, title, plan, longest_ms) for title, plan in decision.plans.items()]


def _bar(decision: Decision, title: str, plan: Plan, longest_ms: float) -> Bar:
    cost, error = decision.cost(plan), plan_error(decision, plan)
    pieces = (
        Piece(term, ms, error.of_term(term), round(100 * ms / (longest_ms or 1.0), 3))
        for term, ms in ((term, value(cost)) for term, value in LATENCY_TERMS.items())
    )
    return Bar(title, plan, cost, error, tuple(pieces))


@dataclass(frozen=True)
class Box:
    """A node in the picture, by its upper left corner."""

    node: Node
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Arrow:
    """An edge in the picture: an SVG path, and for the first edge of a tensor its label's place."""

    edge: Edge
    path: str
    label: tuple[float, float] | None


@dataclass(frozen=True)
class Picture:
    """A drawing of a layer graph; sizes and places in pixels."""

    width: float
    height: float
    box_width: int
    box_height: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def draw_picture(graph: LayerGraph, cut: Cut | None) -> Picture:
    """The layer graph from top to bottom, with every node and edge in its place."""
    drawn = draw(graph, cut)
    layout = layered_layout(
        [node.key for node in drawn.nodes],
        [(edge.source.key, edge.target.key) for edge in drawn.edges],
    )
    points = [point for route in layout.edges.values() for point in route]
    points += layout.nodes.values()
    left = min((point.x for point in points), default=0.0) - 0.5
    right = max((point.x for point in points), default=0.0) + 0.5
    rows = 1 + max((point.row for point in points), default=0)
    canvas = _Canvas(left)
    return Picture(
        width=round((right - left) * _COLUMN_WIDTH, 1),
        height=rows * _ROW_HEIGHT,
        box_width=_BOX_WIDTH,
        box_height=_BOX_HEIGHT,
        boxes=tuple(canvas.box(node, layout.nodes[node.key]) for node in drawn.nodes),
        arrows=tuple(canvas.arrows(drawn.edges, layout)),
    )


@dataclass(frozen=True)
class _Canvas:
    """Turns places of the layout into pixels."""

    left: float

    def x(self, point: Point) -> float:
        return round((point.x - self.left) * _COLUMN_WIDTH, 1)

    def top(self, point: Point) -> float:
        return point.row * _ROW_HEIGHT + (_ROW_HEIGHT - _BOX_HEIGHT) / 2

    def bottom(self, point: Point) -> float:
        return self.top(point) + _BOX_HEIGHT

    def box(self, node: Node, point: Point) -> Box:
        name = node.name
        label = name if len(name) <= _NAME_LENGTH else "\u2026" + name[1 - _NAME_LENGTH :]
        return Box(node, round(self.x(point) - _BOX_WIDTH / 2, 1), self.top(point), label)

    def arrows(self, edges: tuple[Edge, ...], layout: Layout) -> Iterator[Arrow]:
        labels: dict[str, tuple[float, float]] = {}
        for edge in edges:
            route = layout.edges[edge.source.key, edge.target.key]
            label = None
            if edge.tensor.name not in labels:
                label = self._label(route, labels.values())
                labels[edge.tensor.name] = label
            yield Arrow(edge, self._path(route), label)

    def _path(self, route: tuple[Point, ...]) -> str:
        """Curves between the rows, and straight lines past the boxes within them."""
        parts = [f"M{self.x(route[0])} {self.bottom(route[0])}"]
        for upper, lower in pairwise(route):
            middle = (self.bottom(upper) + self.top(lower)) / 2
            parts.append(
                f"C{self.x(upper)} {middle} {self.x(lower)} {middle} "
                f"{self.x(lower)} {self.top(lower)}"
            )
            if lower is not route[-1]:
                parts.append(f"V{self.bottom(lower)}")
        return "".join(parts)

    def _label(
        self, route: tuple[Point, ...], taken: Collection[tuple[float, float]]
    ) -> tuple[float, float]:
        """The middle of an edge's first curve, or the first free line below it."""
        upper, lower = route[:2]
        x = round((self.x(upper) + self.x(lower)) / 2, 1)
        y = (self.bottom(upper) + self.top(lower)) / 2
        while (x, y) in taken:
            y += _LABEL_HEIGHT
        return x, y
