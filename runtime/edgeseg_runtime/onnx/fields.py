"""Reads and writes the fields of an encoded ONNX model, without a protobuf library.

Only the one form in which protobuf writes a field is read. Its libraries read more, and not all the
same: of a tag of more than 32 bits one takes the lower 32 and another refuses the file, so that a
field could mean something else to an engine than it does here.

Field numbers: onnx/onnx.proto. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

__all__ = [
    "FIXED32",
    "FIXED64",
    "LENGTH_DELIMITED",
    "VARINT",
    "Field",
    "delimited",
    "encoded_varint",
    "fields_between",
    "fields_of",
    "opening",
    "opset_of",
    "read_varint",
    "text_of",
]

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types. Groups (3 and 4) are read by no ONNX engine's schema and not written since 2008."""

_MODEL_OPSET = 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_STANDARD_DOMAINS = ("", "ai.onnx")


class Field(NamedTuple):
    """Where a field of an encoded message lies.

    Attributes:
        number: of the field.
        wire_type: how it is encoded, such as `VARINT`.
        value: of a `VARINT`, 0..2^64-1, else 0.
        start: first byte of the field, its tag.
        content: first byte behind the tag, and behind the length if there is one.
        end: the byte behind the field.
    """

    number: int
    wire_type: int
    value: int
    start: int
    content: int
    end: int

    @property
    def has_content(self) -> bool:
        """Whether it is length-delimited: a text, an array or a message."""
        return self.wire_type == LENGTH_DELIMITED


def opset_of(onnx: bytes) -> int:
    """Return the opset of standard operators that an encoded model is written in; 1 if it names none.

    Raises:
        ValueError: if the bytes are not an encoded model.
    """
    opset = 1
    for entry in fields_between(onnx, 0, len(onnx)):
        if entry.number != _MODEL_OPSET or not entry.has_content:
            continue
        fields = {field.number: field for field in fields_between(onnx, entry.content, entry.end)}
        domain = fields.get(_OPSET_DOMAIN)
        name = text_of(onnx[domain.content : domain.end]) if domain else ""
        if name in _STANDARD_DOMAINS and _OPSET_VERSION in fields:
            opset = fields[_OPSET_VERSION].value
    return opset


def fields_of(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield of each field its number, its encoding as a whole, and its content if it has one.

    Raises:
        ValueError: if the bytes are not an encoded message.
    """
    for field in fields_between(message, 0, len(message)):
        content = message[field.content : field.end] if field.has_content else b""
        yield field.number, message[field.start : field.end], content


def fields_between(data: bytes | mmap, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two bytes, in their order; nothing is copied.

    Raises:
        ValueError: if the bytes are not an encoded message.
    """
    while start < end:
        tag, content = read_varint(data, start, end)
        if not 8 <= tag < 2**32:
            raise ValueError(f"a tag {tag:#x} at byte {start}, not of 32 bits with a field number")
        wire_type, value, position = tag & 7, 0, content
        if wire_type == VARINT:
            value, position = read_varint(data, content, end)
        elif wire_type == LENGTH_DELIMITED:
            size, content = read_varint(data, content, end)
            if size >= 2**31:
                raise ValueError(f"a length of {size} at byte {start}, of more than 31 bits")
            position = content + size
        elif wire_type in {FIXED32, FIXED64}:
            position += 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}")
        if position > end:
            raise ValueError(f"a field ends at byte {position}, its message at {end}")
        yield Field(tag >> 3, wire_type, value, start, content, position)
        start = position


def delimited(number: int, content: bytes) -> bytes:
    """Return a length-delimited field in its encoding."""
    return opening(number, len(content)) + content


def opening(number: int, num_bytes: int) -> bytes:
    """Return what stands before the content of a length-delimited field."""
    return encoded_varint(number << 3 | LENGTH_DELIMITED) + encoded_varint(num_bytes)


def text_of(content: bytes) -> str:
    """Return the text that a field holds."""
    return content.decode("utf-8")


def read_varint(data: bytes | mmap, position: int, end: int) -> tuple[int, int]:
    """Return an integer of variable length, 0..2^64-1, and the position behind it.

    Raises:
        ValueError: if it goes beyond `end`, is longer than its value needs, or has more than 64 bits.
    """
    if position < end and data[position] < 0x80:  # most are that short
        return data[position], position + 1
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >= 2**64:
                raise ValueError(
                    f"an integer that is not written as protobuf does, to byte {position}"
                )
            return value, position
        shift += 7
    raise ValueError(f"an integer is cut off or too long at byte {position}")


def encoded_varint(value: int) -> bytes:
    """Return a whole number, 0..2^64-1, as an integer of variable length."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
