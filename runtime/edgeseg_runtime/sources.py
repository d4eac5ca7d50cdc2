"""Frames from a picture, a folder, a pattern, a video, a camera or a network stream."""

from __future__ import annotations

import glob
import logging
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeseg_runtime.errors import ImageError, SourceError
from edgeseg_runtime.image import Image, read_image

__all__ = ["PICTURE_SUFFIXES", "Frame", "Source"]

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_MAX_FAILURES = 30  # broken frames in a row, after which a source counts as dead
_MAX_RECONNECTS = 6
_FIRST_PAUSE_S = 0.25
_TIMEOUT_MS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        index: number of the frame in its source, counting those that were skipped.
        name: path of the picture, or of the video or camera with the frame's number.
    """

    image: Image
    index: int
    name: str


class Source:
    """Iterates over the frames of a source; can be iterated again.

    Damaged pictures and frames are skipped, logged and counted; a source of a single picture
    raises instead. A camera or network stream that breaks off is opened again, at growing
    intervals. Setting `stop` (from a signal handler, say) ends the iteration after the current
    frame.

    Args:
        source: path of a picture, folder or video; a pattern such as "images/*.jpg"; the number of
            a camera (int or digits); a URL such as "rtsp://...".
        stop: ends the iteration when it is set.

    Attributes:
        num_skipped: frames skipped so far because they could not be decoded.

    Raises:
        SourceError: if there is nothing to read.
    """

    def __init__(
        self, source: str | int | os.PathLike[str], *, stop: threading.Event | None = None
    ) -> None:
        self.name = str(source) if isinstance(source, int) else os.fspath(source)
        self.num_skipped = 0
        self._stop = stop or threading.Event()
        self._is_live = self.name.isdecimal() or "://" in self.name
        self._paths = [] if self._is_live else _paths(self.name)
        self._is_single = not self._is_live and Path(self.name).is_file()

    @property
    def kind(self) -> str:
        """What is read: "pictures", "video" (a file) or "live" (a camera or network stream)."""
        if self._is_live:
            return "live"
        is_picture = Path(self.name).suffix.lower() in PICTURE_SUFFIXES
        return "video" if self._is_single and not is_picture else "pictures"

    @property
    def num_frames(self) -> int | None:
        """Frames to expect, as far as a video's header tells; None if that is not known."""
        if self.kind == "pictures":
            return len(self._paths)
        return round(self._header(cv2.CAP_PROP_FRAME_COUNT)) or None

    @property
    def frames_per_second(self) -> float | None:
        """Speed at which a video is played; None if that is not known."""
        return self._header(cv2.CAP_PROP_FPS) or None

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.num_skipped} skipped)"

    def __iter__(self) -> Iterator[Frame]:
        return {"live": self._live, "video": self._video, "pictures": self._pictures}[self.kind]()

    def _pictures(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._stop.is_set():
                return
            image = self._picture(path)
            if image is not None:
                yield Frame(image=image, index=index, name=path)

    def _picture(self, path: str) -> Image | None:
        try:
            return read_image(path)
        except ImageError as error:
            if self._is_single:
                raise
            self._skip(str(error))
            return None

    def _video(self) -> Iterator[Frame]:
        capture = _open_capture(self.name)
        try:
            yield from self._captured(capture, 0)
        finally:
            capture.release()

    def _live(self) -> Iterator[Frame]:
        """Yield frames until `stop` is set; open the device again when it breaks off."""
        index = 0
        num_failed = 0
        while not self._stop.is_set():
            try:
                capture = _open_capture(self.name)
            except SourceError:
                num_failed += 1
                if index == 0 or num_failed > _MAX_RECONNECTS:
                    raise
            else:
                try:
                    for frame in self._captured(capture, index):
                        index = frame.index + 1
                        num_failed = 0
                        yield frame
                finally:
                    capture.release()
                num_failed += 1
            if num_failed > _MAX_RECONNECTS:
                raise SourceError(f"{self.name} gives no frames any more. Check the camera.")
            _log.warning("%s broke off after frame %d; opening it again", self.name, index)
            self._stop.wait(_FIRST_PAUSE_S * 2**num_failed)

    def _captured(self, capture: cv2.VideoCapture, first_index: int) -> Iterator[Frame]:
        """Yield the frames of an open capture until it ends or `stop` is set."""
        index = first_index
        num_failures = 0
        while not self._stop.is_set() and capture.grab():
            is_decoded, image = capture.retrieve()
            if is_decoded and image.size:
                num_failures = 0
                yield Frame(
                    image=np.asarray(image, np.uint8), index=index, name=f"{self.name}#{index}"
                )
            else:
                num_failures += 1
                self._skip(f"frame {index} of {self.name} cannot be decoded")
            if num_failures >= _MAX_FAILURES:
                raise SourceError(
                    f"{self.name} gave {num_failures} broken frames in a row. "
                    "Check the cable, the file or the network."
                )
            index += 1

    def _header(self, what: int) -> float:
        """Return a property of a video file, 0 if it has none."""
        if self.kind != "video":
            return 0.0
        capture = _open_capture(self.name)
        try:
            value = capture.get(what)
        finally:
            capture.release()
        return value if math.isfinite(value) and value > 0 else 0.0

    def _skip(self, reason: str) -> None:
        self.num_skipped += 1
        _log.warning("skipped: %s", reason)


def _paths(name: str) -> list[str]:
    """Return the files of a path or pattern, sorted by name."""
    path = Path(name)
    if path.is_file():
        return [name]
    if path.is_dir():
        paths = [str(file) for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        if not paths:
            raise SourceError(
                f"the folder {name} holds no pictures; expected files ending in "
                f"{', '.join(sorted(PICTURE_SUFFIXES))}"
            )
        return sorted(paths)
    found = glob.glob(name, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    paths = [file for file in found if Path(file).is_file()]
    if not paths:
        raise SourceError(
            f"{name} does not exist; expected a picture, a folder, a pattern such as 'images/*.jpg', "
            "a video, the number of a camera, or a URL"
        )
    return sorted(paths)


def _open_capture(name: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture()
    if name.isdecimal():
        is_open = capture.open(int(name))
    elif "://" in name:
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            _TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            _TIMEOUT_MS,
        ]
        is_open = capture.open(name, cv2.CAP_FFMPEG, timeouts)
    else:
        is_open = capture.open(name)
    if not is_open:
        kind = "camera" if name.isdecimal() else "video"
        raise SourceError(
            f"the {kind} {name} cannot be opened. Check that it exists, is not in use, and that "
            "OpenCV can decode it"
        )
    return capture
