"""Reads and writes the cells, numbers and texts of MATLAB 5 files, the format of WIDER FACE's ground truth.

Source of the format: "MAT-File Format", The MathWorks, chapter 1 (level 5). Structures, objects and sparse
matrices are not read.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_bench.datasets.base import DatasetError, read_file

Value: TypeAlias = "npt.NDArray[np.generic] | str | list[Value]"

HEADER_SIZE = 128
MAX_UNPACKED_BYTES = 1 << 28  # of one compressed variable; WIDER FACE's largest needs 30 MB
MAX_DEPTH = 8  # of cells in cells
MATRIX, COMPRESSED = 14, 15
CELL, CHAR = 1, 4
NUMERIC_CLASSES = range(6, 16)
# Type of the stored elements: a small integer type may stand for any class.
DTYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
TEXT_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}


def read_matlab(path: str | Path, names: Collection[str]) -> dict[str, Value]:
    """Return the variables of a MATLAB file that have these names.

    Returns:
        Numbers as arrays, texts as str, cells as lists in MATLAB's order (down the columns).

    Raises:
        DatasetError: the file cannot be read, is not of MATLAB 5, is damaged, or lacks one of the variables.
    """
    path = Path(path)
    data = read_file(path)
    try:
        return _read(memoryview(data), names)
    except (
        struct.error,
        zlib.error,
        UnicodeDecodeError,
        ValueError,
        KeyError,
        IndexError,
    ) as error:
        raise DatasetError(
            f"{path} is not a MATLAB 5 file with the variables {sorted(names)}: {error}. "
            "Download it again; files of MATLAB 7.3 must be saved with -v7."
        ) from error


def write_matlab(path: str | Path, variables: Mapping[str, Value]) -> None:
    """Write variables as a MATLAB 5 file; lists become cells of one column.

    Raises:
        OSError: the file cannot be written.
    """
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    body = b"".join(_matrix_bytes(value, name) for name, value in variables.items())
    Path(path).write_bytes(header + body)


def _read(data: memoryview, names: Collection[str]) -> dict[str, Value]:
    if len(data) < HEADER_SIZE or bytes(data[126:128]) not in {b"IM", b"MI"}:
        raise ValueError("the header is another")
    order = "<" if bytes(data[126:128]) == b"IM" else ">"
    found: dict[str, Value] = {}
    for kind, content in _elements(data[HEADER_SIZE:], order):
        matrix = content
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(content, MAX_UNPACKED_BYTES)
            if unpacker.unconsumed_tail:
                raise ValueError(f"a variable has more than {MAX_UNPACKED_BYTES} bytes")
            kind, matrix = next(_elements(memoryview(unpacked), order), (0, matrix))
        if kind == MATRIX and _name_of(matrix, order) in names:
            found[_name_of(matrix, order)] = _matrix(matrix, order, depth=0)
    missing = set(names) - set(found)
    if missing:
        raise ValueError(f"{sorted(missing)} not found")
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of the data elements one after the other."""
    start = 0
    while start < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, start)
        if kind >> 16:  # small format: size, type and content in eight bytes
            kind, size, content, end = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        else:
            content = start + 8
            end = content + size + (0 if kind == COMPRESSED else -size % 8)
        if content + size > len(data):
            raise ValueError("it ends too early")
        yield kind, data[content : content + size]
        start = end


def _name_of(matrix: memoryview, order: str) -> str:
    for number, (_, content) in enumerate(_elements(matrix, order)):
        if number == 2:
            return bytes(content).decode("latin-1")
    return ""


def _matrix(matrix: memoryview, order: str, *, depth: int) -> Value:
    """Return the value of a matrix element."""
    if depth > MAX_DEPTH:
        raise ValueError(f"cells lie more than {MAX_DEPTH} deep")
    if len(matrix) == 0:
        return np.zeros((0, 0))
    parts = _elements(matrix, order)
    header = [content for _, content in itertools.islice(parts, 3)]  # flags, dimensions, name
    if len(header) < 3:
        raise ValueError("a value lacks its class, size or name")
    matlab_class = struct.unpack_from(f"{order}I", header[0])[0] & 0xFF
    shape = tuple(np.frombuffer(header[1], f"{order}i4").tolist())
    if min(shape, default=-1) < 0:
        raise ValueError(f"a value has the size {shape}")
    if matlab_class == CELL:
        cells = [_matrix(content, order, depth=depth + 1) for _, content in parts]
        if len(cells) != np.prod(shape):
            raise ValueError(f"a cell of {shape} holds {len(cells)} values")
        return cells
    kind, content = next(parts, (2, memoryview(b"")))
    if matlab_class == CHAR:
        encoding = TEXT_ENCODINGS[kind]
        if encoding == "utf-16":
            encoding += "-le" if order == "<" else "-be"
        return bytes(content).decode(encoding)
    if matlab_class not in NUMERIC_CLASSES:
        raise ValueError(f"a value of class {matlab_class} is neither cell, text nor number")
    values = np.frombuffer(content, f"{order}{DTYPES[kind]}")
    return values.reshape(shape, order="F")


def _matrix_bytes(value: Value, name: str = "") -> bytes:
    """Return the data element of a value."""
    if isinstance(value, str):
        content = _element(4, value.encode("utf-16-le"))
        matlab_class, shape = CHAR, (1, len(value.encode("utf-16-le")) // 2)
    elif isinstance(value, list):
        content = b"".join(_matrix_bytes(item) for item in value)
        matlab_class, shape = CELL, (len(value), 1)
    else:
        numbers = np.atleast_2d(np.asarray(value, dtype="<f8"))
        content = _element(9, numbers.tobytes(order="F"))
        matlab_class, shape = 6, numbers.shape
    parts = (
        _element(6, struct.pack("<II", matlab_class, 0)),
        _element(5, struct.pack(f"<{len(shape)}i", *shape)),
        _element(1, name.encode("ascii")),
        content,
    )
    return _element(MATRIX, b"".join(parts))


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)
