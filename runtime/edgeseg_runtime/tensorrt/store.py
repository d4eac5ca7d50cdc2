"""The folder of compiled engines: a private cache, trusted only as far as its records go.

An engine (NVIDIA: "plan") is native code. Whoever can write one can run anything, and TensorRT's
own validity check does not notice a changed one. Therefore

* a bundle ships ONNX, and an engine is loaded only from a folder that the user alone can write:
  the cache `$EDGESEG_CACHE`, or `~/.cache/edgeseg/engines` (mode 0700), or a folder that the caller
  names and so vouches for (`engines_folder=`, the output of `edgeseg build --out`). An engine that
  merely lies in a bundle is not looked at;
* beside each engine lies a record (`.json`) of its key and sha256, written last. An engine without
  a record, with another digest, or for another model, version, GPU or driver is not loaded;
* the file holds the plan and nothing else, so that trtexec and other tools can read it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg_runtime.bundle.files import lock, read_limited, read_verified, try_lock, write_atomic
from edgeseg_runtime.bundle.manifest import Artifact
from edgeseg_runtime.errors import BundleError
from edgeseg_runtime.tensorrt.key import EngineKey, EngineOptions

__all__ = [
    "EngineFile",
    "cache_folder",
    "check_writable",
    "discard_engine",
    "find_engine",
    "is_private",
    "list_engines",
    "locked",
    "store_engine",
]

RECORD_SCHEMA = 1
MAX_RECORD_BYTES = 64 * 1024

_IGNORED = "ignoring the cached engine %s: %s"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine that was built or found.

    Attributes:
        key: what it was made for.
        path: its file, or None if no folder could be written.
        sha256: digest of the plan.
        size_bytes: size of the plan.
        build_s: seconds that the build took; 0 if it was found in the cache.
        is_new: whether it was built just now.
        graphs: of the bundle it was built for; set by `engines.build_bundle`.
    """

    key: EngineKey
    path: Path | None
    sha256: str
    size_bytes: int
    build_s: float = 0.0
    is_new: bool = False
    graphs: tuple[str, ...] = ()


def find_engine(folder: Path, wanted: EngineKey) -> tuple[bytes, EngineFile] | None:
    """Return a plan from a folder that serves the wanted key and is as recorded, or None.

    A damaged one is reported in the log and passed over; building replaces it. That the folder can
    be trusted is the caller's concern: who can write there can replace engine and record together.
    """
    pattern = f"{wanted.onnx_sha256[:16]}.{wanted.flavour}-*.engine.json"
    for key, artifact in _records(folder, pattern):
        if not key.serves(wanted):
            continue
        try:
            plan = read_verified(
                folder, artifact.file, size_bytes=artifact.size_bytes, sha256=artifact.sha256
            )
        except BundleError as error:
            _logger.warning(_IGNORED, artifact.file, error)
            continue
        return plan, _engine_file(folder, key, artifact)
    return None


def list_engines(folder: Path, onnx_sha256: str) -> list[EngineFile]:
    """Return the engines of a model in a folder, whatever they were built for.

    Only their records are read; whether a plan is as recorded is checked when it is loaded.
    """
    records = _records(folder, f"{onnx_sha256[:16]}.*.engine.json")
    return [_engine_file(folder, key, artifact) for key, artifact in records]


def store_engine(folder: Path, key: EngineKey, plan: bytes) -> Path | None:
    """Write an engine and then its record; return the engine's path, or None if that failed.

    The caller holds the folder's lock. A process that dies in the middle leaves an engine
    without a valid record, which is never loaded, and a temporary file that the next writer removes.
    """
    name = key.file_name
    path = folder / name
    record = {
        "schema": RECORD_SCHEMA,
        "key": dataclasses.asdict(key),
        "file": name,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "size_bytes": len(plan),
    }
    try:
        for litter in folder.glob(f".{name}*.tmp"):
            litter.unlink(missing_ok=True)
        _record_path(path).unlink(missing_ok=True)
        write_atomic(path, plan)
        write_atomic(_record_path(path), (json.dumps(record, indent=2) + "\n").encode("utf-8"))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _logger.warning(
            "the engine is not kept, because %s cannot be written (%s): it will be built again "
            "next time. Free some space, or set EDGESEG_CACHE to another folder.",
            folder,
            error.strerror or error,
        )
        return None
    return path


