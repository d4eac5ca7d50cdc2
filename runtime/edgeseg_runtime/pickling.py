"""What becomes of a loaded model that is pickled, as for a worker process, or copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgeseg_runtime.bundle.files import read_limited
from edgeseg_runtime.bundle.manifest import FILE_NAME
from edgeseg_runtime.bundle.strict_json import MAX_BYTES
from edgeseg_runtime.errors import BundleError, MissingArtifact

__all__ = ["Origin", "Unpicklable"]

_PATHS = ("engines_folder", "profile")
_LEFT_BEHIND = ("progress",)


class Unpicklable:
    """Base of what holds an engine or its memory, which belong to this process."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} can be neither pickled nor copied: it holds what an engine keeps in "
            "this process. Pickle the predictor that edgeseg_runtime.load returned, or send the "
            "bundle's path and call edgeseg_runtime.load in the other process"
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a predictor came from: what another process needs to load the same.

    Attributes:
        folder: absolute path of the bundle.
        manifest_sha256: of the manifest's file, which holds the digests of all others.
        options: keywords of `load`.
    """

    folder: str
    manifest_sha256: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, folder: str | os.PathLike[str], options: Mapping[str, Any]) -> Origin:
        """Return the origin of a bundle that was loaded with these options.

        Paths become absolute, since the other process may work in another folder. What watches
        the loading stays behind.
        """
        kept = {key: value for key, value in options.items() if key not in _LEFT_BEHIND}
        for key in _PATHS:
            if kept.get(key) is not None:
                kept[key] = str(Path(kept[key]).absolute())
        return cls(
            folder=str(Path(folder).absolute()),
            manifest_sha256=_manifest_sha256(folder),
            options=kept,
        )

    def check(self) -> None:
        """Refuse a folder that holds another bundle by now.

        Raises:
            BundleError: if it does, or it is gone.
        """
        try:
            found = _manifest_sha256(self.folder)
        except MissingArtifact as error:
            raise BundleError(
                f"there is no bundle at {self.folder}, where the pickled predictor was loaded from. The "
                "path must lead to it in this process, too: on this machine, in this container"
            ) from error
        if found != self.manifest_sha256:
            raise BundleError(
                f"{self.folder} is not the bundle that the pickled predictor was loaded from: sha256 of "
                f"its manifest {self.manifest_sha256[:12]} expected, {found[:12]} found. Load the "
                "new bundle, and pickle its predictor"
            )


def _manifest_sha256(folder: str | os.PathLike[str]) -> str:
    return hashlib.sha256(read_limited(folder, FILE_NAME, max_bytes=MAX_BYTES)).hexdigest()
