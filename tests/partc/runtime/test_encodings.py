from __future__ import annotations

import io
import resource
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from partc.runtime.encodings import (
    ImageFile,
    decode,
    encode,
    encoded_nbytes,
    encodings_of,
    is_lossless,
    library_of,
    wire_specs,
)
from partc.runtime.errors import ArtifactError, InputError
from partc.runtime.oip import DATATYPES
from partc.runtime.spec import SentSpec, TensorSpec

Array = np.ndarray[Any, Any]

LOSSLESS = ("plain", "plain+lz4", "plain+zstd")
FLOAT16 = ("float16", "float16+lz4", "float16+zstd")
UINT8 = ("uint8", "uint8+lz4", "uint8+zstd")
COMPRESSED = ("plain+lz4", "float16+lz4", "uint8+lz4", "plain+zstd", "float16+zstd", "uint8+zstd")
DTYPES = sorted(DATATYPES)

shapes = st_numpy.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


def floats(largest: float) -> st.SearchStrategy[Array]:
    elements = st.floats(-largest, largest, width=32)
    return st_numpy.arrays(st.sampled_from(["float32", "float64"]), shapes, elements=elements)


def spec_of(array: Array) -> TensorSpec:
    return TensorSpec("t", str(array.dtype), array.shape)


def there_and_back(encoding: str, array: Array) -> Array:
    spec = spec_of(array)
    parts = encode(encoding, array)
    sent = SentSpec(spec.name, spec.dtype, spec.shape, encoding)
    for part, wire in zip(parts, wire_specs(sent), strict=True):
        dtype, shape = (
            ("uint8", (part.size,)) if wire.dtype == "bytes" else (wire.dtype, wire.shape)
        )
        assert (str(part.dtype), part.shape) == (dtype, shape)
    found = decode(encoding, spec, parts)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    return found


@given(st.sampled_from(LOSSLESS), st_numpy.arrays(st.sampled_from(DTYPES), shapes))
def test_what_is_lossless_comes_back_bit_for_bit(encoding: str, array: Array) -> None:
    assert there_and_back(encoding, array).tobytes() == array.tobytes()


@given(st.sampled_from(FLOAT16), floats(65504.0))
def test_float16_is_the_nearest_float16(encoding: str, array: Array) -> None:
    found = there_and_back(encoding, array)
    assert (np.abs(found - array) <= np.maximum(np.abs(array) * 2**-11, 2**-25)).all()


def test_float16_saturates() -> None:
    array = np.array([1e9, -1e9, np.inf, -np.inf, np.nan], "float32")
    found = there_and_back("float16", array)
    np.testing.assert_array_equal(found, [65504, -65504, 65504, -65504, np.nan])


@given(st.sampled_from(UINT8), floats(float(np.float32(2**120))))
def test_uint8_is_within_half_a_step(encoding: str, array: Array) -> None:
    found = there_and_back(encoding, array)
    for mine, original in zip(channels(found), channels(array), strict=True):
        if original.size:
            exact = original.astype("float64")
            half = (exact.max() - exact.min()) / 255 / 2
            rounding = np.abs(exact).max() * 2**-22 + 1e-35
            assert np.abs(mine - exact).max() <= half + rounding


def channels(array: Array) -> list[Array]:
    if array.ndim < 3:
        return [array]
    return list(np.moveaxis(array, 1 if array.ndim > 3 else 2, 0))


def test_channels_have_their_own_steps() -> None:
    array = np.arange(2 * 3 * 256, dtype="float32").reshape(1, 6, 16, 16) / 16
    array[:, 5] = -7.3
    quantised, bounds = encode("uint8", array)
    assert quantised.nbytes + bounds.nbytes == array.nbytes // 4 + 6 * 8
    assert bounds.tolist()[:2] == [[0, 0.0625], [16, 0.0625]]
    assert bounds[5].tolist() == [np.float32(-7.3), 0]
    assert np.array_equal(there_and_back("uint8", array), array)
    rows = np.moveaxis(array, 1, -1)[0]
    assert np.array_equal(there_and_back("uint8", rows), rows)


@given(
    st_numpy.arrays(st.sampled_from(["float32", "float64"]), shapes),
    st.sampled_from(FLOAT16 + UINT8),
)
def test_any_numbers_become_finite_ones_or_stay_nan(array: Array, encoding: str) -> None:
    found = there_and_back(encoding, array)
    assert np.isfinite(found[~np.isnan(array)]).all()


def test_what_is_not_finite_does_not_widen_the_steps() -> None:
    array = np.array([[[0.0], [1.0], [np.inf], [-np.inf], [np.nan], [1.0]]], "float32")
    found = there_and_back("uint8", array)
    np.testing.assert_allclose(found.ravel(), [0, 1, 1, 0, 0, 1])


def test_a_channel_without_numbers_is_zero() -> None:
    array = np.array([[[np.nan, 1.0], [np.nan, 3.0]]], "float32")
    assert there_and_back("uint8", array).tolist() == [[[0, 1], [0, 3]]]


