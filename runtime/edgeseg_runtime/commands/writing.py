"""Writes what a run finds: annotated pictures and videos, and a list of COCO results."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.picture.sources import Frame, Source
from edgeseg_runtime.results import Instances, Result
from edgeseg_runtime.results.draw_surfaces import check_style

__all__ = [
    "PREDICTIONS",
    "Canvas",
    "Drawing",
    "JsonList",
    "RecordingError",
    "canvases",
    "file_names",
]

PREDICTIONS = "predictions.json"
VIDEO = "annotated.mp4"
LIVE_FRAMES_PER_SECOND = 25.0
"""Speed at which a recorded camera is played: cameras do not tell theirs reliably."""
PROBE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn of the results, and how.

    Attributes:
        draws: write annotated pictures or videos.
        surfaces: one of `SURFACE_STYLES`; None for the way of `Instances.draw`.
        writes_iuv: write part, u and v of each picture, see `Instances.iuv_png`.

    Raises:
        ValueError: there is no such style, or nothing is drawn in it.
    """

    draws: bool = True
    surfaces: str | None = None
    writes_iuv: bool = False

    def __post_init__(self) -> None:
        if self.surfaces is None:
            return
        check_style(self.surfaces)
        if not self.draws:
            raise ValueError(
                f"--surfaces {self.surfaces} is given, and --no-draw: nothing is drawn; leave one out"
            )

    def check(self, manifest: Manifest) -> None:
        """Refuse what asks for surfaces of a model that gives none.

        Raises:
            ValueError: it does.
        """
        option = "--iuv" if self.writes_iuv else f"--surfaces {self.surfaces}"
        has_surfaces = any(spec.name == "surface_coarse" for spec in manifest.outputs)
        if (self.writes_iuv or self.surfaces is not None) and not has_surfaces:
            raise ValueError(
                f"{option} is given, but {manifest.name} gives no surfaces; leave it out, or take a "
                "model such as densepose_resnet50_fpn"
            )

    def drawn(self, found: Result, image: Image) -> Image:
        """Return a picture with what was found in it."""
        if self.surfaces is None:
            return found.draw(image)
        assert isinstance(found, Instances)  # nothing else has surfaces
        return found.draw(image, surfaces=self.surfaces)


class RecordingError(EdgesegError):
    """A picture or video cannot be written."""


class JsonList:
    """A JSON list written entry by entry; the file appears, complete, when the block ends."""

    def __init__(self, outputs: OutputFolder) -> None:
        self._outputs = outputs
        self._num_entries = 0
        self._first_id = self._next_id = 0
        self.file = outputs.folder / PREDICTIONS

    def __enter__(self) -> JsonList:
        self._partial = self._outputs.begin(PREDICTIONS)
        self._stream: io.TextIOWrapper = self._partial.open("x", encoding="utf-8")
        return self

    def add(self, frame: Frame, found: Result) -> int:
        """Write what was found in a frame; return how many entries had a number JSON cannot write."""
        num_left_out = 0
        self._next_id = self._first_id + frame.index + 1
        for record in found.records(self._first_id + frame.index):
            try:
                text = json.dumps({**record, "file_name": frame.name}, allow_nan=False)
            except ValueError:
                num_left_out += 1
                continue
            self._write((",\n" if self._num_entries else "[\n") + text)
            self._num_entries += 1
        return num_left_out

    def next_source(self) -> None:
        """Number the frames of the next source after those of the last one."""
        self._first_id = self._next_id

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and (not self._num_entries or self._stream.closed):
            self._discard()
            return
        self._write("\n]\n" if self._num_entries else "[]\n")
        with self._discarded_on_error():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
        self._check()
        self._outputs.finish(self._partial)

    def _write(self, text: str) -> None:
        with self._discarded_on_error():
            self._stream.write(text)

    @contextlib.contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        """Give the disk back what it cannot hold, and name the file, which Python does not."""
        try:
            yield
        except OSError as error:
            self._discard()
            raise OSError(error.errno, error.strerror, str(self.file)) from error

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # closing writes what is left, in vain
            self._stream.close()
        self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        """Read the file again, entry by entry, before it counts as written.

        Raises:
            RecordingError: it is not what was written.
        """
        num_found = 0
        try:
            with self._partial.open(encoding="utf-8") as stream:
                for line in stream:
                    if line.strip() not in {"[", "]", "[]"}:
                        json.loads(line.rstrip(",\n"))
                        num_found += 1
        except ValueError:
            num_found = -1
        if num_found != self._num_entries:
            raise RecordingError(
                f"{self.file} was written, but cannot be read again: check the disk"
            )


def file_names(sources: Sequence[Source], drawing: Drawing) -> list[str]:
    """Return the names of all files that are drawn.

    Raises:
        ValueError: a file for each picture is asked for, and a source is a video or camera.
    """
    pictures = list(itertools.chain(*picture_names(sources)))
    names = pictures + video_names(sources) if drawing.draws else []
    if not drawing.writes_iuv:
        return names
    for source in sources:
        if source.kind != "pictures":
            raise ValueError(
                f"--iuv writes a file for each picture, but {source.name} is a video or camera; leave "
                "it out, or take the frames as pictures"
            )
    return names + [_iuv_name(name) for name in pictures]


