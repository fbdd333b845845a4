from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from partc.report.layout import Point, layered_layout

Dag = tuple[list[str], list[tuple[str, str]]]


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    nodes = [str(index) for index in range(draw(st.integers(0, 8)))]
    pairs = list(combinations(nodes, 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return nodes, edges


@given(dags())
def test_nodes_of_a_row_do_not_overlap(dag: Dag) -> None:
    layout = layered_layout(*dag)
    for one, other in combinations(layout.nodes.values(), 2):
        assert one.row != other.row or abs(one.x - other.x) >= 1 - 1e-9


@given(dags())
def test_edges_go_down_row_by_row_and_pass_no_foreign_node(dag: Dag) -> None:
    nodes, edges = dag
    layout = layered_layout(nodes, edges)
    for source, target in edges:
        route = layout.edges[source, target]
        assert (route[0], route[-1]) == (layout.nodes[source], layout.nodes[target])
        assert all(lower.row == upper.row + 1 for upper, lower in pairwise(route))
        for stop in route[1:-1]:
            assert all(
                abs(place.x - stop.x) > 0.5
                for place in layout.nodes.values()
                if place.row == stop.row
            )


def test_a_chain_is_straight() -> None:
    layout = layered_layout(["a", "b", "c"], [("a", "b"), ("b", "c")])
    assert list(layout.nodes.values()) == [Point(0.0, 0), Point(0.0, 1), Point(0.0, 2)]


def test_branches_lie_side_by_side_and_meet_in_the_middle() -> None:
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    layout = layered_layout(["a", "b", "c", "d"], edges)
    assert [point.x for point in layout.nodes.values()] == [0.0, -0.5, 0.5, 0.0]


def test_branches_are_ordered_so_that_their_edges_do_not_cross() -> None:
    edges = [("a", "b"), ("a", "c"), ("c", "d"), ("b", "e")]
    layout = layered_layout(["a", "b", "c", "d", "e"], edges)
    assert layout.nodes["e"].x < layout.nodes["d"].x


def test_edges_out_of_one_node_share_a_lane() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("a", "d")]
    layout = layered_layout(["a", "b", "c", "d"], edges)
    assert layout.edges["a", "c"][1] == layout.edges["a", "d"][1]
