"""How a tensor is put into fewer bytes on its way to the server.

An encoding is a format of numbers, ``plain``, ``float16`` or ``uint8``, alone or with a lossless
compression behind it: ``uint8+zstd``. Compressed, a tensor is one element of the protocol's
datatype BYTES. So is an image in the encoding ``image``: it is the file, JPEG or PNG.

What comes from elsewhere is checked before anything is made of it: nothing here allocates more than
what the tensor's specification asks for.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ArtifactError, InputError
from .spec import SentSpec, TensorSpec
from .tensors import BYTES, Array, describe

_Floats: TypeAlias = "NDArray[np.floating[Any]]"

PLAIN = "plain"
FLOAT16 = "float16"
UINT8 = "uint8"
IMAGE = "image"

_LIBRARIES: Mapping[str, tuple[str, str]] = {
    "lz4": ("lz4", "lz4.block"),
    "zstd": ("zstandard", "zstandard"),
    IMAGE: ("pillow", "PIL.Image"),
}
"""What a compression, or an image, needs: a distribution and the module of it."""

_COMPRESSIONS = ("lz4", "zstd")
_LOSSY_DTYPES = ("float32", "float64")
_LARGEST_FLOAT16 = 65504.0
_LARGEST_FLOAT32 = float(np.finfo("float32").max)
_LEAST_STEP = float(np.finfo("float32").tiny)  # the reciprocal of a smaller one may be infinite
_STEPS = 255
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow


@dataclass(frozen=True)
class ImageFile:
    """An input that came as the file of an image.

    Args:
        spec: What the file becomes, decoded: uint8 [1, H, W, C] or [H, W, C], C being 1 or 3.
        contents: The file's bytes, uint8 [nbytes].
        path: Where the file lies, for messages; empty if that is not known.

    Raises:
        InputError: It is no JPEG or PNG file, or the image has another size.
        ArtifactError: Pillow is not installed.
    """

    spec: TensorSpec
    contents: Array
    path: str = ""

    def __post_init__(self) -> None:
        _open_image(self._subject, self.spec, self.contents)

    def decode(self) -> Array:
        """The pixels.

        Raises:
            InputError: The file is damaged.
        """
        return _read_image(self._subject, self.spec, self.contents)

    @property
    def _subject(self) -> str:
        return f"{_input(self.spec)}: {self.path}" if self.path else _input(self.spec)


Value: TypeAlias = "Array | ImageFile"
"""What a caller gives for an input."""


def encodings_of(dtype: str) -> tuple[str, ...]:
    """The encodings that a tensor of a dtype can have, besides ``image``; plain is the first."""
    formats = (PLAIN, FLOAT16, UINT8) if dtype in _LOSSY_DTYPES else (PLAIN,)
    endings = ("", *(f"+{name}" for name in _COMPRESSIONS))
    return tuple(name + ending for name in formats for ending in endings)


def is_lossless(encoding: str) -> bool:
    """Whether what is decoded is what was encoded, bit for bit."""
    return _split(encoding)[0] in (PLAIN, IMAGE)


def library_of(encoding: str) -> str | None:
    """The distribution that an encoding needs besides NumPy."""
    name, compression = _split(encoding)
    needed = _LIBRARIES.get(compression or name)
    return None if needed is None else needed[0]


def encode(encoding: str, array: Array) -> tuple[Array, ...]:
    """What is sent for a tensor, in the order of :func:`wire_specs`.

    Args:
        encoding: ``image``, or one of :func:`encodings_of` the array's dtype.
        array: The tensor; for ``image`` uint8 [1, H, W, C] or [H, W, C], which becomes a PNG.

    Returns:
        Arrays as they are sent; BYTES as one uint8 [nbytes].

    Raises:
        ArtifactError: The encoding needs a library that is not installed.
    """
    if encoding == IMAGE:
        return (_write_png(array),)
    name, compression = _split(encoding)
    parts = _FORMATS[name].encode(array)
    return parts if compression is None else (_compress(compression, parts),)


def decode(encoding: str, spec: TensorSpec, parts: Sequence[Array]) -> Array:
    """The tensor that was sent.

    Args:
        encoding: How.
        spec: The tensor's name, dtype and shape.
        parts: What came, as :func:`encode` returns it.

    Returns:
        An array of the specified dtype and shape; it may be read-only.

    Raises:
        InputError: The parts are not what this encoding makes of such a tensor.
        ArtifactError: The encoding needs a library that is not installed.
    """
    _check_parts(spec, _wire_specs(encoding, spec), parts)
    if encoding == IMAGE:
        return _read_image(_input(spec), spec, parts[0])
    name, compression = _split(encoding)
    if compression is not None:
        parts = _decompress(compression, spec, _FORMATS[name].wire_specs(spec), parts[0])
    return _FORMATS[name].decode(spec, parts)


def wire_specs(sent: SentSpec) -> tuple[TensorSpec, ...]:
    """The tensors of the protocol in which a tensor is sent."""
    return _wire_specs(sent.encoding, sent)


def all_wire_specs(tensors: Sequence[SentSpec]) -> tuple[TensorSpec, ...]:
    """The tensors of the protocol in which tensors are sent."""
    return tuple(wire for sent in tensors for wire in wire_specs(sent))


def encode_all(tensors: Sequence[SentSpec], values: Mapping[str, Value]) -> dict[str, Array]:
    """What is sent for tensors, by the names of :func:`all_wire_specs`.

    Args:
        tensors: What to send, and how.
        values: The tensors; those to be sent as images may be image files.

    Raises:
        ArtifactError: An encoding needs a library that is not installed.
    """
    parts: dict[str, Array] = {}
    for sent in tensors:
        value = values[sent.name]
        made = (value.contents,) if isinstance(value, ImageFile) else encode(sent.encoding, value)
        parts |= zip((wire.name for wire in wire_specs(sent)), made, strict=True)
    return parts


def decode_all(tensors: Sequence[SentSpec], parts: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors that were sent, by name.

    Raises:
        InputError: A part is not what its tensor's encoding makes of such a tensor.
        ArtifactError: An encoding needs a library that is not installed.
    """
    return {
        sent.name: decode(sent.encoding, sent, [parts[wire.name] for wire in wire_specs(sent)])
        for sent in tensors
    }