def _iuv_name(picture: str) -> str:
    return f"{Path(picture).stem}_iuv.png"


def picture_names(sources: Iterable[Source]) -> list[list[str]]:
    """Return the names of the annotated pictures of each source, in the order of its frames."""
    unique = _unique_names(".jpg")
    return [
        [unique(path) for path in source.paths] if source.kind == "pictures" else []
        for source in sources
    ]


def video_names(sources: Sequence[Source]) -> list[str]:
    """Return the names of the annotated videos of those sources that are videos or cameras."""
    names = [source.name for source in sources if source.kind != "pictures"]
    unique = _unique_names(".mp4")
    return [VIDEO] if len(names) == 1 else [unique(name) for name in names]


def _unique_names(suffix: str) -> Callable[[str], str]:
    """Return a function that turns paths into names, the second one of a name into NAME-2."""
    taken: set[str] = set()

    def unique(path: str) -> str:
        stem = Path(path).stem
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        return f"{name}{suffix}"

    return unique


def canvases(sources: Sequence[Source], outputs: OutputFolder, drawing: Drawing) -> list[Canvas]:
    """Return what draws each source's frames: into pictures, into a video, or not at all."""
    pictures, videos = picture_names(sources), iter(video_names(sources))
    found: list[Canvas] = []
    for source, names in zip(sources, pictures, strict=True):
        if source.kind == "pictures":
            found.append(_Pictures(outputs, names, drawing))
        elif drawing.draws:
            found.append(_Video(outputs, next(videos), source, drawing))
        else:
            found.append(Canvas())
    return found


class Canvas(contextlib.AbstractContextManager["Canvas", None]):
    """Takes the results of each frame of a source, to draw them; this one does not."""

    def __init__(self) -> None:
        self.files: list[Path] = []

    def add(self, frame: Frame, found: Result) -> None:
        """Draw what was found in a frame."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is not complete yet."""


class _Pictures(Canvas):
    """Writes what was found in each picture under the name of its source."""

    def __init__(self, outputs: OutputFolder, names: Sequence[str], drawing: Drawing) -> None:
        super().__init__()
        self._outputs = outputs
        self._names = names
        self._drawing = drawing

    def add(self, frame: Frame, found: Result) -> None:
        name = self._names[frame.index]
        if self._drawing.draws:
            self.files.append(self._outputs.write(name, self._annotated(frame, found)))
        if self._drawing.writes_iuv:
            assert isinstance(found, Instances)  # nothing else has surfaces
            self.files.append(self._outputs.write(_iuv_name(name), found.iuv_png()))

    def _annotated(self, frame: Frame, found: Result) -> bytes:
        image = self._drawing.drawn(found, frame.image)
        is_encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not is_encoded:
            raise RecordingError(f"OpenCV cannot encode the picture {frame.name} as JPEG")
        return data.tobytes()


class _Video(Canvas):
    """Writes annotated frames into a video, which appears, checked, when the block ends."""

    def __init__(self, outputs: OutputFolder, name: str, source: Source, drawing: Drawing) -> None:
        super().__init__()
        self._outputs = outputs
        self._drawing = drawing
        self._path = outputs.folder / name
        self._frames_per_second = source.frames_per_second or LIVE_FRAMES_PER_SECOND
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._num_frames = 0

    def __enter__(self) -> _Video:
        self._partial = self._outputs.begin(self._path.name)
        return self

    def add(self, frame: Frame, found: Result) -> None:
        image = self._drawing.drawn(found, frame.image)
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(
                str(self._partial),
                cv2.VideoWriter.fourcc(*"mp4v"),
                self._frames_per_second,
                self._size,
            )
            if not self._writer.isOpened():
                raise RecordingError(
                    f"OpenCV cannot write {self._path}; check the disk, or write the results "
                    "alone with --no-draw"
                )
        if (image.shape[1], image.shape[0]) != self._size:  # else the writer drops it in silence
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        self._writer.write(image)
        self._num_frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        num_found = _num_frames(self._partial)
        if num_found == self._num_frames:
            self.files.append(self._outputs.finish(self._partial))
        elif error is None:
            raise RecordingError(
                f"{self._path} cannot be written: {_obstacle(self._partial)}; of {self._num_frames} "
                f"frames {num_found} could be read again. Nothing is kept of it"
            )


def _num_frames(path: Path) -> int:
    """Return how many frames of a video can be decoded: OpenCV does not tell of a full disk."""
    capture = cv2.VideoCapture(str(path))
    try:
        return sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()


def _obstacle(path: Path) -> str:
    """Return why a file cannot grow, in the words of the system."""
    try:
        with path.open("ab") as stream:
            stream.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.strerror or str(error)
    return "OpenCV lost frames and does not say why; check the disk"
