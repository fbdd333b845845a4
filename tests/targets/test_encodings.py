from __future__ import annotations

from math import inf, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from partc.runtime.encodings import encodings_of
from partc.targets.encodings import DECODING, ENCODING, StepTime, decode_ms, encode_ms, step_terms
from partc.targets.target import load_target

HERE = load_target("native")
MB = 1_000_000

sizes = st.integers(0, 10**9)


def test_each_term_of_a_step_counts() -> None:
    step = StepTime(1, 10, 100, 1000)
    assert step.predict_ms(2 * MB, 0.5 * MB) == pytest.approx(1 + 20 + 50 + 375)
    assert step.predict_ms(0, 0) == 1


def test_what_is_mixed_is_most_in_between() -> None:
    """Nothing was compressed, everything was, or half: the larger side is the same."""
    mixed = [step_terms(MB, sent)[2] for sent in (MB, 0, MB / 2)]
    assert mixed == [0, 0, 0.25]
    assert step_terms(MB / 2, MB)[2] == 0.25


def test_steps_add_up() -> None:
    """uint8 first, which makes a quarter of it, and then the compression of that."""
    steps_ms = ENCODING["uint8"].predict_ms(4 * MB, MB) + ENCODING["zstd"].predict_ms(MB, 300_000)
    assert encode_ms("uint8+zstd", 4 * MB, 300_000, HERE) == pytest.approx(steps_ms)
    steps_ms = DECODING["zstd"].predict_ms(300_000, MB) + DECODING["uint8"].predict_ms(MB, 4 * MB)
    assert decode_ms("uint8+zstd", 4 * MB, 300_000, HERE) == pytest.approx(steps_ms)


def test_a_compression_alone_is_of_the_tensor() -> None:
    one_ms = ENCODING["lz4"].predict_ms(4 * MB, MB)
    assert encode_ms("plain+lz4", 4 * MB, MB, HERE) == pytest.approx(one_ms)
    assert encode_ms("plain+lz4", 4 * MB, MB, HERE, item_nbytes=1) == pytest.approx(one_ms)


def test_sizes_in_a_format_follow_from_the_elements() -> None:
    """Of 8 bytes each there are half as many in so many bytes."""
    steps_ms = ENCODING["float16"].predict_ms(8 * MB, 2 * MB) + ENCODING["lz4"].predict_ms(
        2 * MB, MB
    )
    assert encode_ms("float16+lz4", 8 * MB, MB, HERE, item_nbytes=8) == pytest.approx(steps_ms)


def test_what_is_plain_takes_no_time() -> None:
    assert encode_ms("plain", MB, MB, HERE) == decode_ms("plain", MB, MB, HERE) == 0


def test_an_image_is_decoded_but_not_encoded() -> None:
    """One megapixel of JPEG takes some milliseconds on a core of today."""
    assert encode_ms("image", 3 * MB, 300_000, HERE) == 0
    step_ms = DECODING["image"].predict_ms(300_000, 3 * MB)
    assert 1 < step_ms < 20
    assert decode_ms("image", 3 * MB, 300_000, HERE) == pytest.approx(step_ms)


@given(st.sampled_from(encodings_of("float32")[1:]), sizes, st.floats(0, 1.1))
def test_every_encoding_takes_some_time_and_slow_cores_more(
    encoding: str, plain_nbytes: int, share: float
) -> None:
    slow = replace(HERE, codec_slowdown=3)
    for predict_ms in (encode_ms, decode_ms):
        took_ms = predict_ms(encoding, plain_nbytes, int(share * plain_nbytes), HERE)
        slow_ms = predict_ms(encoding, plain_nbytes, int(share * plain_nbytes), slow)
        assert 0 < took_ms < inf
        assert slow_ms == pytest.approx(3 * took_ms)


@given(st.sampled_from(encodings_of("float32")), sizes, sizes)
def test_more_bytes_with_as_large_a_share_take_no_less(
    encoding: str, plain_nbytes: int, sent_nbytes: int
) -> None:
    for predict_ms in (encode_ms, decode_ms):
        once_ms = predict_ms(encoding, plain_nbytes, sent_nbytes, HERE)
        twice_ms = predict_ms(encoding, 2 * plain_nbytes, 2 * sent_nbytes, HERE)
        assert twice_ms >= nextafter(once_ms, 0)


@pytest.mark.parametrize("encoding", ["float61", "plain+gzip"])
def test_no_time_is_made_up(encoding: str) -> None:
    with pytest.raises(KeyError):
        encode_ms(encoding, MB, MB, HERE)
    with pytest.raises(KeyError):
        decode_ms(encoding, MB, MB, HERE)


def test_compressing_harder_takes_longer() -> None:
    """On what ReLUs make, which is what there is to compress."""
    for times in (ENCODING, DECODING):
        fast, hard = (times[name].predict_ms(MB, MB / 2) for name in ("lz4", "zstd"))
        assert fast < hard