def discard_engine(engine: EngineFile) -> None:
    """Remove an engine that its library refused; its record goes first."""
    if engine.path is not None:
        with contextlib.suppress(OSError):
            _record_path(engine.path).unlink(missing_ok=True)
            engine.path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return where engines are kept: $EDGESEG_CACHE, or the user's cache folder.

    It is not created here.
    """
    chosen = os.environ.get("EDGESEG_CACHE")
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(base or Path.home() / ".cache") / "edgeseg" / "engines"
    except RuntimeError:  # no home folder: a service account, or a user without a passwd entry
        return Path(os.devnull) / "engines"


def is_private(folder: Path) -> bool:
    """Tell whether only this user (or root) can change what is in a folder.

    One that does not exist yet counts as private: it is created with mode 0700.
    """
    try:
        status = folder.stat()
    except OSError:
        return True
    if os.name != "posix":  # Windows: the profile's access list protects the cache
        return True
    owned = status.st_uid in {0, os.getuid()}
    if owned and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    _logger.warning(
        "engines in %s are not used, because others can write there; run: chmod 700 %s",
        folder,
        folder,
    )
    return False


def check_writable(folder: Path) -> None:
    """Raise OSError now rather than after a long build."""
    probe = folder / f".{os.getpid()}.probe"
    probe.touch()
    probe.unlink()


@contextlib.contextmanager
def locked(folder: Path, *, needs_privacy: bool) -> Iterator[bool]:
    """Hold a folder's lock; yields False, with a warning, if the folder cannot be used.

    The lock is the operating system's, so it ends with its process, however that ends.
    """
    with contextlib.ExitStack() as stack:
        is_usable = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not needs_privacy or is_private(folder):
                stream = stack.enter_context((folder / ".lock").open("ab"))
                if not try_lock(stream):
                    _logger.info("waiting for another process that builds an engine")
                    lock(stream)
                is_usable = True
        except OSError as error:
            _logger.warning(
                "engines cannot be kept in %s (%s): building in memory. Set EDGESEG_CACHE to a "
                "folder that can be written.",
                folder,
                error.strerror or error,
            )
        yield is_usable


def _records(folder: Path, pattern: str) -> Iterator[tuple[EngineKey, Artifact]]:
    """Yield what the records of a pattern say, in the order of their names; skip what is not a record."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.match(pattern))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        _logger.warning("the engines in %s cannot be looked at: %s", folder, error.strerror)
        return
    for name in names:
        try:
            record = _read_record(folder, name)
        except (BundleError, ValueError, TypeError, KeyError) as error:
            _logger.warning(_IGNORED, name, error)
            continue
        yield record


def _engine_file(folder: Path, key: EngineKey, artifact: Artifact) -> EngineFile:
    return EngineFile(
        key=key,
        path=folder / artifact.file,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
    )


def _record_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def _read_record(folder: Path, name: str) -> tuple[EngineKey, Artifact]:
    """Read a record.

    Raises:
        BundleError: if it cannot be read, or names a path out of the folder.
        ValueError, TypeError, KeyError: if it is not a record of this schema.
    """
    document = json.loads(read_limited(folder, name, max_bytes=MAX_RECORD_BYTES))
    if document["schema"] != RECORD_SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, expected {RECORD_SCHEMA}")
    key = dict(document["key"])
    key["targets"] = tuple(key["targets"])
    key["options"] = EngineOptions(**key["options"])
    key["buckets"] = tuple(key.get("buckets", ()))
    artifact = Artifact(
        file=document["file"], sha256=document["sha256"], size_bytes=document["size_bytes"]
    )
    return EngineKey(**key), artifact
