"""Protocol Buffers on the wire, for messages declared as dataclasses.

    @dataclass(frozen=True)
    class Point:
        name: Annotated[str, Field(1, STRING)] = ""
        position: Annotated[tuple[int, ...], Field(2, INT64, Label.REPEATED)] = ()

Follows the encoding at https://protobuf.dev/programming-guides/encoding/ with the rules of proto3:
fields are written in the order of their declaration, numbers that repeat are packed, fields at
their default are not written, unknown fields are skipped. A map is declared as what it is on the
wire, a repeated message with a key and a value. Of a field that must not repeat the last
occurrence counts.

Decoded bytes are views of the message, and encoding copies every buffer once: what matters for
messages that are nearly all tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache
from typing import Any, TypeAlias, TypeVar, get_type_hints

from .errors import ProtocolError

Buffer: TypeAlias = "bytes | memoryview"
Message = TypeVar("Message")

_MASK_64 = (1 << 64) - 1
_MASK_32 = (1 << 32) - 1


class Wire(IntEnum):
    """How a value is delimited."""

    VARINT = 0
    FIXED_64 = 1
    DELIMITED = 2
    FIXED_32 = 5


class Label(Enum):
    """How often a field occurs, and when it is written."""

    SINGULAR = "once, unless it has its default value"
    OPTIONAL = "once, unless it is None"
    REPEATED = "any number of times"


@dataclass(frozen=True)
class Kind:
    """A protobuf type.

    Args:
        wire: How its values are delimited.
        default: The value that is not written.
        encode: From a value to the bytes after the tag and length.
        decode: From an unsigned integer (varints) or a view (all others) to a value.
    """

    wire: Wire
    default: object
    encode: Callable[[Any], Sequence[Buffer]]
    decode: Callable[[Any], Any]

    @property
    def is_packable(self) -> bool:
        return self.wire is not Wire.DELIMITED


@dataclass(frozen=True)
class Field:
    """Where a dataclass's field stands in its message."""

    number: int
    kind: Kind
    label: Label = Label.SINGULAR


def encode(message: object) -> bytes:
    """The message's bytes."""
    return b"".join(_encode_parts(message))


def decode(message_type: type[Message], data: Buffer) -> Message:
    """Read a message; bytes in it are views of ``data``.

    Raises:
        ProtocolError: The bytes are cut short or are no protobuf message.
    """
    fields = {field.number: (name, field) for name, field in _schema(message_type).items()}
    values: dict[str, Any] = {}
    repeated: dict[str, list[Any]] = {}
    for number, wire, token in _read_tokens(memoryview(data)):
        if number not in fields:
            continue
        name, field = fields[number]
        found = _decode_values(field, wire, token)
        if field.label is Label.REPEATED:
            repeated.setdefault(name, []).extend(found)
        elif found:
            values[name] = found[-1]
    return message_type(**values, **{name: tuple(items) for name, items in repeated.items()})


