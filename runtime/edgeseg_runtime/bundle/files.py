"""Read and write the files of a bundle without trusting what is on disk."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from edgeseg_runtime.errors import CorruptArtifact, MissingArtifact, UnsafePath

Content = bytes | Sequence[bytes | memoryview]
"""Of a file: whole, or in pieces."""

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a named pipe must not hang


def check_relative(file: str) -> str:
    """Return `file` if it is a plain path below a folder, on every operating system.

    Raises:
        UnsafePath: for an absolute path, "..", a backslash, a drive letter or a control character.
    """
    parts = file.split("/")
    is_plain = (
        bool(file)
        and len(file) <= 255
        and not any(part in {"", ".", ".."} for part in parts)
        and "\\" not in file
        and ":" not in file
        and file.isprintable()
    )
    if not is_plain:
        raise UnsafePath(
            f"the path {file!r} is not allowed in a bundle: expected a relative path below the "
            "folder with forward slashes, such as 'model.onnx'. Do not load this bundle unless "
            "you trust its origin; export it again."
        )
    return file


def resolve_inside(folder: str | os.PathLike[str], file: str) -> Path:
    """Return the absolute path of an existing plain file of a bundle.

    The folder itself may be reached over a symbolic link; nothing below it may be one.

    Raises:
        UnsafePath: if the path leads out of the folder, over a symbolic link, or to something
            that is not a regular file.
        MissingArtifact: if there is no such file.
    """
    check_relative(file)
    try:
        root = Path(folder).resolve(strict=True)
        expected = root / file
        resolved = expected.resolve(strict=True)
        mode = resolved.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        if os.path.islink(Path(folder) / file):  # noqa: PTH114 - the method raises where it may not look
            raise _unsafe_link(folder, file) from error
        raise MissingArtifact(
            f"{Path(folder) / file} does not exist or cannot be reached "
            f"({getattr(error, 'strerror', None) or error}). "
            "Give the folder that `edgeseg export` wrote, with all of its files."
        ) from error
    if resolved != expected:
        raise _unsafe_link(folder, file)
    if not stat.S_ISREG(mode):
        raise UnsafePath(
            f"{resolved} is not a regular file; a bundle holds plain files only. Export it again."
        )
    return resolved


def read_verified(
    folder: str | os.PathLike[str],
    file: str,
    *,
    size_bytes: int,
    sha256: str,
    verify: bool = True,
) -> bytes:
    """Return the content of a bundle's file, read once and checked.

    The size is compared before anything is read, so that a wrong file cannot exhaust memory.

    Args:
        folder: the bundle.
        file: path relative to the folder.
        size_bytes: recorded size; always compared.
        sha256: recorded digest, lower-case hexadecimal.
        verify: compare the digest too.

    Raises:
        CorruptArtifact: if the size or the digest differs.
        MissingArtifact: if the file does not exist.
        UnsafePath: see `resolve_inside`.
    """
    data = read_limited(folder, file, expected_bytes=size_bytes)
    if verify:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CorruptArtifact(file, f"sha256 {sha256}", f"sha256 {found}")
    return data


def read_limited(
    folder: str | os.PathLike[str],
    file: str,
    *,
    expected_bytes: int | None = None,
    max_bytes: int | None = None,
) -> bytes:
    """Return the content of a bundle's file whose size is known or bounded.

    Raises:
        CorruptArtifact: if the size is not `expected_bytes`, or exceeds `max_bytes`.
        MissingArtifact: if the file does not exist or may not be read.
        UnsafePath: see `resolve_inside`.
    """
    path = resolve_inside(folder, file)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            _check_size(file, size, expected_bytes, max_bytes)
            data = stream.read(size + 1)
    except OSError as error:
        raise MissingArtifact(
            f"{path} cannot be read ({error.strerror}). Check its permissions and the disk."
        ) from error
    _check_size(file, len(data), expected_bytes, max_bytes)  # it may have grown in the meantime
    return data


def write_atomic(path: str | os.PathLike[str], data: Content) -> Path:
    """Write a file so that a reader, or a power cut, sees either the old or the new content.

    The data goes to a temporary file in the same folder, is flushed to the disk and renamed.

    Raises:
        OSError: if the disk is full or the folder is read-only; no temporary file is left.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(target)
    except OSError as error:  # of a full disk, say, where Python names no file
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, os.fspath(target)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return target


def write_synced(path: Path, data: Content) -> None:
    """Write a file that does not exist yet, and flush it to the disk."""
    with path.open("xb") as stream:
        stream.writelines([data] if isinstance(data, bytes) else data)
        stream.flush()
        os.fsync(stream.fileno())


def listed(names: Sequence[str], *, most: int = 3) -> str:
    """Return the first names, separated by commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def try_lock(stream: IO[bytes]) -> bool:
    """Lock an open file, until it is closed or the process ends; False if another one holds it.

    Raises:
        OSError: if the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    else:
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def lock(stream: IO[bytes]) -> None:
    """Lock an open file as soon as nobody else holds it; see `try_lock`."""
    if sys.platform == "win32":
        while not try_lock(stream):
            time.sleep(0.1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX)


def _check_size(file: str, size: int, expected_bytes: int | None, max_bytes: int | None) -> None:
    if expected_bytes is not None and size != expected_bytes:
        raise CorruptArtifact(file, f"{expected_bytes} bytes", f"{size} bytes")
    if max_bytes is not None and size > max_bytes:
        raise CorruptArtifact(file, f"at most {max_bytes} bytes", f"{size} bytes")


def _unsafe_link(folder: str | os.PathLike[str], file: str) -> UnsafePath:
    return UnsafePath(
        f"{Path(folder) / file} is a symbolic link or lies behind one; a bundle holds plain files "
        "only. Copy the bundle with the links resolved (cp -rL)."
    )


def sync_folder(folder: Path) -> None:
    """Flush a rename to the disk; only POSIX can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
