"""Runs a predictor over a source and writes what it finds: pictures, a video, COCO results."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import cv2
import numpy as np

from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.files import write_atomic
from edgeseg_runtime.image import Image
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.sources import Frame, Source

if TYPE_CHECKING:
    from edgeseg_bench.runner import Progress

PREDICTIONS = "predictions.json"
VIDEO = "annotated.mp4"
LIVE_FRAMES_PER_SECOND = 25.0
"""Speed at which a recorded camera is played: cameras do not tell theirs reliably."""


class RecordingError(EdgesegError):
    """A picture or video cannot be written."""


@dataclass(kw_only=True)
class Outcome:
    """What a run did.

    Attributes:
        num_frames: frames that were predicted.
        num_skipped: frames that could not be decoded.
        num_detections: over all frames, from the chosen score on.
        num_nonfinite: detections dropped because a number in them was NaN or infinite.
        num_shrunk: frames that fit into no shape of the bundle and lost scale.
        was_interrupted: whether a signal ended the run early.
        files: what was written, in order.
    """

    num_frames: int = 0
    num_skipped: int = 0
    num_detections: int = 0
    num_nonfinite: int = 0
    num_shrunk: int = 0
    was_interrupted: bool = False
    files: list[Path] = field(default_factory=list)


def record(
    predictor: Predictor[Any],
    source: Source,
    folder: Path,
    *,
    score: float,
    draws: bool = True,
    writes_json: bool = True,
    stop: threading.Event,
    progress: Progress,
) -> Outcome:
    """Predict every frame of a source and write the results into a folder.

    Pictures become `NAME.jpg` with the detections drawn in, videos and cameras `annotated.mp4`;
    `predictions.json` holds the records of all results, where `image_id` is the number of the frame
    and `file_name` where it came from. A model of one object at a time looks at whole frames.
    Whatever ends the run, what was done by then is written.

    Args:
        predictor: the model.
        source: the frames.
        folder: is created.
        score: detections below are left out; see `filter` of the result's class.
        draws: write annotated pictures or the video.
        writes_json: write `predictions.json`.
        stop: ends the run after the current frame when it is set.
        progress: called as progress(stage, done, total); the total of a camera is 0.

    Raises:
        SourceError: the source gives no frames (any more).
        RecordingError: OpenCV cannot encode.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    num_expected = source.num_frames or 0
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: setattr(outcome, "num_skipped", source.num_skipped))
        results = stack.enter_context(_JsonList(folder / PREDICTIONS)) if writes_json else None
        canvas = _canvas(folder, source) if draws else None
        if canvas is not None:
            stack.enter_context(canvas)
        progress("predict", 0, num_expected)
        for frame, found in predictor.stream_frames(source):
            outcome.num_nonfinite += found.num_nonfinite
            outcome.num_shrunk += predictor.kept_scale(frame.image.shape[:2]) < 1
            kept = found.filter(score=score)
            if results is not None:
                for record in kept.records(frame.index):
                    results.add({**record, "file_name": frame.name})
            if canvas is not None:
                canvas.add(frame, kept.draw(frame.image))
            outcome.num_frames += 1
            outcome.num_detections += kept.num_detections
            progress("predict", outcome.num_frames, num_expected)
        if canvas is not None:
            outcome.files += canvas.files
        if results is not None:
            outcome.files.append(folder / PREDICTIONS)
    outcome.was_interrupted = stop.is_set()
    return outcome


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def request(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _JsonList:
    """A JSON list written entry by entry; the file appears, complete, when the block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = _partial(path)
        self._separator = "[\n"

    def __enter__(self) -> _JsonList:
        self._stream: TextIO = self._partial.open("x", encoding="utf-8")
        return self

    def add(self, entry: dict[str, Any]) -> None:
        self._stream.write(self._separator + json.dumps(entry, allow_nan=False))
        self._separator = ",\n"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_useless = error is not None and self._separator == "[\n"
        try:
            if is_useless:
                return
            self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._partial.replace(self._path)
        finally:
            self._stream.close()
            self._partial.unlink(missing_ok=True)


def _canvas(folder: Path, source: Source) -> _Pictures | _Video:
    return _Pictures(folder) if source.kind == "pictures" else _Video(folder / VIDEO, source)


class _Pictures:
    """Writes each annotated picture under the name of its source."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: list[Path] = []
        self._names: set[str] = set()

    def __enter__(self) -> _Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: every picture is complete."""

    def add(self, frame: Frame, image: Image) -> None:
        stem = Path(frame.name).stem
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        is_encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not is_encoded:
            raise RecordingError(f"OpenCV cannot encode the picture {frame.name} as JPEG")
        self.files.append(write_atomic(self._folder / f"{name}.jpg", data.tobytes()))


class _Video:
    """Writes annotated frames into a video, which appears when the block ends."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self._partial = _partial(path)
        self._frames_per_second = source.frames_per_second or LIVE_FRAMES_PER_SECOND
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self.files: list[Path] = []

    def __enter__(self) -> _Video:
        return self

    def add(self, frame: Frame, image: Image) -> None:
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(
                str(self._partial),
                cv2.VideoWriter.fourcc(*"mp4v"),
                self._frames_per_second,
                self._size,
            )
            self.files.append(self._path)
            if not self._writer.isOpened():
                raise RecordingError(
                    f"OpenCV cannot write {self._path}; check the disk, or write the results "
                    "alone with --no-draw"
                )
        if (image.shape[1], image.shape[0]) != self._size:  # else the writer drops it in silence
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        self._writer.write(image)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
            if self._partial.exists():
                self._partial.replace(self._path)


def _partial(path: Path) -> Path:
    """Return a name of its own for a file that is being written; the suffix stays, for OpenCV."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
