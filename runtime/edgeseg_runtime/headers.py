"""Read the size of an encoded picture, and find out whether it is whole, without decoding it.

A decoder allocates what a header claims: a PNG of 100 bytes can ask for gigabytes. And it fills
in what is missing: half a JPEG becomes a picture with a grey lower part.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

__all__ = ["Header", "read_header"]

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; not DHT, JPG, DAC
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}


class Header(NamedTuple):
    """What an encoded picture says about itself."""

    format: str
    height: int
    width: int
    bits: int  # per channel


def read_header(data: bytes) -> Header:
    """Return the header of an encoded picture.

    Args:
        data: content of a PNG, JPEG, WebP, BMP or TIFF file.

    Raises:
        ValueError: if it is none of these, or damaged, or cut off where that can be seen.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _read_png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
        if data.startswith(b"BM"):
            return _read_bmp(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _read_tiff(data)
    except (struct.error, IndexError) as error:
        raise ValueError("it is cut off in the header") from error
    raise ValueError("it is none of PNG, JPEG, WebP, BMP, TIFF")


def _read_png(data: bytes) -> Header:
    position = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError("it is cut off")
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise ValueError(f"the checksum of its part {kind!r} is wrong")
        if kind == b"IEND":
            break
        position = end + 4
    if data[12:16] != b"IHDR":
        raise ValueError("it does not begin with IHDR")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return Header("PNG", height, width, bits)


def _read_jpeg(data: bytes) -> Header:
    header = None
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ValueError(f"there is no marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _JPEG_BARE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _JPEG_SIZES:
            bits, height, width = struct.unpack_from(">BHH", data, position + 4)
            header = Header("JPEG", height, width, bits)
        if marker == 0xDA:  # start of scan; in what follows FF D9 can only be the end of the image
            break
        position += 2 + length
    if header is None:
        raise ValueError("it has no size before its first scan")
    if data.find(b"\xff\xd9", position) < 0:
        raise ValueError("it is cut off: the end marker is missing")
    return header


def _read_webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ValueError("it is cut off")
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError(f"its first part is {kind!r}")
    return Header("WebP", height, width, 8)


def _read_bmp(data: bytes) -> Header:
    offset, header_size, width, height, _, bits = struct.unpack_from("<IIiiHH", data, 10)
    if header_size < 40:
        raise ValueError("its header is older than BITMAPINFOHEADER")
    (compression,) = struct.unpack_from("<I", data, 30)
    row_bytes = (abs(width) * bits + 31) // 32 * 4
    if compression in {0, 3} and offset + row_bytes * abs(height) > len(data):
        raise ValueError("it is cut off")
    return Header("BMP", abs(height), abs(width), 8)


def _read_tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    (position,) = struct.unpack_from(f"{order}I", data, 4)
    (num_entries,) = struct.unpack_from(f"{order}H", data, position)
    values = {}
    for entry in range(num_entries):
        start = position + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, start)
        if tag in {256, 257, 258} and kind in _TIFF_TYPES:
            code = _TIFF_TYPES[kind]
            place = start + 8
            if count * struct.calcsize(code) > 4:  # the value stands elsewhere
                (place,) = struct.unpack_from(f"{order}I", data, place)
            (values[tag],) = struct.unpack_from(f"{order}{code}", data, place)
    if not {256, 257} <= values.keys():
        raise ValueError("it has no size")
    return Header("TIFF", values[257], values[256], values.get(258, 1))
