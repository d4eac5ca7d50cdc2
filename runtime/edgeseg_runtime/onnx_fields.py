"""Reads and writes the fields of an encoded ONNX model, without a protobuf library.

Field numbers: onnx/onnx.proto. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeseg_runtime.onnx_check import read_varint

__all__ = ["Field", "delimited", "fields_of", "opset_of", "text_of"]

Field = tuple[int, bytes, bytes]
"""Number of a field, its encoding as a whole, and its content if it is length-delimited."""

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5

_MODEL_OPSET = 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_STANDARD_DOMAINS = ("", "ai.onnx")


def opset_of(onnx: bytes) -> int:
    """Return the opset of standard operators that an encoded model is written in; 1 if it names none.

    Raises:
        ValueError: if the bytes are no encoded model.
    """
    opset = 1
    for number, _, content in fields_of(onnx):
        if number != _MODEL_OPSET:
            continue
        parts = {inner: (raw, text) for inner, raw, text in fields_of(content)}
        domain = text_of(parts.get(_OPSET_DOMAIN, (b"", b""))[1])
        if domain in _STANDARD_DOMAINS and _OPSET_VERSION in parts:
            raw = parts[_OPSET_VERSION][0]
            opset, _ = read_varint(raw, 1, len(raw))  # behind the tag
    return opset


def fields_of(message: bytes) -> Iterator[Field]:
    """Yield the fields of an encoded message in their order.

    Raises:
        ValueError: if the bytes are no encoded message.
    """
    position, end = 0, len(message)
    while position < end:
        start = position
        tag, position = read_varint(message, position, end)
        wire_type, content = tag & 7, b""
        if wire_type == _VARINT:
            _, position = read_varint(message, position, end)
        elif wire_type == _LENGTH_DELIMITED:
            size, position = read_varint(message, position, end)
            content = message[position : position + size]
            position += size
        elif wire_type in {_FIXED32, _FIXED64}:
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}")
        if position > end:
            raise ValueError(f"a field ends at byte {position}, its message at {end}")
        yield tag >> 3, message[start:position], content


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
