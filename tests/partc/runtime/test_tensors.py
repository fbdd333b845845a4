from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from partc.runtime.errors import InputError
from partc.runtime.oip import DATATYPES, InferTensor, InferTensorContents
from partc.runtime.protobuf import Buffer
from partc.runtime.spec import TensorSpec
from partc.runtime.tensors import check_arrays, pack, unpack

X = TensorSpec("x", "float32", (2,))
Y = TensorSpec("y", "int8", (1,))
ARRAYS = {"x": np.array([1, 2], "float32"), "y": np.array([3], "int8")}
X_RAW = InferTensor("x", "FP32", (2,))

arrays = st_numpy.arrays(
    st.sampled_from(sorted(DATATYPES)), st_numpy.array_shapes(min_dims=0, min_side=0, max_side=3)
)


@given(arrays)
def test_raw_contents_come_back(array: np.ndarray[Any, Any]) -> None:
    spec = TensorSpec("t", str(array.dtype), array.shape)
    tensors, raw = pack([spec], {"t": array})
    assert [bytes(buffer) for buffer in raw] == [array.tobytes()]
    found = unpack([spec], tensors, raw)["t"]
    assert (found.dtype, found.shape, found.tobytes()) == (
        array.dtype,
        array.shape,
        array.tobytes(),
    )


def test_large_arrays_are_not_copied() -> None:
    _, (buffer,) = pack([X], ARRAYS)
    assert np.shares_memory(np.frombuffer(buffer, "uint8"), ARRAYS["x"])
    found = unpack([X], [X_RAW], [buffer])["x"]
    assert np.shares_memory(found, ARRAYS["x"])


@pytest.mark.parametrize("dtype", [dtype for dtype in DATATYPES if dtype != "float16"])
def test_reads_typed_contents(dtype: str) -> None:
    narrow = "uint" if dtype.startswith("u") else "int"
    own = {
        "bool": "bool",
        "float32": "fp32",
        "float64": "fp64",
        "int64": "int64",
        "uint64": "uint64",
    }
    field = f"{own.get(dtype, narrow)}_contents"
    contents = InferTensorContents(**{field: (0, 1)})
    tensor = InferTensor("t", DATATYPES[dtype], (2, 1), contents=contents)
    found = unpack([TensorSpec("t", dtype, (2, 1))], [tensor], [])["t"]
    np.testing.assert_array_equal(found, np.array([[0], [1]], dtype), strict=True)


def test_tensors_may_come_in_any_order() -> None:
    tensors, raw = pack([Y, X], ARRAYS)
    found = unpack([X, Y], tensors, raw)
    assert list(found) == ["x", "y"]
    np.testing.assert_array_equal(found["x"], ARRAYS["x"], strict=True)


@pytest.mark.parametrize(
    ("tensors", "raw", "message"),
    [
        ([X_RAW], [b"", b""], "1 tensors came with 2 raw contents"),
        ([], [], "expected tensors 'x', got none"),
        ([X_RAW, X_RAW], [], "expected tensors 'x', got 'x', 'x'"),
        ([InferTensor("z", "FP32", (2,))], [], "expected tensors 'x', got 'z'"),
        (
            [InferTensor("x", "FP64", (2,))],
            [b""],
            "tensor 'x' is FP64[2], expected FP32[2]",
        ),
        (
            [InferTensor("x", "FP32", (-1, 2))],
            [b""],
            "tensor 'x' is FP32[-1, 2], expected FP32[2]",
        ),
        ([X_RAW], [b"1234567"], "tensor 'x' has 7 bytes, expected 8"),
        ([X_RAW], [], "tensor 'x' has 0 elements in fp32_contents, expected 2"),
    ],
)
def test_says_what_does_not_fit(
    tensors: list[InferTensor], raw: list[Buffer], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        unpack([X], tensors, raw)


LABEL = TensorSpec("label", "bytes", (1,))
LABEL_HEADER = InferTensor("label", "BYTES", (1,))


@given(st.binary())
def test_a_string_of_bytes_comes_back(contents: bytes) -> None:
    array = np.frombuffer(contents, "uint8")
    tensors, (raw,) = pack([LABEL], {"label": array})
    assert tensors == (LABEL_HEADER,)
    assert bytes(raw) == len(contents).to_bytes(4, "little") + contents
    np.testing.assert_array_equal(unpack([LABEL], tensors, [raw])["label"], array, strict=True)
    typed = replace(LABEL_HEADER, contents=InferTensorContents(bytes_contents=(contents,)))
    np.testing.assert_array_equal(unpack([LABEL], [typed], [])["label"], array, strict=True)


@pytest.mark.parametrize("raw", [b"", b"\0\0\0", b"\2\0\0\0a", b"\0\0\0\2ab", b"\1\0\0\0ab"])
def test_a_string_of_bytes_says_its_length(raw: bytes) -> None:
    message = rf"tensor 'label' must be 4 bytes that say.*; it has {len(raw)} bytes in all"
    with pytest.raises(InputError, match=message):
        unpack([LABEL], [LABEL_HEADER], [raw])


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_one_string_of_bytes(count: int) -> None:
    typed = replace(LABEL_HEADER, contents=InferTensorContents(bytes_contents=(b"a",) * count))
    with pytest.raises(InputError, match=f"has {count} elements in bytes_contents, expected 1"):
        unpack([LABEL], [typed], [])


def test_half_floats_need_raw_contents() -> None:
    tensor = InferTensor("h", "FP16", (1,), contents=InferTensorContents(fp32_contents=(1.0,)))
    with pytest.raises(InputError, match="tensor 'h' is FP16, which only raw contents can hold"):
        unpack([TensorSpec("h", "float16", (1,))], [tensor], [])


def test_elements_must_fit_their_datatype() -> None:
    tensor = InferTensor("y", "INT8", (1,), contents=InferTensorContents(int_contents=(300,)))
    with pytest.raises(InputError, match="tensor 'y' has an element outside INT8"):
        unpack([Y], [tensor], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": ARRAYS["x"]}, "expected tensors 'x', 'y', got 'x', 'y', 'z'"),
        ({"x": [1.0, 2.0]}, "input 'x' is a list, no NumPy array"),
        ({"x": np.zeros(2)}, "input 'x' is float64[2], expected float32[2]"),
        ({"x": np.zeros(2, ">f4")}, "input 'x' is >f4[2], expected float32[2]"),
        ({"y": np.zeros((1, 1), "int8")}, "input 'y' is int8[1, 1], expected int8[1]"),
    ],
)
def test_says_what_is_wrong_with_an_array(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_arrays([X, Y], {**ARRAYS, **changes})


def test_names_a_missing_array() -> None:
    with pytest.raises(InputError, match="expected tensors 'x', 'y', got 'x'"):
        check_arrays([X, Y], {"x": ARRAYS["x"]})


def test_gives_arrays_in_the_order_of_the_specification() -> None:
    assert list(check_arrays([Y, X], ARRAYS)) == ["y", "x"]
