"""Frames from pictures, folders, patterns, a video, a camera or a network stream."""

from __future__ import annotations

import glob
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from edgeseg_runtime.bundle.files import listed
from edgeseg_runtime.errors import BrokenSource, ImageError, SourceError
from edgeseg_runtime.picture.headers import FORMATS, HEAD_BYTES, picture_format
from edgeseg_runtime.picture.image import Image, check_pixels, read_image

__all__ = ["Frame", "Name", "Source", "open_sources", "pause_s_after"]

Name: TypeAlias = "str | int | os.PathLike[str]"

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a camera is opened again

_PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files named so count as pictures whatever is in them: reading them says what is wrong."""
_VIDEO_BEGINNINGS = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01", b"\0\0\1\xba", b"\0\0\1\xb3")
_TEXT = bytes(range(32, 127)) + b"\t\r\n"
_MIN_TEXT = 16  # bytes
_END_SHARE, _END_FRAMES = 0.02, 1  # of a video that headers promise beyond what there is
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
    raises instead. What a file is, its content says, not its name. A camera or network stream that
    breaks off, or gives damaged frames only, is opened again after 1 s, 2 s, 4 s and so on, at last
    every 30 s. Setting `stop` (from a signal handler, say) ends the iteration after the current
    frame.

    Args:
        source: path of a picture, folder or video; a pattern such as "images/*.jpg"; the number of
            a camera (int, or digits where no file or folder has that name); a URL such as
            "rtsp://...". A PathLike is always a path. Or a list of pictures, folders and patterns,
            whose pictures follow one another.
        stop: ends the iteration when it is set.
        max_reconnects: attempts in a row to open a camera or stream again before it counts as
            gone; 0 for none, None for no end.
        recursive: look for pictures in the folders of a folder too, but not behind links.

    Attributes:
        paths: of the pictures, in the order of the frames; of a video its own; none of a camera.
        left_out: files of folders and patterns that are not pictures, and folders in a folder.
        num_skipped: frames skipped so far because they could not be decoded.
        num_missing: frames that the header of a video promises and that it did not have.
        num_reconnects: attempts so far to open a camera or stream again.

    Raises:
        SourceError: if there is nothing to read.
    """

    def __init__(
        self,
        source: Name | Sequence[Name],
        *,
        stop: threading.Event | None = None,
        max_reconnects: int | None = None,
        recursive: bool = False,
    ) -> None:
        names = _names(source)
        self.name = ", ".join(map(_text, names))
        self.num_skipped = 0
        self.num_missing = 0
        self.num_reconnects = 0
        self._stop = stop or threading.Event()
        self._max_reconnects = max_reconnects
        self._is_camera = len(names) == 1 and _is_camera(names[0])
        self.kind = _kind(names[0]) if len(names) == 1 else "pictures"
        """What is read: "pictures", "video" (a file) or "live" (a camera or network stream)."""
        found = _Found() if self.kind == "live" else _find(names, recursive=recursive)
        self.paths, self.left_out = found.paths, found.left_out
        self._is_single = len(names) == 1 and Path(self.name).is_file()
        if self.kind == "pictures":
            found.check(self.name)

    @property
    def num_frames(self) -> int | None:
        """Frames to expect, as far as a video's header tells; None if that is not known."""
        if self.kind == "pictures":
            return len(self.paths)
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
        for index, path in enumerate(self.paths):
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
            raise BrokenSource(f"{self.name} gives no frames any more: {reason}. Check the camera.")
        pause_s = pause_s_after(num_failed)
        _log.warning("%s broke off: %s; opening it again in %g s", self.name, reason, pause_s)
        self.num_reconnects += 1
        stop.wait(pause_s)

    def _read(self, stop: _Events) -> Iterator[Image | None]:
        """Yield the pictures of a video or camera until it ends; None for one that is damaged.

        Raises:
            SourceError: if it cannot be opened, gives damaged ones only, or is a video without any.
            ImageTooLarge: if its pictures are too large, before one is decoded.
        """
        capture = self._open()
        try:
            height = capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            check_pixels(int(height), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), self.name)
            num_read = num_broken = 0
            while not stop.is_set() and capture.grab():
                num_read += 1
                is_decoded, image = capture.retrieve()
                is_broken = not is_decoded or image.size == 0
                num_broken = num_broken + 1 if is_broken else 0
                if is_broken:
                    self._skip(f"a frame of {self.name} cannot be decoded")
                yield None if is_broken else np.asarray(image, np.uint8)
                if num_broken >= _MAX_BROKEN:
                    raise BrokenSource(
                        f"{self.name} gave {num_broken} broken frames in a row. "
                        "Check the cable, the file or the network."
                    )
            if self.kind == "video" and not stop.is_set():
                self._check_end(capture, num_read)
        finally:
            capture.release()

    def _check_end(self, capture: cv2.VideoCapture, num_read: int) -> None:
        """Notice a video that ended before the time that its header promises.

        The number of frames alone does not tell: of files without an index it is an estimate.

        Raises:
            BrokenSource: it had no frame at all.
        """
        if not num_read:
            raise BrokenSource(
                f"no frame of the video {self.name} can be decoded: it is damaged, cut off, or in a "
                "format that OpenCV cannot read. Copy it again, or convert it to MP4 (H.264)"
            )
        promised = _positive(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        missing = promised - num_read
        frame_ms = 1e3 / (_positive(capture.get(cv2.CAP_PROP_FPS)) or 1.0)
        end_ms = _positive(capture.get(cv2.CAP_PROP_POS_MSEC)) or num_read * frame_ms
        slack = max(_END_FRAMES, _END_SHARE * promised)
        if missing > slack and end_ms < (promised - slack) * frame_ms:
            self.num_missing = round(missing)
            _log.warning(
                "%s ended after %d of the %d frames that its header promises: it is cut off or "
                "damaged",
                self.name,
                num_read,
                promised,
            )

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
        return _positive(value)

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


def open_sources(
    names: Sequence[Name],
    *,
    stop: threading.Event | None = None,
    max_reconnects: int | None = None,
    recursive: bool = False,
) -> list[Source]:
    """Return sources that read everything named: one of all pictures, and one for each other name.

    Args:
        names: of pictures, folders, patterns, videos, cameras and URLs; a pattern may stand for
            several videos.
        stop: see `Source`; so are the others.
        max_reconnects: of each camera or stream.
        recursive: look for pictures in the folders of a folder too.

    Raises:
        SourceError: if there is nothing to read.
    """
    names = [file for name in names for file in _expanded(name)]
    pictures = [name for name in names if _kind(name) == "pictures"]
    groups: list[Name | list[Name]] = [pictures[0] if len(pictures) == 1 else pictures]
    others: list[Name | list[Name]] = [name for name in names if _kind(name) != "pictures"]
    return [
        Source(group, stop=stop, max_reconnects=max_reconnects, recursive=recursive)
        for group in (groups if pictures else []) + others
    ]


@dataclass(frozen=True)
class _Found:
    """Pictures, and what lies beside them."""

    paths: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def check(self, name: str) -> None:
        """Say what is left out.

        Raises:
            SourceError: that is all there is.
        """
        others = listed(self.left_out)
        if not self.paths:
            raise SourceError(
                f"{name} holds no pictures{f', only {others}' if others else ''}; expected files in "
                f"one of the formats {', '.join(FORMATS)}"
            )
        if self.left_out:
            formats = ", ".join(FORMATS)
            _log.warning(
                "left out of %s, because they are not pictures in one of the formats %s: %s",
                name,
                formats,
                others,
            )


def _find(names: Sequence[Name], *, recursive: bool) -> _Found:
    """Return the pictures of all names in turn, those of a folder or pattern sorted."""
    found = _Found()
    for name in names:
        path = Path(_text(name))
        if path.is_file():
            found.paths.append(str(name))
            continue
        files = sorted(_files(path, recursive)) if path.is_dir() else sorted(_matches(_text(name)))
        for file in files:
            is_read = Path(file).is_file() and _is_picture(file)
            (found.paths if is_read else found.left_out).append(file)
    return found


def _files(folder: Path, recursive: bool) -> Iterator[str]:
    """Yield what is in a folder, without hidden files, and the folders in it that are not read."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if recursive and path.is_dir() and not path.is_symlink():  # which may lead in circles
            yield from _files(path, recursive)
        else:
            yield f"{path}{os.sep}" if path.is_dir() else str(path)


def _matches(pattern: str) -> list[str]:
    """Return the files that match a pattern.

    Raises:
        SourceError: if there is none.
    """
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    paths = [file for file in found if Path(file).is_file()]
    if not paths:
        what = "is a pipe or a device" if Path(pattern).exists() else "does not exist"
        raise SourceError(
            f"{pattern} {what}; expected a picture, a folder, a pattern such as "
            "'images/*.jpg', a video, the number of a camera, or a URL"
        )
    return paths


def _names(source: Name | Sequence[Name]) -> list[Name]:
    """Return a source as a list of names."""
    if isinstance(source, (str, int, os.PathLike)):
        return [source]
    if not source:
        raise SourceError("the list of sources is empty; expected at least one")
    return list(source)


def _expanded(name: Name) -> list[Name]:
    """Return the files that a pattern stands for; anything else as it is."""
    if _is_live(name) or Path(_text(name)).exists():
        return [name]
    return [*sorted(_matches(_text(name)))]


def _text(name: Name) -> str:
    return str(name) if isinstance(name, int) else os.fspath(name)


def _kind(name: Name) -> str:
    """Return what a name stands for; see `Source.kind`.

    Raises:
        SourceError: if it is a file that is neither a picture nor a video.
    """
    if _is_live(name):
        return "live"
    path = Path(_text(name))
    if not path.is_file():
        return "pictures"
    head = _head(str(path))
    if picture_format(head) is not None or (_is_named_picture(str(path)) and not _is_video(head)):
        return "pictures"
    if _is_text(head):
        raise SourceError(
            f"{path} holds text; expected a picture, one of {', '.join(FORMATS)}, or a video"
        )
    return "video"


def _is_picture(file: str) -> bool:
    """Tell whether a file of a folder is to be read as a picture."""
    return _is_named_picture(file) or picture_format(_head(file)) is not None


def _is_named_picture(file: str) -> bool:
    return Path(file).suffix.lower() in _PICTURE_SUFFIXES


def _is_video(head: bytes) -> bool:
    """Tell whether a file begins like a video; not every video does."""
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return is_avi or head[4:8] == b"ftyp" or head.startswith(_VIDEO_BEGINNINGS)


def _is_text(head: bytes) -> bool:
    """Tell whether a file begins like text that OpenCV would play as a film of letters."""
    is_playlist = head.startswith(b"#EXTM3U")
    return len(head) > _MIN_TEXT and not is_playlist and not head.translate(None, _TEXT)


def _head(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(HEAD_BYTES)
    except OSError:  # said when it is read
        return b""


def _positive(value: float) -> float:
    """Return a number that OpenCV gives, 0 where it is not one."""
    return value if math.isfinite(value) and value > 0 else 0.0


def _is_live(name: Name) -> bool:
    return _is_camera(name) or (isinstance(name, str) and "://" in name)


def _is_camera(name: Name) -> bool:
    if isinstance(name, str):
        return name.isdecimal() and not Path(name).exists()
    return isinstance(name, int) and name >= 0


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
        is_file = isinstance(source, str) and Path(source).is_file()
        raise (BrokenSource if is_file else SourceError)(
            f"the {kind} {source} cannot be opened. Check that it exists, is not in use, and that "
            "OpenCV can decode it"
        )
    return capture
