"""Runs a predictor over sources and writes what it finds: pictures, videos, COCO results."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg_runtime.bundle.files import listed
from edgeseg_runtime.commands.writing import (
    PREDICTIONS,
    Drawing,
    JsonList,
    canvases,
    file_names,
)
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.picture.sources import Source
from edgeseg_runtime.predictor import Predictor, StageClock
from edgeseg_runtime.progress import Progress

__all__ = [
    "Outcome",
    "lines_from_outcome",
    "output_folder",
    "problem_of_outcome",
    "record",
    "stop_on_signals",
]


@dataclass(kw_only=True)
class Outcome:
    """What a run did.

    Attributes:
        num_frames: frames that were predicted.
        num_skipped: frames that could not be decoded.
        num_missing: frames that headers of videos promised and that did not come.
        left_out: files of folders and patterns that are not pictures.
        num_detections: over all frames, from the chosen score on.
        num_nonfinite: detections dropped because a number in them was NaN or infinite.
        num_left_out: detections without the surface that the model gives to the best of a picture.
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
    num_left_out: int = 0
    num_shrunk: int = 0
    was_interrupted: bool = False
    seconds: float = 0.0
    stage_ms: dict[str, float] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def output_folder(
    sources: Sequence[Source],
    folder: Path,
    *,
    drawing: Drawing,
    writes_json: bool,
    overwrite: bool,
) -> OutputFolder:
    """Return the folder for what `record` writes, which it does not touch before.

    Raises:
        FileExistsError: something of what would be written is there, or is one of the sources.
        ValueError: a file for each picture is asked for, and a source is a video or camera.
    """
    return OutputFolder(
        folder,
        file_names(sources, drawing) + ([PREDICTIONS] if writes_json else []),
        overwrite=overwrite,
        sources=[path for source in sources for path in source.paths],
    )


def record(
    predictor: Predictor[Any],
    sources: Sequence[Source],
    outputs: OutputFolder,
    *,
    score: float,
    drawing: Drawing = Drawing(),  # noqa: B008  # frozen
    writes_json: bool = True,
    stop: threading.Event,
    progress: Progress,
    scene_cut: float | None = None,
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
        drawing: what is drawn, and how.
        writes_json: write `predictions.json`.
        stop: ends the run after the current frame when it is set.
        progress: called as progress(stage, done, total); the total of a camera is 0.
        scene_cut: see `Predictor.session`.

    Raises:
        ValueError: there is a `scene_cut` or a `drawing` that does not fit the model.
        SourceError: a source gives no frames (any more).
        RecordingError: OpenCV cannot encode, or what it wrote cannot be read again.
        FileExistsError: a file that is not to be replaced has appeared in the folder.
        OSError: the folder cannot be written.
    """
    predictor.session(scene_cut=scene_cut).close()  # refused before anything is written
    drawing.check(predictor.manifest)
    outcome = Outcome(left_out=[path for source in sources for path in source.left_out])
    expected = [source.num_frames or 0 for source in sources]
    num_expected = sum(expected) if all(expected) else 0
    clock = _Clock()
    with contextlib.ExitStack() as stack:
        stack.callback(_count, outcome, sources, clock)
        stack.enter_context(outputs)
        results = stack.enter_context(JsonList(outputs)) if writes_json else None
        progress("predict", 0, num_expected)
        for source, canvas in zip(sources, canvases(sources, outputs, drawing), strict=True):
            with canvas:
                frames = predictor.stream_frames(source, probe=clock.stages, scene_cut=scene_cut)
                for frame, found in frames:
                    kept = found.filter(score=score)
                    with clock.writing():
                        canvas.add(frame, kept)
                        if results is not None:
                            outcome.num_nonfinite += results.add(frame, kept)
                    outcome.num_nonfinite += found.num_nonfinite
                    outcome.num_left_out += kept.num_left_out
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
    """Return why a run that finished cannot be relied on, or None."""
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