def encoded_nbytes(parts: Sequence[Array]) -> int:
    """How many bytes of contents are sent."""
    return sum(part.nbytes for part in parts)


def _wire_specs(encoding: str, spec: TensorSpec) -> tuple[TensorSpec, ...]:
    name, compression = _split(encoding)
    if name == IMAGE or compression is not None:
        return (TensorSpec(spec.name, BYTES, (1,)),)
    return _FORMATS[name].wire_specs(spec)


def _split(encoding: str) -> tuple[str, str | None]:
    """The format of numbers and the compression."""
    name, plus, compression = encoding.partition("+")
    known = (*_FORMATS, *(() if plus else (IMAGE,)))
    if name not in known or (plus and compression not in _COMPRESSIONS):
        raise InputError(
            f"unknown encoding {encoding!r}; known are {IMAGE} and {', '.join(_FORMATS)}, "
            f"of which each can end in {' or '.join(f'+{each}' for each in _COMPRESSIONS)}"
        )
    return name, compression if plus else None


def _check_parts(spec: TensorSpec, expected: Sequence[TensorSpec], parts: Sequence[Array]) -> None:
    if len(parts) != len(expected):
        raise InputError(f"tensor {spec.name!r} came in {len(parts)} parts, not {len(expected)}")
    for wire, part in zip(expected, parts, strict=True):
        dtype, shape = ("uint8", (part.size,)) if wire.dtype == BYTES else (wire.dtype, wire.shape)
        if part.dtype != np.dtype(dtype) or part.shape != shape:
            raise InputError(
                f"tensor {wire.name!r} is {describe(part.dtype, part.shape)}, "
                f"expected {describe(dtype, shape)}"
            )


@dataclass(frozen=True)
class _Format:
    """A format of numbers: its tensors on the wire, and how to and from them."""

    wire_specs: Callable[[TensorSpec], tuple[TensorSpec, ...]]
    encode: Callable[[Array], tuple[Array, ...]]
    decode: Callable[[TensorSpec, Sequence[Array]], Array]


