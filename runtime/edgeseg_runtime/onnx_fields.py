"""Reads and writes the fields of an encoded ONNX model, without a protobuf library.

Field numbers: onnx/onnx.proto. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Field", "delimited", "fields_between", "fields_of", "opset_of", "text_of"]

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5

_MODEL_OPSET = 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_STANDARD_DOMAINS = ("", "ai.onnx")


class Field(NamedTuple):
    """Where a field of an encoded message lies.

    Attributes:
        number: of the field.
        value: of an integer, else 0.
        has_content: whether it is length-delimited: a text, an array or a message.
        start: first byte of the field, its tag.
        content: first byte behind the tag, and behind the length if there is one.
        end: the byte behind the field.
    """

    number: int
    value: int
    has_content: bool
    start: int
    content: int
    end: int


def opset_of(onnx: bytes) -> int:
    """Return the opset of standard operators that an encoded model is written in; 1 if it names none.

    Raises:
        ValueError: if the bytes are no encoded model.
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
        ValueError: if the bytes are no encoded message.
    """
    for field in fields_between(message, 0, len(message)):
        content = message[field.content : field.end] if field.has_content else b""
        yield field.number, message[field.start : field.end], content


def fields_between(data: bytes, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two bytes, in their order; nothing is copied.

    Raises:
        ValueError: if the bytes are no encoded message.
    """
    while start < end:
        tag, content = _read_varint(data, start, end)
        wire_type, value, position = tag & 7, 0, content
        if wire_type == _VARINT:
            value, position = _read_varint(data, content, end)
        elif wire_type == _LENGTH_DELIMITED:
            size, content = _read_varint(data, content, end)
            position = content + size
        elif wire_type in {_FIXED32, _FIXED64}:
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}")
        if position > end:
            raise ValueError(f"a field ends at byte {position}, its message at {end}")
        yield Field(tag >> 3, value, wire_type == _LENGTH_DELIMITED, start, content, position)
        start = position


def delimited(number: int, content: bytes) -> bytes:
    """Return a length-delimited field in its encoding."""
    return _encoded(number << 3 | _LENGTH_DELIMITED) + _encoded(len(content)) + content


def text_of(content: bytes) -> str:
    """Return the text that a field holds."""
    return content.decode("utf-8")


def _encoded(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it.

    Raises:
        ValueError: if it goes beyond `end`, or has more than 70 bits.
    """
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"an integer is cut off or too long at byte {position}")
