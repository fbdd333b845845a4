from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

from partc.graph import LayerGraph
from partc.plan import Cut, Objective
from partc.report.decision import Decision
from partc.report.html import draw_picture, report_html
from partc.report.summary import describe_contest, describe_extrapolation

VOID = {"meta"}


class Outline(HTMLParser):
    """The elements of a page and its text; fails when tags do not balance."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page(decision: Decision, golden: Callable[[str, str], None]) -> None:
    golden("diamond.html", report_html(decision))


def test_tags_balance_and_names_are_text(decision: Decision) -> None:
    outline = Outline(report_html(decision))
    assert outline.text.count("<head>") >= 3
    assert outline.seen.count("head") == 1
    assert 'ma"sk' in outline.text


def test_the_page_of_an_energy_plan_says_where_watts_are_from(decision: Decision) -> None:
    power = replace(decision.power, source="a <meter>")
    frugal = replace(decision, objective=Objective.ENERGY, power=power)
    assert "W idle; a <meter>" in "".join(Outline(report_html(frugal)).text)
    assert "device power" not in report_html(decision)


def test_the_page_says_how_sure_it_is(close: Decision) -> None:
    outline = Outline(report_html(close))
    text = "".join(outline.text)
    assert describe_contest(close)[0] in text
    assert str(describe_extrapolation(close.graph)) in text
    assert outline.text.count("* 0.000 ") == 1
    layers = text[text.index("Layers") :]
    assert [layers.count(error) for error in ("±50 %", "±25 %", "±12 %")] == [4, 3, 1]


def test_the_page_needs_nothing_else(decision: Decision) -> None:
    page = report_html(decision)
    outline = Outline(page)
    assert not outline.links
    assert not {"script", "link", "img", "iframe"} & set(outline.seen)
    assert "@import" not in page


def test_a_hostile_name_stays_text(decision: Decision) -> None:
    name = "</title><script>alert('x')</script>"
    outline = Outline(report_html(replace(decision, target=name, link=name)))
    assert "script" not in outline.seen


def test_every_layer_has_a_row_and_a_box(decision: Decision) -> None:
    outline = Outline(report_html(decision))
    assert outline.seen.count("tr") == (1 + 3) + (1 + 4) + (1 + 4)
    assert outline.seen.count("rect") == 1 + 4 + 2


def test_a_plan_without_a_server_has_nothing_that_travels(decision: Decision) -> None:
    page = report_html(replace(decision, plan=decision.device_only))
    assert "What travels" not in page
    assert 'class="arrow crosses"' not in page


def test_a_graph_without_layers_has_a_picture() -> None:
    picture = draw_picture(LayerGraph("empty", (), (), ()), Cut.device_only())
    assert (picture.boxes, picture.arrows) == ((), ())
    assert picture.width > 0


def test_boxes_lie_within_the_picture(graph: LayerGraph, cut: Cut) -> None:
    picture = draw_picture(graph, cut)
    for box in picture.boxes:
        assert 0 <= box.x <= picture.width - picture.box_width
        assert 0 <= box.y <= picture.height - picture.box_height


def test_a_long_name_is_shortened_in_its_box_only(decision: Decision) -> None:
    first, *rest = decision.graph.layers
    graph = decision.graph.with_layers([replace(first, name="x" * 100), *rest])
    labels = [box.label for box in draw_picture(graph, None).boxes]
    assert max(map(len, labels)) == 24


def test_labels_of_one_route_do_not_lie_on_each_other(graph: LayerGraph) -> None:
    _, left, _, head = graph.layers
    both = replace(head, inputs=left.outputs)
    arrows = draw_picture(graph.with_layers([*graph.layers[:3], both]), None).arrows
    labels = [arrow.label for arrow in arrows if arrow.label]
    assert len(set(labels)) == len(labels) == len(graph.tensors) - 1
