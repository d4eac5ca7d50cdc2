"""Runs a bundle on pictures, videos and cameras, and writes what it finds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg_runtime.commands.options import check_engines
from edgeseg_runtime.commands.recording import (
    Outcome,
    lines_from_outcome,
    output_folder,
    problem_of_outcome,
    record,
    stop_on_signals,
)
from edgeseg_runtime.commands.running import INTERRUPTED
from edgeseg_runtime.commands.terminal import Terminal
from edgeseg_runtime.commands.writing import Drawing
from edgeseg_runtime.errors import BrokenSource
from edgeseg_runtime.picture.sources import open_sources
from edgeseg_runtime.pipelines import FacePipeline
from edgeseg_runtime.predictor import Predictor, load
from edgeseg_runtime.results.style import DrawOptions
from edgeseg_runtime.tensorrt.key import EngineOptions

__all__ = ["run"]


def run(
    terminal: Terminal,
    bundle: Path,
    sources: Sequence[str],
    *,
    out: Path = Path("edgeseg-run"),
    overwrite: bool = False,
    recursive: bool = False,
    backend: str = "auto",
    score: float = 0.3,
    reconnect: int | None = None,
    scene_cut: float | None = None,
    batch: int = 1,
    track: bool = False,
    then: Path | None = None,
    draw: bool = True,
    draw_labels: bool = True,
    draw_scores: bool = True,
    colours: str | None = None,
    keypoint_score: float | None = None,
    line_width: int | None = None,
    surfaces: str | None = None,
    iuv: bool = False,
    save_json: bool = True,
    save_lines: bool = False,
    threads: int | None = None,
    winograd: str | None = None,
    engines: Path | None = None,
) -> int:
    """Run a bundle on sources and return the exit code; see `options.RUN_HELP` for the options.

    Raises:
        ValueError: an option does not fit.
        FileExistsError: something would be replaced.
        BrokenSource: a video ended early, or nothing could be read; what was there is written.
        EdgesegError: see `recording.record`.
    """
    check_engines(engines, [backend])
    drawing = Drawing(
        draws=draw,
        writes_iuv=iuv,
        options=_draw_options(
            labels=draw_labels,
            scores=draw_scores,
            colours=colours,
            keypoint_score=keypoint_score,
            line_width=line_width,
            surfaces=surfaces,
        ),
    )
    given = {"engines_folder": engines, "winograd": winograd}
    options: dict[str, Any] = {"backend": backend, "threads": threads}
    options |= {name: value for name, value in given.items() if value is not None}
    if batch > 1 and (backend == "auto" or backend.startswith("tensorrt")):
        options["options"] = EngineOptions(batch=batch)
    with terminal.progress() as progress, stop_on_signals() as stop:
        frames = open_sources(sources, stop=stop, max_reconnects=reconnect, recursive=recursive)
        outputs = output_folder(
            frames,
            out,
            drawing=drawing,
            writes_json=save_json,
            writes_lines=save_lines,
            overwrite=overwrite,
        )
        progress("load the bundle", 0, 1)
        with _opened(bundle, then, score, options) as predictor:
            used = predictor.backend.name
            outcome = record(
                predictor,
                frames,
                outputs,
                score=score,
                scene_cut=scene_cut,
                batch=batch,
                is_tracked=track,
                drawing=drawing,
                writes_json=save_json,
                writes_lines=save_lines,
                stop=stop,
                progress=progress,
            )
    terminal.show(*lines_from_outcome(outcome, backend=used, score=score))
    _remark(terminal, outcome)
    summary = {
        **dataclasses.asdict(outcome),
        "files": [str(file) for file in outcome.files],
        "folder": str(out),
        "backend": used,
    }
    terminal.finish(summary, last_line=out)
    if outcome.was_interrupted:
        terminal.note("interrupted; what was done by then is written")
        return INTERRUPTED
    if problem := problem_of_outcome(outcome):
        raise BrokenSource(problem)
    return 0


def _draw_options(
    *,
    labels: bool,
    scores: bool,
    colours: str | None,
    keypoint_score: float | None,
    line_width: int | None,
    surfaces: str | None,
) -> DrawOptions:
    """Return the options of `draw` that somebody chose."""
    options: DrawOptions = {}
    if not labels:
        options["labels"] = False
    if not scores:
        options["scores"] = False
    if colours is not None:
        options["colours"] = colours
    if keypoint_score is not None:
        options["keypoint_score"] = keypoint_score
    if line_width is not None:
        options["line_width"] = line_width
    if surfaces is not None:
        options["surfaces"] = surfaces
    return options


def _opened(
    bundle: Path, then: Path | None, score: float, options: Mapping[str, Any]
) -> Predictor[Any] | FacePipeline:
    """Return the model of a bundle, or that of two in a row."""
    first = load(bundle, **options)
    if then is None:
        return first
    with contextlib.ExitStack() as stack:
        stack.callback(first.close)
        second = load(then, **options)
        stack.callback(second.close)
        pipeline = FacePipeline(first, second, score=score)
        stack.pop_all()
    return pipeline


def _remark(terminal: Terminal, outcome: Outcome) -> None:
    if outcome.num_nonfinite:
        terminal.note(
            f"{outcome.num_nonfinite} detections were dropped or lost key points: NaN or infinite "
            "numbers"
        )
    if outcome.num_left_out:
        terminal.note(
            f"{outcome.num_left_out} detections have no surface: the model gives one to the best of a "
            "picture; leave out less sure ones with --score, or export with a larger --set max_surfaces"
        )
    if outcome.num_shrunk:
        terminal.note(
            f"{outcome.num_shrunk} frames fit into no shape of the bundle and were shrunk further than "
            "the original shrinks them; export with another --image-size to find small objects in them"
        )
