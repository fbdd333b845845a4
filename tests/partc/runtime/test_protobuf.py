from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.runtime.errors import ProtocolError
from partc.runtime.protobuf import (
    BOOL,
    BYTES,
    DOUBLE,
    INT64,
    STRING,
    Buffer,
    Field,
    Label,
    decode,
    encode,
    message_kind,
)


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, Field(1, INT64)] = 0


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, Field(1, STRING)] = ""
    flag: Annotated[bool, Field(2, BOOL)] = False
    counts: Annotated[tuple[int, ...], Field(3, INT64, Label.REPEATED)] = ()
    choice: Annotated[int | None, Field(4, INT64, Label.OPTIONAL)] = None
    inner: Annotated[Inner | None, Field(5, message_kind(Inner), Label.OPTIONAL)] = None
    blobs: Annotated[tuple[Buffer, ...], Field(6, BYTES, Label.REPEATED)] = ()
    ratios: Annotated[tuple[float, ...], Field(20, DOUBLE, Label.REPEATED)] = ()


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Outer(), ""),
        (Outer(name="testing"), "0a0774657374696e67"),
        (Outer(flag=True), "1001"),
        (Outer(counts=(3, 270, 86942)), "1a06038e029ea705"),
        (Outer(counts=(-2,)), "1a0afeffffffffffffffff01"),
        (Outer(choice=0), "2000"),
        (Outer(inner=Inner()), "2a00"),
        (Outer(inner=Inner(150)), "2a03089601"),
        (Outer(blobs=(b"", b"a")), "3200320161"),
        (Outer(ratios=(1.0,)), "a20108000000000000f03f"),
    ],
)
def test_encodes_as_the_specification_shows(message: Outer, data: str) -> None:
    assert encode(message).hex() == data
    assert decode(Outer, bytes.fromhex(data)) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("1801 1802", Outer(counts=(1, 2))),  # not packed
        ("1801 1a020203 1804", Outer(counts=(1, 2, 3, 4))),  # half packed
        ("a101000000000000f03f", Outer(ratios=(1.0,))),
        ("2001 2002", Outer(choice=2)),  # the last one counts
        ("3805 4a0161 5500000000 590000000000000000 0a0161", Outer(name="a")),  # unknown fields
        ("0805 100a", Outer(flag=True)),  # a string written as an integer
        ("0d00000000", Outer()),  # a string written as four bytes
    ],
)
def test_reads_what_others_may_write(data: str, message: Outer) -> None:
    assert decode(Outer, bytes.fromhex(data)) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("0a", "an integer without an end at byte 1"),
        ("0a05 6162", "a field of 5 bytes at byte 2, where 2 are left"),
        ("0affffffffffffffffff01", "a field of 18446744073709551615 bytes at byte 11"),
        ("10ffffffffffffffffffff01", "an integer without an end at byte 1"),
        ("1a0180", "an integer without an end at byte 0"),
        ("a20103000000", "a field of 8 bytes at byte 0, where 3 are left"),
        ("0a01ff", "text that is not UTF-8"),
        ("0005", "field number 0"),
        ("8080808010 00", "field number 536870912"),
        ("1b", "wire type 3"),
        ("1f", "wire type 7"),
        ("2a0108", "an integer without an end at byte 1"),
    ],
)
def test_refuses_malformed_bytes(data: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=f"malformed message: {message}"):
        decode(Outer, bytes.fromhex(data))


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    try:
        message = decode(Outer, data)
    except ProtocolError:
        return
    # A NaN is not equal to itself, so compare bytes.
    assert encode(decode(Outer, encode(message))) == encode(message)


def test_bytes_are_not_copied() -> None:
    data = encode(Outer(blobs=(b"tensor",)))
    (blob,) = decode(Outer, data).blobs
    assert isinstance(blob, memoryview)
    assert blob.obj is data


def test_writes_views() -> None:
    view = memoryview(struct.pack("<2f", 1, 2))
    assert encode(Outer(blobs=(view,))) == encode(Outer(blobs=(bytes(view),)))
