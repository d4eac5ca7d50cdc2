"""Frames from a picture, a folder, a pattern, a video, a camera or a network stream."""

from __future__ import annotations

import glob
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeseg_runtime.errors import ImageError, SourceError
from edgeseg_runtime.image import Image, check_pixels, read_image

__all__ = ["PICTURE_SUFFIXES", "Frame", "Source", "pause_s_after"]

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a camera is opened again

_MAX_BROKEN = 30  # broken frames in a row, after which a source counts as dead
_TIMEOUT_MS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        index: number of the frame in its source. Where numbers are missing, frames are: damaged ones
            that were skipped, and what a camera saw until it was open again, one number for each
            attempt to open it.
        name: path of the picture, or of the video or camera with the frame's number.
    """

    image: Image
    index: int
    name: str


class Source:
    """Iterates over the frames of a source; can be iterated again.

    Damaged pictures and frames are skipped, logged and counted; a source of a single picture
    raises instead. A camera or network stream that breaks off, or gives damaged frames only, is
    opened again after 1 s, 2 s, 4 s and so on, at last every 30 s. Setting `stop` (from a signal
    handler, say) ends the iteration after the current frame.

    Args:
        source: path of a picture, folder or video; a pattern such as "images/*.jpg"; the number of
            a camera (int, or digits where no file or folder has that name); a URL such as
            "rtsp://...". A PathLike is always a path.
        stop: ends the iteration when it is set.
        max_reconnects: attempts in a row to open a camera or stream again before it counts as
            gone; 0 for none, None for no end.

    Attributes:
        num_skipped: frames skipped so far because they could not be decoded.
        num_reconnects: attempts so far to open a camera or stream again.

    Raises:
        SourceError: if there is nothing to read.
    """

    def __init__(
        self,
        source: str | int | os.PathLike[str],
        *,
        stop: threading.Event | None = None,
        max_reconnects: int | None = None,
    ) -> None:
        self.name = str(source) if isinstance(source, int) else os.fspath(source)
        self.num_skipped = 0
        self.num_reconnects = 0
        self._stop = stop or threading.Event()
        self._max_reconnects = max_reconnects
        self._is_camera = _is_camera(source)
        self._is_live = self._is_camera or (isinstance(source, str) and "://" in source)
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
        return self.frames()

    def frames(self, *, stop: threading.Event | None = None) -> Iterator[Frame]:
        """Yield the frames until the source's own `stop`, or this one too, is set."""
        events = _Events(self._stop, stop)
        if self.kind == "pictures":
            return self._pictures(events)
        return self._numbered(self._live(events) if self.kind == "live" else self._read(events))

    def _pictures(self, stop: _Events) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if stop.is_set():
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

    def _numbered(self, images: Iterator[Image | None]) -> Iterator[Frame]:
        for index, image in enumerate(images):
            if image is not None:
                yield Frame(image=image, index=index, name=f"{self.name}#{index}")

    def _live(self, stop: _Events) -> Iterator[Image | None]:
        """Yield what `_read` does; open the device again whenever it breaks off.

        Raises:
            SourceError: if it cannot be opened at first, or not any more.
        """
        num_failed = 0
        was_open = False
        while not stop.is_set():
            reason = "it ended"
            try:
                for image in self._read(stop):
                    was_open = True
                    num_failed = num_failed if image is None else 0
                    yield image
            except SourceError as error:
                if not was_open:
                    raise
                reason = str(error)
            was_open = True
            if stop.is_set():
                return
            num_failed += 1
            self._pause(num_failed, reason, stop)
            yield None

    def _pause(self, num_failed: int, reason: str, stop: _Events) -> None:
        """Wait before the device is opened again, or give it up."""
        if self._max_reconnects is not None and num_failed > self._max_reconnects:
            raise SourceError(f"{self.name} gives no frames any more: {reason}. Check the camera.")
        pause_s = pause_s_after(num_failed)
        _log.warning("%s broke off: %s; opening it again in %g s", self.name, reason, pause_s)
        self.num_reconnects += 1
        stop.wait(pause_s)

    def _read(self, stop: _Events) -> Iterator[Image | None]:
        """Yield the pictures of a video or camera until it ends; None for one that is damaged.

        Raises:
            SourceError: if it cannot be opened, or gives damaged ones only.
            ImageTooLarge: if its pictures are too large, before one is decoded.
        """
        capture = self._open()
        try:
            height = capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            check_pixels(int(height), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), self.name)
            num_broken = 0
            while not stop.is_set() and capture.grab():
                is_decoded, image = capture.retrieve()
                is_broken = not is_decoded or image.size == 0
                num_broken = num_broken + 1 if is_broken else 0
                if is_broken:
                    self._skip(f"a frame of {self.name} cannot be decoded")
                yield None if is_broken else np.asarray(image, np.uint8)
                if num_broken >= _MAX_BROKEN:
                    raise SourceError(
                        f"{self.name} gave {num_broken} broken frames in a row. "
                        "Check the cable, the file or the network."
                    )
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        return _open_capture(int(self.name) if self._is_camera else self.name)

    def _header(self, what: int) -> float:
        """Return a property of a video file, 0 if it has none."""
        if self.kind != "video":
            return 0.0
        capture = self._open()
        try:
            value = capture.get(what)
        finally:
            capture.release()
        return value if math.isfinite(value) and value > 0 else 0.0

    def _skip(self, reason: str) -> None:
        self.num_skipped += 1
        _log.warning("skipped: %s", reason)


def pause_s_after(num_failed: int) -> float:
    """Return how long to wait, after so many failures in a row, before opening a camera again."""
    return min(FIRST_PAUSE_S * 2 ** min(num_failed - 1, 16), LONGEST_PAUSE_S)


class _Events:
    """Is set as soon as one of some events is.

    Args:
        own: the event of the source, always there.
        other: one more, or None.
    """

    def __init__(self, own: threading.Event, other: threading.Event | None) -> None:
        self._own = own
        self._other = other

    def is_set(self) -> bool:
        return self._own.is_set() or (self._other is not None and self._other.is_set())

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or soon after an event is set."""
        end = time.monotonic() + seconds
        while not self.is_set() and (left := end - time.monotonic()) > 0:
            self._own.wait(min(left, 0.1))


def _is_camera(source: str | int | os.PathLike[str]) -> bool:
    if isinstance(source, str):
        return source.isdecimal() and not Path(source).exists()
    return isinstance(source, int) and source >= 0


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


def _open_capture(source: int | str) -> cv2.VideoCapture:
    """Open the camera of a number, a URL or a video file."""
    capture = cv2.VideoCapture()
    if isinstance(source, str) and "://" in source:
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            _TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            _TIMEOUT_MS,
        ]
        is_open = capture.open(source, cv2.CAP_FFMPEG, timeouts)
    else:
        is_open = capture.open(source)
    if not is_open:
        kind = "camera" if isinstance(source, int) else "video"
        raise SourceError(
            f"the {kind} {source} cannot be opened. Check that it exists, is not in use, and that "
            "OpenCV can decode it"
        )
    return capture
