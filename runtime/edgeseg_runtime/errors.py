"""Everything that edgeseg raises when something goes wrong in the field.

    EdgesegError                      exit code 1
    +-- BundleError                   exit code 3   the folder on disk is not what was exported
    |   +-- ManifestError                           manifest.json is missing, malformed or contradicts itself
    |   |   +-- SchemaTooNew                        written by a newer edgeseg
    |   +-- CorruptArtifact                         a file differs from its recorded size or sha256
    |   +-- MissingArtifact                         a file of the bundle does not exist
    |   +-- UnsafeModel                             a model with something that no bundle may hold
    |   +-- UnsafePath                              a path that leads out of the folder, or is not a plain file
    |   +-- OutputContractError                     the model's outputs are not those of the manifest
    +-- InputError                    exit code 2   what the caller handed in
    |   +-- ImageError                              not a picture that can be used
    |   |   +-- ImageTooLarge                       more pixels than the limit allows
    |   +-- SourceError                             a folder, video or camera that gives no pictures
    |   |   +-- BrokenSource        exit code 1   a video that cannot be decoded, a camera that is gone
    |   +-- InputContractError                      input tensors that are not those of the manifest
    +-- BackendError                  exit code 4   the engine, its library or its device
        +-- BackendUnavailable                      not installed, or not usable on this machine
        +-- EngineBuildError                        the engine refused to compile the model
        +-- DeviceLost                              the device failed; the process must restart
        +-- NonFiniteOutput                         the model gave NaN or infinite numbers (strict mode)
        +-- OutOfMemory               exit code 5   host or device memory is exhausted

A message says what was found, what was expected and what to do. Exceptions of vendors
(onnxruntime, tensorrt, cv2) are translated once, where the vendor is called. A wrong
argument in the caller's own code is a plain `ValueError` or `TypeError`.
"""

# ruff: noqa: N818  - the names say what happened; the tree says that they are errors

from __future__ import annotations

from typing import ClassVar

from edgeseg_runtime.text import printable

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "BrokenSource",
    "BundleError",
    "CorruptArtifact",
    "DeviceLost",
    "EdgesegError",
    "EngineBuildError",
    "ImageError",
    "ImageTooLarge",
    "InputContractError",
    "InputError",
    "ManifestError",
    "MissingArtifact",
    "NonFiniteOutput",
    "OutOfMemory",
    "OutputContractError",
    "SchemaTooNew",
    "SourceError",
    "UnsafeModel",
    "UnsafePath",
]


class EdgesegError(Exception):
    """Base of all errors raised by edgeseg.

    Attributes:
        exit_code: what the command line exits with: 1 a check failed, 2 usage, 3 corrupt
            artifact, 4 engine or device missing, 5 out of memory.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """The message, which may quote files of strangers, in characters that can be printed."""
        return printable(super().__str__())


class BundleError(EdgesegError):
    """The bundle on disk is not what was exported."""

    exit_code = 3


class ManifestError(BundleError):
    """The manifest is missing, malformed or contradicts itself."""


class SchemaTooNew(ManifestError):
    """The manifest was written by a newer edgeseg than this one."""


class CorruptArtifact(BundleError):
    """A file of the bundle differs from what the manifest recorded.

    Attributes:
        file: name of the file inside the bundle.
        expected: the recorded property, such as "sha256 12ab...".
        found: the same property of the file on disk.
    """

    def __init__(self, file: str, expected: str, found: str) -> None:
        super().__init__(
            f"{file} is damaged: expected {expected}, found {found}. "
            "Copy the bundle again from where it was exported, or export it again."
        )
        self.file = file
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[type[CorruptArtifact], tuple[str, str, str]]:
        return type(self), (self.file, self.expected, self.found)


class MissingArtifact(BundleError):
    """A file that the manifest lists does not exist."""


class UnsafeModel(BundleError):
    """A model with something that no bundle may hold, such as a reference to another file."""


class UnsafePath(BundleError):
    """A path in a manifest that leads out of the bundle, or to something other than a plain file."""


class OutputContractError(BundleError):
    """The model's outputs differ from the manifest's in name, dtype or shape."""


class InputError(EdgesegError):
    """What the caller handed in cannot be used."""

    exit_code = 2


class ImageError(InputError):
    """The picture cannot be read, or has the wrong layout."""


class ImageTooLarge(ImageError):
    """The picture has more pixels than the limit allows."""


class SourceError(InputError):
    """A source of pictures does not exist or gives none."""


class BrokenSource(SourceError):
    """A source exists, but its frames cannot be had, or no more of them."""

    exit_code = 1


class InputContractError(InputError):
    """Input tensors differ from the manifest's in name, dtype or shape."""


class BackendError(EdgesegError):
    """An engine failed."""

    exit_code = 4


class BackendUnavailable(BackendError):
    """The engine's library is not installed, or not usable on this machine."""


class EngineBuildError(BackendError):
    """The engine refused to compile the model."""


class DeviceLost(BackendError):
    """The device failed in a way that only a new process recovers from."""


class NonFiniteOutput(BackendError):
    """The model gave NaN or infinite numbers, and was loaded in strict mode."""


class OutOfMemory(BackendError):
    """Host or device memory is exhausted."""

    exit_code = 5