def _float16_specs(spec: TensorSpec) -> tuple[TensorSpec, ...]:
    return (TensorSpec(spec.name, "float16", spec.shape),)


def _to_float16(array: Array) -> tuple[Array, ...]:
    return (np.clip(array, -_LARGEST_FLOAT16, _LARGEST_FLOAT16).astype(np.float16),)


def _from_float16(spec: TensorSpec, parts: Sequence[Array]) -> Array:
    return parts[0].astype(spec.dtype)


def _uint8_specs(spec: TensorSpec) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec(spec.name, "uint8", spec.shape),
        TensorSpec(f"{spec.name}.range", "float32", (_planes(spec.shape)[1], 2)),
    )


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape with three axes, of which the second is that of the channels."""
    if len(shape) < 3:
        return 1, 1, math.prod(shape)
    channel = 1 if len(shape) > 3 else 2
    return math.prod(shape[:channel]), shape[channel], math.prod(shape[channel + 1 :])


def _to_uint8(array: Array) -> tuple[Array, ...]:
    values: Any = array.reshape(_planes(array.shape))  # floating-point, as encodings_of says
    low, high = values.min((0, 2), initial=np.inf), values.max((0, 2), initial=-np.inf)
    bound = _LARGEST_FLOAT32 / 4  # so that a range, too, is a float32
    if not (np.abs(low) <= bound).all() or not (np.abs(high) <= bound).all():
        values, low, high = _bounded(values, bound)
    low, step = _steps_of(low.astype(np.float64), high.astype(np.float64))
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    steps = values - low[:, None]
    steps *= inverse[:, None]
    return np.rint(steps, out=steps).astype(np.uint8).reshape(array.shape), np.stack([low, step], 1)


def _bounded(values: _Floats, bound: float) -> tuple[_Floats, _Floats, _Floats]:
    """Values without those that are none, and the least and the largest of each channel."""
    finite = np.isfinite(values)
    low = values.min((0, 2), initial=np.inf, where=finite).clip(-bound, bound)
    high = values.max((0, 2), initial=-np.inf, where=finite).clip(-bound, bound)
    low, high = np.minimum(low, high), np.maximum(low, high)
    empty = ~finite.any((0, 2))
    low[empty] = high[empty] = 0
    numbers: _Floats = np.where(np.isnan(values), low[:, None], values)
    return numbers.clip(low[:, None], high[:, None]), low, high


def _steps_of(low: _Floats, high: _Floats) -> tuple[_Floats, _Floats]:
    """The float32 from which the steps start, not above the least value, and how wide they are."""
    nearest = low.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    start: _Floats = np.where(nearest > low, below, nearest)
    step = (high - start) / _STEPS
    return start, np.where(step < _LEAST_STEP, 0, step).astype(np.float32)


def _from_uint8(spec: TensorSpec, parts: Sequence[Array]) -> Array:
    steps, bounds = parts
    low, step = np.asarray(bounds, np.float64).T
    if not (np.abs(low) + _STEPS * np.abs(step) <= _LARGEST_FLOAT32).all():
        raise InputError(
            f"tensor {spec.name + '.range'!r} must hold the least value and the step of each "
            "channel, with which every value is a finite float32"
        )
    dtype: Any = np.dtype(spec.dtype)
    values: Any = np.multiply(
        steps.reshape(_planes(spec.shape)), step.astype(dtype)[:, None], dtype=dtype
    )
    values += low.astype(dtype)[:, None]
    return values.reshape(spec.shape)


_FORMATS: Mapping[str, _Format] = {
    PLAIN: _Format(lambda spec: (spec,), lambda array: (array,), lambda _, parts: parts[0]),
    FLOAT16: _Format(_float16_specs, _to_float16, _from_float16),
    UINT8: _Format(_uint8_specs, _to_uint8, _from_uint8),
}


def _compress(compression: str, parts: Sequence[Array]) -> Array:
    raw = [np.asarray(part, order="C").reshape(-1).view(np.uint8) for part in parts]
    contents = raw[0] if len(raw) == 1 else np.concatenate(raw)
    library = _load(compression)
    if compression == "lz4":
        compressed = library.compress(contents.data, store_size=False)
    else:
        compressed = library.ZstdCompressor(level=1).compress(contents.data)
    return np.frombuffer(compressed, np.uint8)


def _decompress(
    compression: str, spec: TensorSpec, wire: Sequence[TensorSpec], compressed: Array
) -> list[Array]:
    """The parts that were compressed, one after the other."""
    sizes = [math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in wire]
    try:
        contents = _DECOMPRESSORS[compression](compressed, sum(sizes))
    except _SizeError as error:
        raise InputError(
            f"tensor {spec.name!r} is compressed with {error} {sum(sizes)} bytes "
            f"({_described(wire)})"
        ) from error
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()
    return [
        np.ndarray(each.shape, each.dtype, contents, offset)
        for each, offset in zip(wire, offsets, strict=True)
    ]


def _described(wire: Sequence[TensorSpec]) -> str:
    """What is compressed, in its order: the elements and, if there are any, the ranges."""
    elements, *ranges = (f"{math.prod(each.shape)} {each.dtype}" for each in wire)
    return ", then ".join([f"{elements} elements", *(f"{each} of ranges" for each in ranges)])


class _SizeError(Exception):
    """Contents do not hold, compressed, as many bytes as they should."""


def _decompress_lz4(compressed: Array, nbytes: int) -> bytes:
    library, expected = _load("lz4"), "LZ4: expected one block, not a frame, of"
    try:
        contents: bytes = library.decompress(compressed.data, uncompressed_size=nbytes)
    except library.LZ4BlockError as error:
        raise _SizeError(expected) from error
    if len(contents) != nbytes:
        raise _SizeError(expected)
    return contents


def _decompress_zstd(compressed: Array, nbytes: int) -> bytes:
    """Zstandard allocates what a frame says that it holds, whatever limit it is given."""
    library, expected = _load("zstd"), "Zstandard: expected one frame whose header declares"
    try:
        if library.get_frame_parameters(compressed.data).content_size != nbytes:
            raise _SizeError(expected)
        return library.ZstdDecompressor().decompress(compressed.data, allow_extra_data=False)
    except library.ZstdError as error:
        raise _SizeError(expected) from error


_DECOMPRESSORS: Mapping[str, Callable[[Array, int], bytes]] = {
    "lz4": _decompress_lz4,
    "zstd": _decompress_zstd,
}


def _write_png(array: Array) -> Array:
    height, width, channels = array.shape[-3:]
    pixels = array.reshape((height, width) if channels == 1 else (height, width, channels))
    file = io.BytesIO()
    _load(IMAGE).fromarray(pixels).save(file, "PNG", compress_level=1)
    return np.frombuffer(file.getbuffer(), np.uint8)


def _input(spec: TensorSpec) -> str:
    return f"input {spec.name!r}"


def _read_image(subject: str, spec: TensorSpec, file: Array) -> Array:
    image = _open_image(subject, spec, file)
    with _broken_images(subject):
        pixels: Any = image.convert("L" if spec.shape[-1] == 1 else "RGB")
    return np.asarray(pixels).reshape(spec.shape)


def _open_image(subject: str, spec: TensorSpec, file: Array) -> Any:
    """An image that is not decoded yet, but would fit."""
    library = _load(IMAGE)
    with _broken_images(subject):
        image = library.open(io.BytesIO(file.data), formats=("JPEG", "PNG"))
    _check_image(subject, spec, image.size, image.mode)
    return image


@contextmanager
def _broken_images(subject: str) -> Generator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises whatever its readers of files do
        raise InputError(f"{subject} is no JPEG or PNG file, or is cut off") from error


def _check_image(subject: str, spec: TensorSpec, size: tuple[int, int], mode: str) -> None:
    """Refuse an image before it is decoded."""
    height, width, _ = spec.shape[-3:]
    if size != (width, height):
        raise InputError(
            f"{subject} is an image of {size[0]}x{size[1]} pixels, "
            f"expected {width}x{height}; resize it first"
        )
    if mode not in _EIGHT_BITS:
        raise InputError(f"{subject} is an image of mode {mode}, expected one of 8 bits a channel")


def _load(name: str) -> Any:
    """The library of a compression, or that of images."""
    distribution, module = _LIBRARIES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArtifactError(
            f"{distribution} is not installed; install what requirements.txt lists"
        ) from error
