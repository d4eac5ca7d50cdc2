"""Puts a finished bundle in its place: whole, in one step, and without losing what else lies there.

A bundle is made in a hidden folder beside its place (see `edgeseg_runtime.workshop`), which holds

    new/    the bundle in the making; nothing in it exists only there
    old/    what is being replaced, or is about to be

An export ends by settling its hidden folder. What one that was killed left, the next one settles
in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from edgeseg_runtime.bundle.files import sync_folder
from edgeseg_runtime.bundle.manifest import FILE_NAME, Manifest
from edgeseg_runtime.errors import BundleError
from edgeseg_runtime.workshop import clear, settle_leftovers, workshop

NEW, OLD = "new", "old"
ENGINES = "engines"
"""Folder of compiled engines in a bundle. No manifest lists them; their names tell what each is for."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What a system or a file system answers that cannot let two folders change places."""


@contextlib.contextmanager
def new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to fill; it takes its place only if the block ends well.

    A bundle in that place is replaced in one step, so that whoever opens it finds the old one or
    the new one. Where the file system cannot do that (it is not Linux's, or an older NFS), the old
    one goes and the new one comes in two steps; a process that is killed between them leaves
    neither, and the next export to this folder puts the old one back.

    Of the old bundle, only what its manifest lists goes, and engines that the new one brings too.
    Other files are hard links in both for a moment. On a file system without links they come
    after the bundle, so that a kill in this moment hides them until the next export.

    Args:
        folder: must not exist, or be empty, or with ``overwrite`` be a bundle.
        overwrite: replace a bundle.

    Raises:
        FileExistsError: the folder holds something that is not to be replaced.
        OSError: the place cannot be written.
    """
    folder = _absolute(folder)
    check_folder(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with workshop(folder, functools.partial(_settle, folder)) as work:
        fresh = work / NEW
        fresh.mkdir()
        yield fresh
        check_folder(folder, overwrite=overwrite)
        if folder.exists():
            _keep_foreign(folder, fresh)
            _replace(folder, work)
        else:
            fresh.rename(folder)
        sync_folder(folder.parent)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place where no bundle may be put; settle first what a killed export left there.

    Raises:
        FileExistsError: the folder holds something that is not to be replaced.
        OSError: the place cannot be written.
    """
    place = _absolute(folder)
    if place.is_symlink():
        raise FileExistsError(
            f"{folder} is a symbolic link to {place.readlink()}; give the folder that it leads to, "
            "or another name for the bundle"
        )
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{folder} is not a folder; give another name for the bundle")
    settle_leftovers(place, functools.partial(_settle, place))
    _check_place(place)
    if not place.exists() or not any(place.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} is not empty; give another folder, or --overwrite")
    try:
        Manifest.load(place)
    except BundleError as error:
        raise FileExistsError(
            f"{folder} holds something else than a bundle and is not overwritten ({error}); give "
            "another folder, or remove this one yourself"
        ) from error


def _absolute(folder: Path) -> Path:
    """Return the path without links above it, so that what is beside it is on its file system."""
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve would follow the last link too
    return absolute.parent.resolve() / absolute.name


def _check_place(place: Path) -> None:
    """Refuse a folder that cannot change places with another one."""
    if Path.cwd().is_relative_to(place):
        raise FileExistsError(
            f"{place} is the working directory or holds it; give a folder below it, such as "
            f"{place / 'bundle'}"
        )
    if place.is_mount():
        raise FileExistsError(
            f"{place} is a mount point and cannot be exchanged as a whole; give a folder below it, "
            f"such as {place / 'bundle'}"
        )
    existing = next(path for path in place.parents if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            "no bundle can be made here, because the folder cannot be written; give a place in "
            "another one",
            str(existing),
        )


def _settle(folder: Path, work: Path) -> None:
    """Leave nothing in a hidden folder, in whatever state an export ended."""
    old = work / OLD
    if old.exists() and not folder.exists():
        old.rename(folder)  # ended between the two steps of an exchange
    elif old.exists():
        _return_foreign(old, folder)
    clear(work)


def _replace(folder: Path, work: Path) -> None:
    """Let the new folder and the old one change places; the old one is then in the hidden folder."""
    new, old = work / NEW, work / OLD
    shutil.copymode(folder, new)
    sync_folder(new)
    new.rename(old)
    try:
        _exchange(old, folder)
    except OSError as error:
        old.rename(new)
        if error.errno not in _NO_EXCHANGE:
            raise
        folder.rename(old)
        new.rename(folder)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders of a file system change places in one step.

    Raises:
        OSError: with one of `_NO_EXCHANGE` where there is no such call.
    """
    call = None
    if sys.platform == "linux":
        call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _keep_foreign(folder: Path, fresh: Path) -> None:
    """Link what an old bundle holds beside its own files into the new one.

    Raises:
        FileExistsError: the new bundle has a file of that name.
        OSError: another file system lies below the folder, or it cannot be written.
    """
    listed = _listed(folder)
    device = folder.stat().st_dev
    for path in (folder, *_walk(folder)):
        _check_movable(path, device)
        relative = path.relative_to(folder)
        target = fresh / relative
        if _is_folder(path):
            target.mkdir(exist_ok=True)
            shutil.copymode(path, target)
        elif relative.as_posix() in listed:
            continue
        elif not os.path.lexists(target):
            with contextlib.suppress(OSError):  # no links here: `_return_foreign` moves it
                os.link(path, target, follow_symlinks=False)
        elif not _is_engine(relative):
            raise FileExistsError(
                f"{path} is not listed by the bundle that is to be replaced, and the new one has a "
                "file of that name; rename yours"
            )


def _check_movable(path: Path, device: int) -> None:
    if path.lstat().st_dev != device:
        number, problem = errno.EXDEV, "another file system is mounted here; unmount it first"
    elif _is_folder(path) and not os.access(path, os.W_OK | os.X_OK):
        number, problem = errno.EACCES, "this folder cannot be written"
    else:
        return
    raise OSError(number, f"the old bundle cannot be replaced: {problem}", str(path))


def _return_foreign(old: Path, folder: Path) -> None:
    """Remove an old bundle, and move what is not its own into the one that took its place."""
    for name in _listed(old):  # the manifest comes last: a kill in between must find it
        (old / name).unlink(missing_ok=True)
    for path in sorted(_walk(old), reverse=True):  # what is in a folder comes before it
        relative = path.relative_to(old)
        target = folder / relative
        if _is_folder(path):
            path.rmdir()
        elif os.path.lexists(target) and (_is_same(path, target) or _is_engine(relative)):
            path.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(_free_name(target))
    old.rmdir()


def _is_same(one: Path, other: Path) -> bool:
    return os.path.samestat(one.lstat(), other.lstat())


def _free_name(path: Path) -> Path:
    """Return the path, or another one if its file changed while the bundles changed places."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(name for name in itertools.chain([path], numbered) if not os.path.lexists(name))


def _listed(folder: Path) -> list[str]:
    """Return the names of a bundle's own files, the manifest last; none if it has no manifest.

    A stranger's manifest may list what is a folder, or lies behind a link: that is not the bundle's.
    """
    if not (folder / FILE_NAME).exists():
        return []
    names = [artifact.file for artifact in Manifest.load(folder).artifacts.values()]
    return [name for name in names if _is_in(folder, name)] + [FILE_NAME]


def _is_in(folder: Path, name: str) -> bool:
    """Tell whether a name is that of a file, or a link, in a folder itself or in one below it."""
    path = folder / name
    above = itertools.takewhile(lambda parent: parent != folder, path.parents)
    is_behind_link = any(parent.is_symlink() for parent in above)
    return os.path.lexists(path) and not _is_folder(path) and not is_behind_link


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder, a folder before what is in it; links are not followed."""
    for root, folders, files in os.walk(folder, onerror=_raise):
        yield from (Path(root, name) for name in (*folders, *files))


def _raise(error: OSError) -> None:
    raise error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_engine(relative: Path) -> bool:
    return len(relative.parts) > 1 and relative.parts[0] == ENGINES
