from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace as replace_graph

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from strategies import all_cuts, thorough, tiny_graph

from partc.cost import LATENCY
from partc.errors import PartcError
from partc.graph import Encoding, Layer, LayerCost, LayerGraph, Tensor, TensorType
from partc.passes.cut import find_cut
from partc.passes.encode import Measured, is_image, offer_encodings, take_images
from partc.passes.price import price
from partc.plan import Conditions, Cut, make_plan
from partc.targets.encodings import decode_ms, encode_ms
from partc.targets.target import load_target

FAST = load_target("x86-64-v3")
SLOW = replace(FAST, codec_slowdown=10.0)
CHAIN = tiny_graph(
    {"x": 200, "t": 80, "y": 1}, {"a": ("x -> t", 5, 1), "b": ("t -> y", 30, 3)}, "y"
)


def offered(
    measured: Mapping[str, Sequence[Measured]], most: float = 0.1, graph: LayerGraph = CHAIN
) -> LayerGraph:
    return offer_encodings(graph, measured, SLOW, FAST, most)


class TestOfferedEncodings:
    def test_each_side_is_charged_for_its_own_work(self) -> None:
        graph = offered({"t": [Measured("plain+zstd", 20_000)]})
        plain, packed = graph.encodings["t"]
        assert plain == Encoding("plain", 80_000)
        item = ("plain+zstd", 80_000, 20_000)
        assert packed.encode_ms == pytest.approx(10 * encode_ms(*item, FAST, 1))
        assert packed.decode_ms == pytest.approx(decode_ms(*item, FAST, 1))
        assert packed.encode_mj == pytest.approx(packed.encode_ms * SLOW.busy_watts)
        assert packed.nbytes == 20_000

    def test_a_tensor_that_was_not_measured_is_sent_plain(self) -> None:
        assert offered({"t": [Measured("plain+zstd", 20_000)]}).encodings.keys() == {"t"}

    def test_what_deviates_too_much_is_left_out(self) -> None:
        measured = [Measured("float16", 40_000, 0.001), Measured("uint8", 20_000, 0.02)]
        names = [each.name for each in offered({"t": measured}, most=0.01).encodings["t"]]
        assert names == ["plain", "float16"]
        broken = [Measured("uint8", 20_000, math.inf)]
        assert not offered({"t": broken}, most=0.99).encodings

    def test_what_deviates_less_is_good_at_something(self) -> None:
        measured = [Measured("uint8+lz4", 10_000, 0.01), Measured("float16+zstd", 20_000, 0.001)]
        names = [each.name for each in offered({"t": measured}).encodings["t"]]
        assert names == ["plain", "uint8+lz4", "float16+zstd"]

    def test_the_size_of_an_element_counts(self) -> None:
        wide = Tensor("x", TensorType("float64", (1000,)))
        layer = Layer("a", "toy", (wide,), (Tensor("y", wide.type),), cost=LayerCost(1, 1, 1))
        graph = LayerGraph("wide", (wide,), (layer,), layer.outputs)
        (_, half) = offered({"x": [Measured("float16", 2_000)]}, graph=graph).encodings["x"]
        assert half.encode_ms == pytest.approx(encode_ms("float16", 8_000, 2_000, SLOW, 8))
        assert half.decode_ms == pytest.approx(decode_ms("float16", 8_000, 2_000, FAST, 8))

    def test_what_is_good_at_nothing_is_left_out(self) -> None:
        measured = [Measured("plain+lz4", 80_001), Measured("plain+zstd", 80_000)]
        assert not offered({"t": measured}).encodings


def encodings_at_random() -> st.SearchStrategy[list[Measured]]:
    names = ("float16", "uint8", "plain+lz4", "float16+lz4", "uint8+zstd")
    each = st.builds(
        lambda name, nbytes, deviation: Measured(name, nbytes, deviation),
        st.sampled_from(names),
        st.integers(0, 100_000),
        st.sampled_from([0.0, 0.0, 0.01, 0.02]),
    )
    return st.lists(each, max_size=5, unique_by=lambda found: found.encoding)


