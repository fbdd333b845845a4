"""NumPy arrays against their specifications, and to and from the wire."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .oip import DATATYPES, InferTensor, InferTensorContents, TensorMetadata
from .protobuf import Buffer
from .spec import TensorSpec

Array: TypeAlias = NDArray[np.generic]

BYTES = "bytes"
"""The dtype of what is one string of bytes on the wire."""

_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_LENGTH = struct.Struct("<I")  # before the contents of each string of bytes


def describe(dtype: object, shape: Iterable[int]) -> str:
    """A tensor's type as people read it: ``float32[1, 3]``."""
    return f"{dtype}[{', '.join(map(str, shape))}]"


def tensor_metadata(specs: Sequence[TensorSpec]) -> tuple[TensorMetadata, ...]:
    """The protocol's description of tensors."""
    return tuple(TensorMetadata(spec.name, _datatype(spec), spec.shape) for spec in specs)


def _datatype(spec: TensorSpec) -> str:
    """The protocol's name of a tensor's dtype."""
    return "BYTES" if spec.dtype == BYTES else DATATYPES[spec.dtype]


def check_arrays(specs: Sequence[TensorSpec], arrays: Mapping[str, object]) -> dict[str, Array]:
    """The arrays in the order of their specifications, if all fit.

    Raises:
        InputError: A name is missing or unknown, or an array has another dtype or shape.
    """
    _check_names(specs, list(arrays))
    return {spec.name: _check_array(spec, arrays[spec.name]) for spec in specs}


def _check_array(spec: TensorSpec, value: object) -> Array:
    if not isinstance(value, np.ndarray):
        raise InputError(f"input {spec.name!r} is a {type(value).__name__}, no NumPy array")
    array = cast("Array", value)
    if array.dtype != np.dtype(spec.dtype) or array.shape != spec.shape:
        raise InputError(
            f"input {spec.name!r} is {describe(array.dtype, array.shape)}, "
            f"expected {describe(spec.dtype, spec.shape)}"
        )
    return array


def pack(
    specs: Sequence[TensorSpec], arrays: Mapping[str, Array]
) -> tuple[tuple[InferTensor, ...], tuple[Buffer, ...]]:
    """Headers and raw contents for the wire; contiguous arrays are not copied.

    A string of bytes is an array of uint8.
    """
    tensors = tuple(
        InferTensor(name=spec.name, datatype=_datatype(spec), shape=spec.shape) for spec in specs
    )
    return tensors, tuple(_to_raw(spec, arrays[spec.name]) for spec in specs)


def unpack(
    specs: Sequence[TensorSpec], tensors: Sequence[InferTensor], raw: Sequence[Buffer]
) -> dict[str, Array]:
    """Read-only arrays from the wire, in the order of their specifications, if all fit.

    A string of bytes becomes an array of uint8.

    Raises:
        InputError: A name is missing, unknown or there twice, or a tensor has another datatype,
            shape or number of bytes or elements.
    """
    if raw and len(raw) != len(tensors):
        raise InputError(f"{len(tensors)} tensors came with {len(raw)} raw contents")
    _check_names(specs, [tensor.name for tensor in tensors])
    positions = {tensor.name: index for index, tensor in enumerate(tensors)}
    arrays: dict[str, Array] = {}
    for spec in specs:
        index = positions[spec.name]
        _check_header(spec, tensors[index])
        arrays[spec.name] = (
            _from_raw(spec, raw[index]) if raw else _from_contents(spec, tensors[index].contents)
        )
    return arrays


def _check_names(specs: Sequence[TensorSpec], names: Sequence[str]) -> None:
    expected = [spec.name for spec in specs]
    if sorted(names) != sorted(expected):
        raise InputError(f"expected tensors {_listing(expected)}, got {_listing(names)}")


def _listing(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _check_header(spec: TensorSpec, tensor: InferTensor) -> None:
    datatype = _datatype(spec)
    if (tensor.datatype, tensor.shape) != (datatype, spec.shape):
        raise InputError(
            f"tensor {spec.name!r} is {describe(tensor.datatype, tensor.shape)}, "
            f"expected {describe(datatype, spec.shape)}"
        )


def _to_raw(spec: TensorSpec, array: Array) -> Buffer:
    contents = np.asarray(array, order="C").reshape(-1).view(np.uint8).data
    if spec.dtype != BYTES:
        return contents
    return _LENGTH.pack(len(contents)) + contents


def _from_raw(spec: TensorSpec, raw: Buffer) -> Array:
    if spec.dtype == BYTES:
        return _from_raw_string(spec, raw)
    expected = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    if len(raw) != expected:
        raise InputError(f"tensor {spec.name!r} has {len(raw)} bytes, expected {expected}")
    return np.ndarray(spec.shape, spec.dtype, raw)


def _from_raw_string(spec: TensorSpec, raw: Buffer) -> Array:
    found = len(raw) - _LENGTH.size
    if found < 0 or _LENGTH.unpack_from(raw)[0] != found:
        raise InputError(
            f"tensor {spec.name!r} must be {_LENGTH.size} bytes that say, little-endian, how many "
            f"come after them, and these; it has {len(raw)} bytes in all"
        )
    return np.ndarray(found, np.uint8, raw, _LENGTH.size)


def _from_contents(spec: TensorSpec, contents: InferTensorContents | None) -> Array:
    datatype = _datatype(spec)
    if datatype not in _CONTENTS:
        raise InputError(f"tensor {spec.name!r} is {datatype}, which only raw contents can hold")
    values = getattr(contents or InferTensorContents(), _CONTENTS[datatype])
    expected = math.prod(spec.shape)
    if len(values) != expected:
        raise InputError(
            f"tensor {spec.name!r} has {len(values)} elements in {_CONTENTS[datatype]}, "
            f"expected {expected}"
        )
    if spec.dtype == BYTES:
        return np.frombuffer(values[0], np.uint8)
    try:
        return np.array(values, spec.dtype).reshape(spec.shape)
    except OverflowError as error:
        raise InputError(f"tensor {spec.name!r} has an element outside {datatype}") from error
