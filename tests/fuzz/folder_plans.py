"""Folders as strangers and accidents leave them: a plan of steps, and what is on the disk before and after.

A plan is JSON, so that one that breaks something can be kept, read and run again. Paths are relative to
a stage, a folder that holds everything: what is tried, and beside it what nobody may touch.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import posixpath
import random
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Step = list[Any]
Plan = dict[str, Any]

BESIDE = {"beside/secret.txt": b"nobody's business", "beside/more/notes.txt": b"years of work"}
"""Files on every stage that what is tried has nothing to do with."""
NAMES = (
    "a",
    "x.jpg",
    "\udcff.png",
    "\udce9t\udce9",
    "new\nline.jpg",
    "\x1b[2J.png",
    "-q",
    "--out",
    ".hidden",
)
NAMES += (
    "a b",
    "\u202egnp.exe",
    "e\u0301",
    "n" * 255,
    "con",
    "model.onnx ",
    "*",
    "[a]",
    "~",
    "$HOME",
    "0",
    "1",
)
"""Names that a file may have, some of them not in UTF-8."""
TARGETS = (
    "/dev/zero",
    "/dev/null",
    "/etc/passwd",
    "/",
    "..",
    ".",
    "loop",
    "nowhere",
    "../beside/secret.txt",
)
TARGETS += ("../beside", "../../beside", "/proc/self/mem", "/dev/stdin")
SIZES = (0, 1, 308, 2**16, 2**22, 2**22 + 1, 2**31, 2**33, 2**40)
NOBODY = 65534


def encoded(files: dict[str, bytes], steps: list[Step], **rest: Any) -> bytes:
    """Return a plan that begins with files."""
    first = [["write", name, base64.b64encode(content).decode()] for name, content in files.items()]
    return json.dumps({**rest, "steps": [*first, *steps]}).encode()


def random_steps(rng: random.Random, paths: list[str]) -> list[Step]:
    """Return changes of some of the files, or of folders above them, or of what is beside them."""
    steps: list[Step] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        path = rng.choice(paths)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            path = posixpath.dirname(path) or path
        if rng.random() < 0.25:
            path = posixpath.join(posixpath.dirname(path), rng.choice(NAMES))
        other = rng.choice(
            (rng.choice(paths), posixpath.join(posixpath.dirname(path), rng.choice(NAMES)))
        )
        steps += rng.choice(
            (
                [["remove", path]],
                [["remove", path], ["folder", path]],
                [["remove", path], ["pipe", path]],
                [["remove", path], ["link", path, rng.choice(TARGETS)]],
                [
                    ["remove", path],
                    ["link", path, posixpath.relpath(other, posixpath.dirname(path) or ".")],
                ],
                [["remove", path], ["hard", path, rng.choice(("beside/secret.txt", other))]],
                [
                    ["rename", path, f"{path}.real"],
                    ["link", path, f"{posixpath.basename(path)}.real"],
                ],
                [["rename", path, other]],
                [["copy", path, other]],
                [["size", path, rng.choice(SIZES)]],
                [["size", path, rng.randrange(2000)]],
                [["flip", path, rng.randrange(2000), rng.randrange(8)]],
                [["mode", path, rng.choice((0, 0, 0o111, 0o222, 0o444, 0o555))]],
                [["write", other, base64.b64encode(rng.randbytes(20)).decode()]],
            )
        )
    return steps


@contextlib.contextmanager
def stage(plan: Plan) -> Iterator[Path]:
    """Give a folder in which a plan was carried out, as far as that is possible."""
    shared = Path("/dev/shm")
    above = shared if os.access(shared, os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="fuzz_", dir=above)).resolve()
    root.chmod(0o777)
    try:
        for path, content in BESIDE.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        for step in plan["steps"]:
            with contextlib.suppress(OSError, shutil.Error):
                _carry_out(root, *step)
        yield root
    finally:
        _make_removable(root)
        shutil.rmtree(root, ignore_errors=True)


def _carry_out(root: Path, action: str, name: str, *values: Any) -> None:
    path = _on_stage(root, name)
    if action == "write":
        _without_link(path).write_bytes(base64.b64decode(values[0]))
    elif action == "folder":
        path.mkdir(exist_ok=True)
    elif action == "pipe":
        os.mkfifo(path)
    elif action == "link":
        path.symlink_to(values[0])
    elif action == "hard":
        path.hardlink_to(_without_link(_on_stage(root, values[0])))
    elif action == "rename":
        path.rename(_on_stage(root, values[0]))
    elif action == "copy":
        shutil.copy(_plain(path), _without_link(_on_stage(root, values[0])))
    elif action == "remove":
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif action == "mode":
        _without_link(path).chmod(values[0])
    elif action == "size":
        os.truncate(_plain(path), values[0])
    elif action == "flip":
        _flip(_plain(path), *values)


def _flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)


def _on_stage(root: Path, name: str) -> Path:
    """Return a path that does not lead off the stage, and make the folders above it."""
    path = root / name
    folder = Path(os.path.realpath(path.parent))
    if folder != root and root not in folder.parents:
        raise PermissionError(f"{name} leads off the stage")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / path.name


def _without_link(path: Path) -> Path:
    if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
        raise PermissionError(f"{path} may lead off the stage, or wait for somebody")
    return path


def _plain(path: Path) -> Path:
    """Return the path of a file that is small enough to be read."""
    if not _without_link(path).is_file() or path.stat().st_size > 2**20:
        raise PermissionError(f"{path} is not a small file")
    return path


def _make_removable(root: Path) -> None:
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755)


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is on a stage: of each file its kind, size and content, of each link its target."""
    with _as_user(os.getuid()):  # who may see everything
        return _seen(root)


def _seen(root: Path) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            content: Any = None
            if stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(status.st_mode) and status.st_size < 2**20:
                content = path.read_bytes()
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[str(path.relative_to(root))] = (status.st_mode, size, content)
    return found


@contextlib.contextmanager
def as_somebody_else(is_wanted: bool) -> Iterator[None]:
    """Let an administrator, who may read everything, be somebody who may not."""
    with _as_user(NOBODY if is_wanted and os.getuid() == 0 else os.geteuid()):
        yield


@contextlib.contextmanager
def _as_user(number: int) -> Iterator[None]:
    before = os.geteuid()
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(before)