@thorough
@given(encodings_at_random(), st.sampled_from([0.1, 1.0, 10.0, 100.0]), st.sampled_from([0.0, 0.1]))
def test_leaving_encodings_out_makes_no_plan_worse(
    measured: list[Measured], uplink_mbps: float, most: float
) -> None:
    at = Conditions(uplink_mbps, 8, 1)
    graph = offered({"t": measured}, most)
    found = make_plan(graph, find_cut(graph, price(graph, LATENCY, at)))
    allowed = [each for each in measured if each.deviation <= most]
    single = [offered({"t": [each]}, most) for each in allowed] + [CHAIN]
    best_ms = min(make_plan(g, cut).latency_ms(at) for g in single for cut in all_cuts(g))
    assert found.latency_ms(at) == pytest.approx(best_ms, abs=1e-5)


PIXELS = Tensor("image", TensorType("uint8", (1, 100, 100, 3)))


def photo_graph(pixels: Tensor = PIXELS) -> LayerGraph:
    """Two layers in a row."""
    t, u = (Tensor(name, TensorType("uint8", (10,))) for name in "tu")
    layers = [
        Layer(name, "toy", (read,), (made,), cost=LayerCost(2, 1, 20))
        for name, read, made in (("a", pixels, t), ("b", t, u))
    ]
    return LayerGraph("photo", (pixels,), tuple(layers), (u,))


class TestImages:
    def test_who_computes_on_one_decodes_it(self) -> None:
        graph = take_images(photo_graph(), {"image": 9_000}, SLOW, FAST)
        there = make_plan(graph, Cut.server_only(graph))
        once_ms = decode_ms("image", 30_000, 9_000, FAST)
        assert once_ms > 0
        assert there.upload_nbytes == 9_000
        assert there.server_ms == pytest.approx(2 + once_ms)
        here = make_plan(graph, Cut.device_only())
        assert here.device_ms == pytest.approx(4 + 10 * once_ms)
        assert here.device_mj == pytest.approx(40 + 10 * once_ms * SLOW.busy_watts)

    def test_it_stays_an_image_when_tensors_may_be_encoded(self) -> None:
        graph = take_images(photo_graph(), {"image": 9_000}, SLOW, FAST)
        encoded = offered({"image": [Measured("plain+zstd", 10)]}, graph=graph)
        assert [each.name for each in encoded.encodings["image"]] == ["image"]

    def test_an_unknown_input_is_refused(self) -> None:
        with pytest.raises(
            PartcError, match="about 'photo', which is no input; the inputs are image"
        ):
            take_images(photo_graph(), {"photo": 9_000}, FAST, FAST)

    def test_what_is_no_image_is_refused_with_a_way_out(self) -> None:
        graph = photo_graph(Tensor("image", TensorType("float32", (1, 3, 100, 100))))
        with pytest.raises(PartcError, match="--preprocess image=imagenet"):
            take_images(graph, {"image": 9_000}, FAST, FAST)

    def test_no_file_is_much_larger_than_its_pixels(self) -> None:
        assert take_images(photo_graph(), {"image": 60_000}, FAST, FAST).encodings["image"]
        with pytest.raises(PartcError) as raised:
            take_images(photo_graph(), {"image": 3_000_000}, FAST, FAST)
        assert str(raised.value) == (
            "--input-nbytes image=3.0 MB is 100 times the 30.0 kB of its pixels; is the unit right?"
        )
        with pytest.raises(PartcError, match="is 2 times"):
            take_images(photo_graph(), {"image": 61_001}, FAST, FAST)

    def test_only_one_layer_can_pay_for_decoding(self) -> None:
        graph = photo_graph()
        first, second = graph.layers
        returned = replace_graph(graph, outputs=(PIXELS, *graph.outputs))
        with pytest.raises(PartcError, match="goes to 'a' and the model's caller; leave it out"):
            take_images(returned, {"image": 9_000}, FAST, FAST)
        both = graph.with_layers([first, replace_graph(second, inputs=(PIXELS,))])
        with pytest.raises(PartcError, match="goes to 'a' and 'b'; leave it out"):
            take_images(both, {"image": 9_000}, FAST, FAST)

    @pytest.mark.parametrize(
        ("dtype", "shape", "expected"),
        [
            ("uint8", (1, 8, 8, 3), True),
            ("uint8", (8, 8, 1), True),
            ("uint8", (2, 8, 8, 3), False),
            ("uint8", (1, 3, 8, 8), False),
            ("float32", (1, 8, 8, 3), False),
            ("uint8", (8, 3), False),
        ],
    )
    def test_what_a_decoder_can_make(
        self, dtype: str, shape: tuple[int, ...], expected: bool
    ) -> None:
        assert is_image(TensorType(dtype, shape)) is expected
