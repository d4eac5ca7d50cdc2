"""Reads weight files of every format without executing anything that they hold."""

from __future__ import annotations

import functools
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from edgeseg.models.file_kinds import (
    HEAD_BYTES,
    kind_of_archive,
    kind_of_folder,
    kind_of_head,
    kind_of_text,
)
from edgeseg.models.inert_pickle import PickleError, Reference, load
from edgeseg.models.stored_tensors import (
    DamagedError,
    Opaque,
    Opener,
    Span,
    Storages,
    StoredTensor,
    contiguous_strides,
    element_size_of_storage,
    plain_from_inert,
)
from edgeseg_runtime.errors import EdgesegError

_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What torch.save wrote before version 1.6: this number, more pickles, and the storages."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_COUNT = struct.Struct("<q")
_MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file, as its library limits it."""


class CheckpointError(EdgesegError):
    """Weights that cannot be read, or do not fit the model."""

    exit_code = 3


def read_checkpoint(path: str | Path) -> Any:
    """Return what a weight file holds, as dicts and lists of tensors that are read when asked for.

    PyTorch's files of all times, plain pickles of tensors or NumPy arrays, as detectron2's model zoo
    has them, and safetensors; the content decides, not the name. Pickles are read as data, see
    `inert_pickle.py`.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or has no tensor.
    """
    path = Path(path)
    try:
        return _read(path)
    except (
        DamagedError, PickleError, SafetensorError, zipfile.BadZipFile, NotImplementedError, OSError,
        RecursionError, json.JSONDecodeError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise _refused(path, _damage(error), "Download or copy it again") from error


def _read(path: Path) -> Any:
    if path.is_dir():
        raise _refused(path, f"it is {kind_of_folder(path)}")
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such weight file; expected a .pth, .pt, .pkl or .safetensors file"
        )
    if not path.is_file():
        raise _refused(path, "it is not a file on a disk", "Copy it to one")
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise _refused(path, "it is empty, as an interrupted download leaves it")
    opener = functools.partial(_open, path)
    if head.startswith(_ZIP):
        content = _read_archive(path, opener)
    elif _is_safetensors(head, path.stat().st_size):
        content = _read_safetensors(path, opener)
    else:
        content = _read_pickle(path, opener, head)
    if not isinstance(content, dict | list):
        what = "one tensor without a name" if isinstance(content, StoredTensor) else "no tensors"
        raise _refused(path, f"it holds {what}", "Give the file that holds the state dict")
    return content


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _refused(path: Path, reason: str, advice: str = "") -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read as a weight file: {reason}. Expected a state dict saved by "
        f"torch.save or safetensors, or a checkpoint that holds one{f'. {advice}' if advice else ''}"
    )


def _damage(error: Exception) -> str:
    """Return what is wrong with a file; parts of it, which may be anything, stand in the errors."""
    text = str(error)[:300]
    return f"it is damaged: {text if text.isprintable() else ascii(text)[1:-1]}"


# ---------------------------------------------------------------- PyTorch, since 1.6


def _read_archive(path: Path, opener: Opener) -> Any:
    with zipfile.ZipFile(path) as archive:
        if not any(_is_pickle(name) for name in archive.namelist()):
            raise _refused(path, f"it is {kind_of_archive(archive)}")
    return plain_from_inert(*_load_archive(opener))


def _is_pickle(name: str) -> bool:
    return name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1


def _load_archive(opener: Opener) -> tuple[Any, Storages]:
    """Return what the pickle of a file describes, and the file's storages."""
    with opener() as stream, zipfile.ZipFile(stream) as archive:
        name = next(filter(_is_pickle, archive.namelist()))
        folder = name.removesuffix("data.pkl")
        spans = {
            entry.filename.removeprefix(folder): _span(opener, stream, entry)
            for entry in archive.infolist()
            if entry.filename.startswith((name, f"{folder}byteorder", f"{folder}data/"))
        }
    raw = spans["data.pkl"].read_all()
    storages = Storages(
        spans={key.removeprefix("data/"): span for key, span in spans.items() if "/" in key},
        is_big_endian="byteorder" in spans and spans["byteorder"].read_all() == b"big",
        load_embedded=_load_embedded,
    )
    return load(io.BytesIO(raw), len(raw)).root, storages


