"""Writes the results of a command: whole, and never over what the command did not write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType

from edgeseg_runtime.bundle.files import listed, sync_folder, write_synced
from edgeseg_runtime.workshop import clear, settle_leftovers, workshop

__all__ = ["OutputFolder"]


class OutputFolder:
    """A folder for results; a context manager in which files are written.

    A file appears under its name when it is complete. Until then it lies in a hidden folder below,
    which goes when the block ends, or when the next command opens the folder after a kill.

    Args:
        folder: is made when the block begins.
        names: of files that will be written, as far as they are known: what is there already is an
            error now rather than after the work.
        overwrite: replace files that are there.
        sources: files that are read, and are not replaced in any case.

    Raises:
        FileExistsError: a file of a name is there, or is a source.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        names: Iterable[str] = (),
        *,
        overwrite: bool = False,
        sources: Collection[str | os.PathLike[str]] = (),
    ) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._sources = {identity for path in sources if (identity := _identity(path))}
        self._written: set[str] = set()
        self._stack = contextlib.ExitStack()
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is not a folder; give another one with --out")
        self._check(names)

    def __enter__(self) -> OutputFolder:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "edgeseg"
        settle_leftovers(place, clear)
        self._work = self._stack.enter_context(workshop(place, clear))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        with contextlib.suppress(OSError):
            sync_folder(self.folder)

    def begin(self, name: str) -> Path:
        """Return where to write a file until `finish`; its name ends like the final one."""
        return self._work / name

    def finish(self, partial: Path) -> Path:
        """Put a complete file, whose content is on the disk, in its place; return its final path.

        Raises:
            FileExistsError: a file that is not to be replaced is there.
        """
        target = self.folder / partial.name
        self._check([partial.name])
        if self._overwrite or partial.name in self._written:
            partial.replace(target)
        else:
            _move(partial, target)
        self._written.add(partial.name)
        return target

    def write(self, name: str, data: bytes) -> Path:
        """Write a whole file and return its path.

        Raises:
            FileExistsError: a file that is not to be replaced is there.
            OSError: it cannot be written; names the file.
        """
        partial = self.begin(name)
        try:
            write_synced(partial, data)
        except OSError as error:  # of a full disk, say, where Python names no file
            raise OSError(error.errno, error.strerror, str(self.folder / name)) from error
        return self.finish(partial)

    def _check(self, names: Iterable[str]) -> None:
        """Refuse names of files that are there and are not to be replaced."""
        paths = [self.folder / name for name in names if name not in self._written]
        paths = [path for path in paths if os.path.lexists(path)]
        read = [path for path in paths if _identity(path) in self._sources]
        if read:
            raise FileExistsError(
                f"{listed([path.name for path in read])} in {self.folder} would be replaced, but that is what is read; "
                "give another folder with --out"
            )
        if paths and not self._overwrite:
            raise FileExistsError(
                f"{listed([path.name for path in paths])} in {self.folder} would be replaced; give another folder with "
                "--out, or --overwrite"
            )


def _move(partial: Path, target: Path) -> None:
    """Rename a file, but never over another one.

    Raises:
        FileExistsError: the target is there.
    """
    try:
        os.link(partial, target)
    except FileExistsError:
        raise FileExistsError(f"{target} has appeared in the meantime and is left alone") from None
    except OSError:  # a file system without links
        partial.replace(target)
    else:
        partial.unlink()


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what tells a file from all others, whatever its path; None if it is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