def test_steps_start_below_what_no_float32_is() -> None:
    array = np.array([16777219.0, 16777219.5, 16777220.0])  # float32 knows the even ones only
    assert np.abs(there_and_back("uint8", array) - array).max() < 0.01


def test_steps_that_are_no_normal_numbers_are_none() -> None:
    assert encode("uint8", np.array([0, 1e-40], "float32"))[1].tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_what_is_wide_can_be_narrowed(dtype: str) -> None:
    is_wide = dtype in ("float32", "float64")
    assert encodings_of(dtype) == (LOSSLESS + FLOAT16 + UINT8 if is_wide else LOSSLESS)


def test_what_encodings_are() -> None:
    assert {each for each in encodings_of("float32") if is_lossless(each)} == set(LOSSLESS)
    assert is_lossless("image")
    found = [library_of(each) for each in ("plain", "uint8", "uint8+lz4", "plain+zstd", "image")]
    assert found == [None, None, "lz4", "zstandard", "pillow"]
    assert encoded_nbytes(encode("uint8", np.zeros((1, 3, 4, 4), "float32"))) == 48 + 3 * 8


@pytest.mark.parametrize("encoding", ["jpeg", "image+lz4", "plain+", "uint8+gzip", ""])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(InputError, match=r"unknown encoding .*plain, float16, uint8"):
        encode(encoding, np.zeros(3, "float32"))


@given(st.sampled_from(COMPRESSED), st.binary(max_size=200))
def test_hostile_contents_are_refused(encoding: str, contents: bytes) -> None:
    spec = TensorSpec("t", "float32", (3, 1, 7))
    with pytest.raises(InputError, match=r"tensor 't.*' (must|is compressed with) "):
        decode(encoding, spec, [np.frombuffer(contents, np.uint8)])


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_contents_of_another_size_are_refused(encoding: str) -> None:
    parts = encode(encoding, np.zeros((4, 5, 6), "float32"))
    for shape in [(4, 4, 6), (4, 6, 6)]:
        with pytest.raises(InputError, match=r"tensor 't' is compressed with .* \d+ bytes"):
            decode(encoding, TensorSpec("t", "float32", shape), parts)


@pytest.mark.parametrize(
    ("compression", "form"),
    [
        ("lz4", "LZ4: expected one block, not a frame, of"),
        ("zstd", "Zstandard: expected one frame whose header declares"),
    ],
)
@pytest.mark.parametrize(
    ("encoding", "contents"),
    [
        ("plain", "80 bytes (20 float32 elements)"),
        ("float16", "40 bytes (20 float16 elements)"),
        ("uint8", "60 bytes (20 uint8 elements, then 10 float32 of ranges)"),
    ],
)
def test_what_should_have_been_compressed_is_said(
    compression: str, form: str, encoding: str, contents: str
) -> None:
    spec = TensorSpec("t", "float32", (1, 5, 2, 2))
    with pytest.raises(InputError) as caught:
        decode(f"{encoding}+{compression}", spec, [np.zeros(9, "uint8")])
    assert str(caught.value) == f"tensor 't' is compressed with {form} {contents}"


@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        ("plain+lz4", lz4.block.compress(bytes(1 << 26), store_size=False)),
        ("plain+zstd", zstandard.ZstdCompressor().compress(bytes(1 << 26))),
        ("plain+zstd", zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))),
    ],
)
def test_nothing_is_allocated_beyond_the_size(encoding: str, bomb: bytes) -> None:
    spec = TensorSpec("t", "int8", (1000,))
    with limited_memory(), pytest.raises(InputError, match=r"1000 bytes \(1000 int8 elements\)$"):
        decode(encoding, spec, [np.frombuffer(bomb, np.uint8)])


def test_a_frame_is_followed_by_nothing() -> None:
    (frame,) = encode("plain+zstd", np.zeros(1000, "int8"))
    with pytest.raises(InputError, match="one frame whose header declares 1000 bytes"):
        decode("plain+zstd", TensorSpec("t", "int8", (1000,)), [np.append(frame, frame)])


