"""A hidden folder for what is not finished; that of a killed process is cleared by the next one.

The folder, `.NAME.XXXXXXXX.partial`, holds a file that its process keeps locked. The system forgets
the lock of a process that ends, however it ends, and never that of one that runs, whatever the
clock says.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from edgeseg_runtime.bundle.files import try_lock

__all__ = ["clear", "settle_leftovers", "workshop"]

LOCK = "edgeseg.lock"

Settle = Callable[[Path], None]
"""Leaves nothing but the lock in a hidden folder, in whatever state a process left it."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def workshop(place: Path, settle: Settle) -> Iterator[Path]:
    """Give a hidden folder beside a path, ours until the block ends; `settle` then empties it.

    Raises:
        OSError: if the folder above cannot be written.
    """
    work, lock = _locked_work(place)
    try:
        yield work
    finally:
        _settle(work, settle)
        lock.close()
        _remove(work)


def settle_leftovers(place: Path, settle: Settle) -> None:
    """Settle and remove the hidden folders beside a path whose processes are gone."""
    pattern = f".{glob.escape(place.name)}.{'[0-9a-f]' * 8}.partial"
    for work in sorted(place.parent.glob(pattern)):
        if work.is_symlink():  # not ours: what it leads to would be cleared
            continue
        try:
            with (work / LOCK).open("r+b") as lock:
                if not _is_ours(lock, work):
                    continue
                _settle(work, settle)
        except FileNotFoundError:
            pass  # cut off before the lock was made, or after it was removed: nothing is in it
        except OSError as error:
            _log.warning("%s was left by a killed process and is not removed: %s", work, error)
            continue
        _remove(work)


def clear(work: Path) -> None:
    """Remove what is in a hidden folder: the `settle` of one that holds nothing of value."""
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _locked_work(place: Path) -> tuple[Path, IO[bytes]]:
    """Return a new hidden folder and its lock; who finds it before it is locked may remove it."""
    while True:
        work = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
        work.mkdir()
        try:
            lock = (work / LOCK).open("xb")
        except FileNotFoundError:
            continue
        try:
            is_ours = _is_ours(lock, work)
        except OSError:  # a file system without locks: nobody else gets this one either
            is_ours = True
        if is_ours:
            return work, lock
        lock.close()


def _is_ours(lock: IO[bytes], work: Path) -> bool:
    """Lock the file; tell whether that worked and it is still the one that others would find."""
    if not try_lock(lock):
        return False
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock.fileno()), (work / LOCK).stat())
    return False


def _settle(work: Path, settle: Settle) -> None:
    try:
        settle(work)
    except OSError as error:
        _log.warning("%s holds what is not finished and cannot be removed: %s", work, error)


def _remove(work: Path) -> None:
    with contextlib.suppress(OSError):
        if {path.name for path in work.iterdir()} <= {LOCK}:
            (work / LOCK).unlink(missing_ok=True)
            work.rmdir()
