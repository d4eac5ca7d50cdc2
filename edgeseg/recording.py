"""Runs a predictor over sources and writes what it finds: pictures, videos, COCO results."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.files import listed
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.predictor import Predictor, StageClock
from edgeseg_runtime.results import Result
from edgeseg_runtime.sources import Frame, Source

if TYPE_CHECKING:
    from edgeseg_bench.runner import Progress

PREDICTIONS = "predictions.json"
VIDEO = "annotated.mp4"
LIVE_FRAMES_PER_SECOND = 25.0
"""Speed at which a recorded camera is played: cameras do not tell theirs reliably."""
PROBE_BYTES = 64 * 1024


class RecordingError(EdgesegError):
    """A picture or video cannot be written."""


@dataclass(kw_only=True)
class Outcome:
    """What a run did.

    Attributes:
        num_frames: frames that were predicted.
        num_skipped: frames that could not be decoded.
        num_missing: frames that headers of videos promised and that did not come.
        left_out: files of folders and patterns that are no pictures.
        num_detections: over all frames, from the chosen score on.
        num_nonfinite: detections dropped because a number in them was NaN or infinite.
        num_shrunk: frames that fit into no shape of the bundle and lost scale.
        was_interrupted: whether a signal ended the run early.
        seconds: that the frames took, from the first one's reading to the last one's writing.
        stage_ms: milliseconds of a frame on average: read, preprocess, model, postprocess, write.
        files: what was written, in order.
    """

    num_frames: int = 0
    num_skipped: int = 0
    num_missing: int = 0
    left_out: list[str] = field(default_factory=list)
    num_detections: int = 0
    num_nonfinite: int = 0
    num_shrunk: int = 0
    was_interrupted: bool = False
    seconds: float = 0.0
    stage_ms: dict[str, float] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def output_folder(
    sources: Sequence[Source], folder: Path, *, draws: bool, writes_json: bool, overwrite: bool
) -> OutputFolder:
    """Return the folder for what `record` writes, which it does not touch before.

    Raises:
        FileExistsError: something of what would be written is there, or is one of the sources.
    """
    names = list(itertools.chain(*_picture_names(sources))) + _video_names(sources)
    return OutputFolder(
        folder,
        (names if draws else []) + ([PREDICTIONS] if writes_json else []),
        overwrite=overwrite,
        sources=[path for source in sources for path in source.paths],
    )


def record(
    predictor: Predictor[Any],
    sources: Sequence[Source],
    outputs: OutputFolder,
    *,
    score: float,
    draws: bool = True,
    writes_json: bool = True,
    stop: threading.Event,
    progress: Progress,
) -> Outcome:
    """Predict every frame of the sources and write the results into a folder.

    Pictures become `NAME.jpg` with the detections drawn in, a video or camera `annotated.mp4`,
    several of them `NAME.mp4` each; `predictions.json` holds the records of all results, where
    `image_id` is the number of the frame over all sources and `file_name` where it came from. A
    model of one object at a time looks at whole frames. Whatever ends the run, what was done by
    then is written.

    Args:
        predictor: the model.
        sources: the frames.
        outputs: from `output_folder`, for the same sources.
        score: detections below are left out; see `filter` of the result's class.
        draws: write annotated pictures or the videos.
        writes_json: write `predictions.json`.
        stop: ends the run after the current frame when it is set.
        progress: called as progress(stage, done, total); the total of a camera is 0.

    Raises:
        SourceError: a source gives no frames (any more).
        RecordingError: OpenCV cannot encode, or what it wrote cannot be read again.
        FileExistsError: a file that is not to be replaced has appeared in the folder.
        OSError: the folder cannot be written.
    """
    outcome = Outcome(left_out=[path for source in sources for path in source.left_out])
    expected = [source.num_frames or 0 for source in sources]
    num_expected = sum(expected) if all(expected) else 0
    clock = _Clock()
    with contextlib.ExitStack() as stack:
        stack.callback(_count, outcome, sources, clock)
        stack.enter_context(outputs)
        results = stack.enter_context(_JsonList(outputs)) if writes_json else None
        progress("predict", 0, num_expected)
        for source, canvas in zip(sources, _canvases(sources, outputs, draws), strict=True):
            with canvas:
                for frame, found in predictor.stream_frames(source, probe=clock.stages):
                    kept = found.filter(score=score)
                    with clock.writing():
                        canvas.add(frame, kept)
                        if results is not None:
                            outcome.num_nonfinite += results.add(frame, kept)
                    outcome.num_nonfinite += found.num_nonfinite
                    outcome.num_shrunk += predictor.kept_scale(frame.image.shape[:2]) < 1
                    outcome.num_frames += 1
                    outcome.num_detections += kept.num_detections
                    progress("predict", outcome.num_frames, num_expected)
            if results is not None:
                results.next_source()
            outcome.files += canvas.files
        progress("predict", outcome.num_frames, outcome.num_frames)  # fewer than expected, maybe
    if results is not None:
        outcome.files.append(results.file)
    outcome.was_interrupted = stop.is_set()
    return outcome


def lines_from_outcome(outcome: Outcome, *, backend: str, score: float) -> list[str]:
    """Return what people want to know of a run: what was found, and how long it took."""
    done = (
        f"{outcome.num_frames} frames on {backend}, {outcome.num_detections} detections from score "
        f"{score} on, {outcome.num_skipped} frames skipped"
    )
    if outcome.left_out:
        done += f", {len(outcome.left_out)} files left out: {listed(outcome.left_out)}"
    if not outcome.num_frames:
        return [done]
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in outcome.stage_ms.items())
    speed = f"{outcome.num_frames / outcome.seconds:.1f} frames per second"
    return [done, f"{outcome.seconds:.1f} s, {speed}; ms of a frame: {stages}"]


def problem_of_outcome(outcome: Outcome) -> str | None:
    """Return why a run that came to its end is none to rely on, or None."""
    if outcome.num_missing:
        return (
            f"the video ended early: {outcome.num_missing} frames that its header promises are "
            "missing; what was there is written. Copy the file again"
        )
    if not outcome.num_frames and not outcome.was_interrupted:
        return f"none of the {outcome.num_skipped} frames could be read"
    return None


def _count(outcome: Outcome, sources: Sequence[Source], clock: _Clock) -> None:
    outcome.num_skipped = sum(source.num_skipped for source in sources)
    outcome.num_missing = sum(source.num_missing for source in sources)
    outcome.seconds = clock.seconds
    outcome.stage_ms = clock.stage_ms()


class _Clock:
    """Tells where the time of all frames goes; a frame ends when it is drawn and written."""

    def __init__(self) -> None:
        self.stages = StageClock()
        self._begin_s = self._end_s = time.perf_counter()
        self._write_s = 0.0
        self._num_frames = 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        begin_s = time.perf_counter()
        yield
        self._end_s = time.perf_counter()
        self._write_s += self._end_s - begin_s
        self._num_frames += 1

    @property
    def seconds(self) -> float:
        return self._end_s - self._begin_s

    def stage_ms(self) -> dict[str, float]:
        """Return the mean of each stage; nothing where there was no frame."""
        if not self._num_frames:
            return {}
        times, write_ms = self.stages.times(), 1e3 * self._write_s
        sums_ms = {
            "read": 1e3 * self.seconds - times.total_ms - write_ms,
            "preprocess": times.preprocess_ms,
            "model": times.model_ms,
            "postprocess": times.postprocess_ms,
            "write": write_ms,
        }
        return {stage: sum_ms / self._num_frames for stage, sum_ms in sums_ms.items()}


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

    def __init__(self, outputs: OutputFolder) -> None:
        self._outputs = outputs
        self._num_entries = 0
        self._first_id = self._next_id = 0
        self.file = outputs.folder / PREDICTIONS

    def __enter__(self) -> _JsonList:
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


def _picture_names(sources: Iterable[Source]) -> list[list[str]]:
    """Return the names of the annotated pictures of each source, in the order of its frames."""
    unique = _unique_names(".jpg")
    return [
        [unique(path) for path in source.paths] if source.kind == "pictures" else []
        for source in sources
    ]


def _video_names(sources: Sequence[Source]) -> list[str]:
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


def _canvases(sources: Sequence[Source], outputs: OutputFolder, draws: bool) -> list[_Canvas]:
    pictures, videos = _picture_names(sources), iter(_video_names(sources))
    canvases: list[_Canvas] = []
    for source, names in zip(sources, pictures, strict=True):
        if not draws:
            canvases.append(_Canvas())
        elif source.kind == "pictures":
            canvases.append(_Pictures(outputs, names))
        else:
            canvases.append(_Video(outputs, next(videos), source))
    return canvases


class _Canvas(contextlib.AbstractContextManager["_Canvas", None]):
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


class _Pictures(_Canvas):
    """Writes each annotated picture under the name of its source."""

    def __init__(self, outputs: OutputFolder, names: Sequence[str]) -> None:
        super().__init__()
        self._outputs = outputs
        self._names = names

    def add(self, frame: Frame, found: Result) -> None:
        image = found.draw(frame.image)
        is_encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not is_encoded:
            raise RecordingError(f"OpenCV cannot encode the picture {frame.name} as JPEG")
        self.files.append(self._outputs.write(self._names[frame.index], data.tobytes()))


class _Video(_Canvas):
    """Writes annotated frames into a video, which appears, checked, when the block ends."""

    def __init__(self, outputs: OutputFolder, name: str, source: Source) -> None:
        super().__init__()
        self._outputs = outputs
        self._path = outputs.folder / name
        self._frames_per_second = source.frames_per_second or LIVE_FRAMES_PER_SECOND
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._num_frames = 0

    def __enter__(self) -> _Video:
        self._partial = self._outputs.begin(self._path.name)
        return self

    def add(self, frame: Frame, found: Result) -> None:
        image = found.draw(frame.image)
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