@pytest.mark.parametrize("bounds", [(np.nan, 1), (0, np.inf), (-np.inf, 1), (3e38, 3e36)])
def test_a_range_must_be_finite(bounds: tuple[float, float]) -> None:
    parts = [np.full(3, 255, "uint8"), np.array([bounds], "float32")]
    with pytest.raises(InputError, match=r"tensor 't\.range' must hold"):
        decode("uint8", TensorSpec("t", "float32", (3,)), parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([np.zeros(3, "uint8")], r"tensor 't' came in 1 parts, not 2"),
        ([np.zeros(3, "int8"), np.zeros((1, 2), "float32")], r"'t' is int8\[3\], .*uint8\[3\]"),
        ([np.zeros(3, "uint8"), np.zeros(2, "float32")], r"'t\.range' is float32\[2\], .*\[1, 2\]"),
    ],
)
def test_parts_must_fit(parts: list[Array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode("uint8", TensorSpec("t", "float32", (3,)), parts)


@given(
    st_numpy.arrays(
        "uint8",
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    )
)
def test_an_array_of_pixels_is_sent_as_a_png(pixels: Array) -> None:
    assert np.array_equal(there_and_back("image", pixels), pixels)
    assert np.array_equal(there_and_back("image", pixels[None]), pixels[None])
    assert encode("image", pixels)[0].tobytes().startswith(b"\x89PNG")


PHOTO = TensorSpec("photo", "uint8", (1, 8, 6, 3))


def image_file(mode: str, form: str, size: tuple[int, int] = (6, 8)) -> Array:
    file = io.BytesIO()
    Image.new(mode, size, 1).save(file, form)
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG")],
)
def test_any_image_of_eight_bits_is_decoded(mode: str, form: str) -> None:
    file = image_file(mode, form)
    with Image.open(io.BytesIO(file)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode("image", PHOTO, [file])[0], expected)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (image_file("RGB", "PNG", (640, 480)), "image of 640x480 pixels, expected 6x8; resize it"),
        (image_file("RGB", "PNG", (5, 8)), "image of 5x8 pixels, expected 6x8; resize it"),
        (image_file("RGB", "PNG", (8, 6)), "image of 8x6 pixels, expected 6x8; resize it"),
        (image_file("I;16", "PNG"), r"image of mode I;16\S*, expected one of 8 bits"),
        (image_file("RGB", "BMP"), "no JPEG or PNG file"),
        (image_file("RGB", "JPEG")[:-30], "no JPEG or PNG file, or is cut off$"),
        (image_file("RGB", "PNG")[:40], "no JPEG or PNG file"),
        (np.zeros(0, "uint8"), "no JPEG or PNG file"),
    ],
)
def test_what_is_no_such_image_is_refused(file: Array, message: str) -> None:
    with pytest.raises(InputError, match=f"input 'photo' is .*{message}"):
        decode("image", PHOTO, [file])


def test_transparency_is_left_out() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (6, 8), (10, 20, 30, 0)).save(file, "PNG")
    pixels = decode("image", PHOTO, [np.frombuffer(file.getvalue(), np.uint8)])
    assert np.array_equal(pixels, np.broadcast_to(np.array([10, 20, 30], "uint8"), PHOTO.shape))


def test_colours_become_grey_for_one_channel() -> None:
    file = image_file("RGB", "JPEG")
    with Image.open(io.BytesIO(file)) as image:
        expected = np.asarray(image.convert("L"))
    grey = decode("image", TensorSpec("photo", "uint8", (1, 8, 6, 1)), [file])
    assert np.array_equal(grey[0, :, :, 0], expected)


def test_a_file_that_has_a_name_is_called_by_it() -> None:
    with pytest.raises(InputError, match=r"^input 'photo': a/b\.jpg is no JPEG or PNG file, or "):
        ImageFile(PHOTO, np.zeros(9, "uint8"), "a/b.jpg")
    cut = image_file("RGB", "JPEG")[:-30]
    with pytest.raises(InputError, match=r"^input 'photo': b\.jpg is no JPEG or PNG file, or "):
        ImageFile(PHOTO, cut, "b.jpg").decode()
    large = image_file("RGB", "PNG", (9, 9))
    with pytest.raises(InputError, match=r"^input 'photo': c\.png is an image of 9x9 pixels, "):
        ImageFile(PHOTO, large, "c.png")


@given(st.binary(max_size=100), st.integers(0, 70), st.sampled_from(["JPEG", "PNG"]))
def test_a_broken_image_is_an_image_or_refused(garbage: bytes, offset: int, form: str) -> None:
    file = image_file("RGB", form).tobytes()
    contents = np.frombuffer(file[:offset] + garbage + file[offset + len(garbage) :], np.uint8)
    with suppress(InputError):
        assert decode("image", PHOTO, [contents]).shape == PHOTO.shape


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(
    ("side", "message"),
    [(10_000, "10000x10000 pixels, expected 6x8"), (65_000, "no JPEG or PNG file")],
)
def test_an_image_is_measured_before_it_is_decoded(side: int, message: str) -> None:
    file = bytearray(image_file("L", "PNG"))
    header = file.index(b"IHDR")
    file[header + 4 : header + 12] = side.to_bytes(4, "big") * 2
    file[header + 17 : header + 21] = zlib.crc32(file[header : header + 17]).to_bytes(4, "big")
    with limited_memory(), pytest.raises(InputError, match=message):
        decode("image", PHOTO, [np.frombuffer(file, np.uint8)])


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process have 32 MiB more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (1 << 25)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("encoding", "module", "name"),
    [
        ("plain+lz4", "lz4.block", "lz4"),
        ("plain+zstd", "zstandard", "zstandard"),
        ("image", "PIL.Image", "pillow"),
    ],
)
def test_a_missing_library_is_named(
    encoding: str, module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ArtifactError, match=f"{name} is not installed; install what req"):
        encode(encoding, np.zeros((2, 2, 3), "uint8"))
