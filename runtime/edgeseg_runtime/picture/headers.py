"""Read the size of an encoded picture, and find out whether it is whole, without decoding it.

A decoder allocates what a header claims: a PNG of 100 bytes can ask for gigabytes. And it fills
in what is missing: half a JPEG becomes a picture with a grey lower part.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = [
    "FORMATS",
    "HEAD_BYTES",
    "Header",
    "picture_format",
    "read_header",
    "without_animation",
]

HEAD_BYTES = 64
"""How much of a file `picture_format` looks at."""

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; not DHT, JPG, DAC
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})  # sizes
_PNG_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_BOXES_AROUND_SIZE = (b"meta", b"iprp", b"ipco")


class Header(NamedTuple):
    """What an encoded picture says about itself."""

    format: str
    height: int
    width: int
    bits: int  # per channel


def picture_format(head: bytes) -> str | None:
    """Return the format of an encoded picture, such as "JPEG", by its first bytes; None for others.

    Pictures of cameras in formats of their own ("raw"), which begin like TIFF, are none of ours.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head.startswith((b"II*\0", b"MM\0*")) and head[8:10] != b"CR":
        return "TIFF"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return _isobmff_format(head)


def read_header(data: bytes) -> Header:
    """Return the header of an encoded picture.

    Args:
        data: content of a file in one of `FORMATS`.

    Raises:
        ValueError: if it is not one of these, or damaged, or cut off where that can be seen.
    """
    name = picture_format(data[:HEAD_BYTES])
    if name is None:
        raise ValueError(f"it is not one of {', '.join(FORMATS)}")
    try:
        return _READERS[name](data)
    except (struct.error, IndexError) as error:
        raise ValueError("it is cut off in the header") from error


def without_animation(data: bytes) -> bytes:
    """Return a PNG file without the parts of an animation; its still picture stays.

    Args:
        data: content of a PNG file that `read_header` accepts.
    """
    if b"acTL" not in data:
        return data
    parts = [data[:8]]
    for position, end in _png_parts(data):
        if data[position + 4 : position + 8] not in _PNG_ANIMATION:
            parts.append(data[position:end])
    return b"".join(parts)


def _png_parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each part of a PNG file begins and ends, to the last one.

    Raises:
        ValueError: if the file is cut off.
    """
    position = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ValueError("it is cut off")
        yield position, end
        if kind == b"IEND":
            break
        position = end


def _isobmff_format(head: bytes) -> str | None:
    """Return "AVIF" or "HEIC", which share their container with videos."""
    if head[4:8] != b"ftyp":
        return None
    brands = {head[position : position + 4] for position in (8, *range(16, len(head), 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


def _read_png(data: bytes) -> Header:
    for position, end in _png_parts(data):
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
            kind = data[position + 4 : position + 8]
            raise ValueError(f"the checksum of its part {kind!r} is wrong")
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
        if tag in {254, 256, 257, 258} and kind in _TIFF_TYPES:
            code = _TIFF_TYPES[kind]
            place = start + 8
            if count * struct.calcsize(code) > 4:  # the value stands elsewhere
                (place,) = struct.unpack_from(f"{order}I", data, place)
            (values[tag],) = struct.unpack_from(f"{order}{code}", data, place)
    if not {256, 257} <= values.keys():
        raise ValueError("it has no size")
    if values.get(254, 0) & 1:
        raise ValueError("it begins with a preview, as a camera's own format does")
    return Header("TIFF", values[257], values[256], values.get(258, 1))


def _read_gif(data: bytes) -> Header:
    """Read the size, and see that the first of its pictures is whole."""
    width, height = struct.unpack_from("<HH", data, 6)
    position = 13 + _gif_palette_bytes(data[10])
    while data[position] == 0x21:  # an extension
        position = _after_gif_blocks(data, position + 2)
    if data[position] != 0x2C:
        raise ValueError("there is no picture in it")
    palette_bytes = _gif_palette_bytes(data[position + 9])
    _after_gif_blocks(data, position + 11 + palette_bytes)
    return Header("GIF", height, width, 8)


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_gif_blocks(data: bytes, position: int) -> int:
    """Return the position after a chain of blocks, each of which begins with its length."""
    while data[position]:
        position += 1 + data[position]
    return position + 1


def _read_isobmff(data: bytes) -> Header:
    """Read the size of the largest picture; tiles and previews are smaller."""
    sizes = list(_isobmff_sizes(data, 0, len(data), _BOXES_AROUND_SIZE))
    if not sizes:
        raise ValueError("it has no size")
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    name = _isobmff_format(data[:HEAD_BYTES])
    assert name is not None
    return Header(name, height, width, 8)


def _isobmff_sizes(
    data: bytes, position: int, end: int, path: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    """Yield height, width of each `ispe` box in the boxes of a path of names."""
    while position < end:
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = position + length if length else end
        if not start <= stop <= end:
            raise ValueError("it is cut off")
        if path and kind == path[0]:
            inside = start + 4 if kind == b"meta" else start  # after its version
            yield from _isobmff_sizes(data, inside, stop, path[1:])
        elif not path and kind == b"ispe":
            width, height = struct.unpack_from(">II", data, start + 4)
            yield height, width
        position = stop


_READERS: dict[str, Callable[[bytes], Header]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "WebP": _read_webp,
    "BMP": _read_bmp,
    "TIFF": _read_tiff,
    "GIF": _read_gif,
    "AVIF": _read_isobmff,
    "HEIC": _read_isobmff,
}
FORMATS = tuple(_READERS)
"""Of pictures that are told apart; which of the last three OpenCV decodes is up to its build."""