def _span(opener: Opener, stream: BinaryIO, entry: zipfile.ZipInfo) -> Span:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise DamagedError("it was packed again, with compression: pack it without (zip -0)")
    stream.seek(entry.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_ZIP):
        raise DamagedError(f"{entry.filename[:80]!a} is not where it should be")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.header_offset + len(header) + name_length + extra_length
    # torch.serialization.set_crc32_options(False) leaves zeros in place of checksums.
    return Span(opener, start, entry.file_size, crc=entry.CRC or None)


# ---------------------------------------------------------------- PyTorch, before 1.6, and pickles


def _read_pickle(path: Path, opener: Opener, head: bytes) -> Any:
    kind = kind_of_head(head, path)
    if kind is not None:
        raise _refused(path, f"it is {kind}")
    try:
        return plain_from_inert(*_load_pickle(opener))
    except PickleError as error:
        reason = _damage(error) if head[:1] == b"\x80" else f"it is {kind_of_text(head)}"
        raise _refused(path, reason, "Download or copy it again") from error


def _load_pickle(opener: Opener) -> tuple[Any, Storages]:
    """Return what a pickle describes, and the storages that follow it in a file of PyTorch's."""
    with opener() as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        root = load(stream, size).root
        if root != _LEGACY_MAGIC:
            return root, Storages(spans={}, load_embedded=_load_embedded)
        load(stream, size)  # the version
        system = load(stream, size).root
        content = load(stream, size)
        keys = load(stream, size).root
        spans = _spans_of_legacy(opener, stream, size, content.references, keys)
    is_big_endian = isinstance(system, dict) and system.get("little_endian") is False
    storages = Storages(spans=spans, is_big_endian=is_big_endian, load_embedded=_load_embedded)
    return content.root, storages


def _spans_of_legacy(
    opener: Opener, stream: BinaryIO, size: int, references: list[Reference], keys: Any
) -> dict[str, Span]:
    """Return the storages by key: each follows the number of its elements.

    Args:
        opener: of the file.
        stream: at the first storage.
        size: of the file.
        references: to the storages, with their types.
        keys: of the storages in their order.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedError("its list of storages is not valid")
    element_sizes = dict(filter(None, map(element_size_of_storage, references)))
    spans: dict[str, Span] = {}
    for key in keys:
        header = stream.read(_COUNT.size)
        if len(header) < _COUNT.size or key not in element_sizes:
            raise DamagedError("it ends before its numbers do")
        num_bytes = _COUNT.unpack(header)[0] * element_sizes[key]
        start = stream.tell()
        if not 0 <= num_bytes <= size - start:
            raise DamagedError("it ends before its numbers do")
        spans[key] = Span(opener, start, num_bytes)
        stream.seek(num_bytes, io.SEEK_CUR)
    return spans


def _load_embedded(raw: bytes) -> tuple[Any, Storages]:
    opener = functools.partial(io.BytesIO, raw)
    return _load_archive(opener) if raw.startswith(_ZIP) else _load_pickle(opener)


# ---------------------------------------------------------------- safetensors


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= min(size - 8, _MAX_HEADER_BYTES)


def _read_safetensors(path: Path, opener: Opener) -> dict[str, StoredTensor | Opaque] | None:
    with safe_open(path, framework="np"):
        pass  # the library checks that every tensor has its place
    with opener() as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    tensors: dict[str, StoredTensor | Opaque] = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        dtype, shape = _SAFETENSORS.get(entry["dtype"]), tuple(entry["shape"])
        if dtype is None:
            tensors[name] = Opaque(f"a tensor of {entry['dtype']}", is_tensor=True)
        else:
            span = Span(opener, 8 + length + first, last - first)
            tensors[name] = StoredTensor(dtype, shape, contiguous_strides(shape), 0, span)
    return tensors or None


_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