@cache
def _schema(message_type: type) -> dict[str, Field]:
    hints = get_type_hints(message_type, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def _encode_parts(message: object) -> list[Buffer]:
    parts: list[Buffer] = []
    for name, field in _schema(type(message)).items():
        parts += _encode_field(field, getattr(message, name))
    return parts


def _encode_field(field: Field, value: Any) -> list[Buffer]:
    if field.label is not Label.REPEATED:
        unset = None if field.label is Label.OPTIONAL else field.kind.default
        return [] if value == unset else _encode_value(field, value)
    if not field.kind.is_packable:
        return [part for item in value for part in _encode_value(field, item)]
    packed = b"".join(part for item in value for part in field.kind.encode(item))
    return [_encode_prefix(field.number, len(packed)), packed] if packed else []


def _encode_value(field: Field, value: Any) -> list[Buffer]:
    parts = field.kind.encode(value)
    if field.kind.wire is Wire.DELIMITED:
        prefix = _encode_prefix(field.number, sum(len(part) for part in parts))
    else:
        prefix = _encode_varint(field.number << 3 | field.kind.wire)
    return [prefix, *parts]


def _encode_prefix(number: int, nbytes: int) -> bytes:
    return _encode_varint(number << 3 | Wire.DELIMITED) + _encode_varint(nbytes)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_tokens(view: memoryview) -> Iterator[tuple[int, Wire, int | memoryview]]:
    """Split a message into field number, wire type and the value's varint or bytes."""
    position = 0
    while position < len(view):
        tag, position = _read_varint(view, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ProtocolError(f"malformed message: field number {number} at byte {position}")
        if wire == Wire.VARINT:
            token, position = _read_varint(view, position)
        else:
            nbytes, position = _read_length(view, position, wire)
            token, position = view[position : position + nbytes], position + nbytes
        yield number, Wire(wire), token


def _read_length(view: memoryview, position: int, wire: int) -> tuple[int, int]:
    """How many bytes a value that is no varint has, and where they start."""
    if wire == Wire.DELIMITED:
        nbytes, position = _read_varint(view, position)
    elif wire in (Wire.FIXED_32, Wire.FIXED_64):
        nbytes = 4 if wire == Wire.FIXED_32 else 8
    else:
        raise ProtocolError(f"malformed message: wire type {wire} at byte {position}")
    if nbytes > len(view) - position:
        raise ProtocolError(
            f"malformed message: a field of {nbytes} bytes at byte {position}, "
            f"where {len(view) - position} are left"
        )
    return nbytes, position


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """An unsigned 64-bit integer and the position after it."""
    value = 0
    for offset, byte in enumerate(view[position : position + 10]):
        value |= (byte & 0x7F) << 7 * offset
        if byte < 0x80 and value <= _MASK_64:
            return value, position + offset + 1
    raise ProtocolError(f"malformed message: an integer without an end at byte {position}")


def _decode_values(field: Field, wire: Wire, token: int | memoryview) -> list[Any]:
    """The values in one occurrence of a field; none if it is written as another type."""
    kind = field.kind
    if wire is kind.wire:
        return [kind.decode(token)]
    if wire is Wire.DELIMITED and field.label is Label.REPEATED and isinstance(token, memoryview):
        return [kind.decode(item) for item in _split_packed(kind.wire, token)]
    return []


def _split_packed(wire: Wire, view: memoryview) -> Iterator[int | memoryview]:
    position = 0
    while position < len(view):
        if wire is Wire.VARINT:
            item, position = _read_varint(view, position)
            yield item
        else:
            nbytes, position = _read_length(view, position, wire)
            yield view[position : position + nbytes]
            position += nbytes


def _decode_text(view: memoryview) -> str:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"malformed message: text that is not UTF-8: {error}") from error


def _decode_bytes(view: memoryview) -> memoryview:
    return view


def _varint_kind(decode_varint: Callable[[int], object], default: object = 0) -> Kind:
    # Negative numbers are written as 64-bit two's complement, whatever their type.
    return Kind(
        Wire.VARINT, default, lambda value: [_encode_varint(int(value) & _MASK_64)], decode_varint
    )


def _fixed_kind(wire: Wire, layout: str) -> Kind:
    packer = struct.Struct(layout)
    return Kind(wire, 0.0, lambda value: [packer.pack(value)], lambda view: packer.unpack(view)[0])


def _signed(bits: int) -> Callable[[int], int]:
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    return lambda value: ((value & mask) ^ half) - half


def message_kind(message_type: type[object]) -> Kind:
    """The kind of a field that holds another message."""
    return Kind(Wire.DELIMITED, None, _encode_parts, lambda view: decode(message_type, view))


BOOL = _varint_kind(bool, default=False)
INT32 = _varint_kind(_signed(32))
INT64 = _varint_kind(_signed(64))
UINT32 = _varint_kind(lambda value: value & _MASK_32)
UINT64 = _varint_kind(int)
FLOAT = _fixed_kind(Wire.FIXED_32, "<f")
DOUBLE = _fixed_kind(Wire.FIXED_64, "<d")
STRING = Kind(Wire.DELIMITED, "", lambda value: [value.encode()], _decode_text)
BYTES = Kind(Wire.DELIMITED, b"", lambda value: [value], _decode_bytes)
