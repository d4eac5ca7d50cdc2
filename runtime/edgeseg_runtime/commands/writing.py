"""Writes what a run finds: annotated pictures and videos, and a list of COCO results."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
from edgeseg_runtime.results.style import DrawOptions, Style

__all__ = [
    "LINES",
    "PREDICTIONS",
    "Canvas",
    "Drawing",
    "JsonLines",
    "JsonList",
    "RecordingError",
    "canvases",
    "file_names",
]

PREDICTIONS = "predictions.json"
LINES = "frames.jsonl"
VIDEO = "annotated.mp4"
LIVE_FRAMES_PER_SECOND = 25.0
"""Speed at which a recorded camera is played: cameras do not tell theirs reliably."""
PROBE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn of the results, and how.

    Attributes:
        draws: write annotated pictures or videos.
        writes_iuv: write part, u and v of each picture, see `Instances.iuv_png`.
        options: those of `draw` that are not left at what they are.

    Raises:
        ValueError: an option has a value that makes no sense, or nothing is drawn by it.
    """

    draws: bool = True
    writes_iuv: bool = False
    options: DrawOptions = field(default_factory=DrawOptions)

    def __post_init__(self) -> None:
        Style(**self.options)
        if self.options and not self.draws:
            name = next(iter(self.options))
            raise ValueError(
                f"{_option(name, self.options)} is given, and --no-draw: nothing is drawn; leave one out"
            )

    def check(self, manifest: Manifest) -> None:
        """Refuse what asks for surfaces or points of a model that gives none.

        Raises:
            ValueError: it does.
        """
        outputs = {spec.name for spec in manifest.outputs}
        asked = _option("surfaces", self.options) if "surfaces" in self.options else ""
        asked = "--iuv" if self.writes_iuv else asked
        if asked and "surface_coarse" not in outputs:
            raise ValueError(
                f"{asked} is given, but {manifest.name} gives no surfaces; leave it out, or take a "
                "model such as densepose_resnet50_fpn"
            )
        has_points = manifest.task == "landmarks" or outputs & {"keypoints", "keypoint_heatmaps"}
        if "keypoint_score" in self.options and not has_points:
            raise ValueError(
                f"{_option('keypoint_score', self.options)} is given, but {manifest.name} gives no key "
                "points with scores; leave it out"
            )

    def drawn(self, found: Result, image: Image) -> Image:
        """Return a picture with what was found in it."""
        return found.draw(image, **self.options)


def _option(name: str, options: DrawOptions) -> str:
    """Return how an option of `draw` is written on the command line."""
    value = dict(options)[name]
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}draw-{name}"
    return f"--{name.replace('_', '-')} {value}"


class RecordingError(EdgesegError):
    """A picture or video cannot be written."""


class JsonList:
    """A JSON list written entry by entry; the file appears, complete, when the block ends."""

    def __init__(self, outputs: OutputFolder) -> None:
        self._outputs = outputs
        self._num_entries = 0
        self.file = outputs.folder / PREDICTIONS

    def __enter__(self) -> JsonList:
        self._partial = self._outputs.begin(PREDICTIONS)
        self._stream: io.TextIOWrapper = self._partial.open("x", encoding="utf-8")
        return self

    def add(self, image_id: int, frame: Frame, found: Result) -> int:
        """Write what was found in a frame; return how many entries had a number JSON cannot write."""
        num_left_out = 0
        for record in found.records(image_id):
            try:
                text = json.dumps({**record, "file_name": frame.name}, allow_nan=False)
            except ValueError:
                num_left_out += 1
                continue
            self._write((",\n" if self._num_entries else "[\n") + text)
            self._num_entries += 1
        return num_left_out

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


class JsonLines:
    """A line of JSON for each frame, whether anything was found in it or not.

    The file appears with its first line and is complete after each: another program may read along,
    and what was done is there however the run ends.
    """

    def __init__(self, outputs: OutputFolder) -> None:
        self._outputs = outputs
        self._num_bytes = 0
        self._is_placed = False
        self.file = outputs.folder / LINES

    def __enter__(self) -> JsonLines:
        self._partial = self._outputs.begin(LINES)
        self._stream = self._partial.open("xb", buffering=0)
        return self

    def add(self, image_id: int, frame: Frame, found: Result) -> None:
        """Write what was found in a frame, and where it came from.

        Raises:
            OSError: the disk is full, say; the lines before this one are in the file.
        """
        own = json.dumps({"image_id": image_id, "file_name": frame.name})
        line = f"{own[:-1]}, {found.to_json()[1:]}\n".encode()
        try:
            self._write(line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.file)) from error
        if not self._is_placed:
            self._place()

    def _write(self, line: bytes) -> None:
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._stream.write(rest) :]
        except BaseException:  # an interrupt, too
            self._stream.truncate(self._num_bytes)
            raise
        self._num_bytes += len(line)

    def _place(self) -> None:
        self._outputs.finish(self._partial)  # it stays open, and grows in its place
        self._is_placed = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stream, contextlib.suppress(OSError):  # said by whatever was not written
            os.fsync(self._stream.fileno())
        if not self._is_placed and error is None:
            self._place()


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
        if _is_whole(self._partial, self._num_frames):
            self.files.append(self._outputs.finish(self._partial))
        elif error is None:
            num_found = _num_frames(self._partial)
            raise RecordingError(
                f"{self._path} cannot be written: {_obstacle(self._partial)}; of {self._num_frames} "
                f"frames {num_found} could be read again. Nothing is kept of it"
            )


def _is_whole(path: Path, num_frames: int) -> bool:
    """Tell whether a video has its index, at its end, with so many frames, and the last one decodes.

    OpenCV does not tell of a full disk. After a write that failed FFmpeg writes nothing more, so that
    what a disk could not take is missing at the end. To decode all of a long video would take a
    considerable part of the time that making it took.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        has_all = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == num_frames
        return has_all and capture.set(cv2.CAP_PROP_POS_FRAMES, num_frames - 1) and capture.grab()
    finally:
        capture.release()


def _num_frames(path: Path) -> int:
    """Return how many frames of a video can be decoded."""
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
