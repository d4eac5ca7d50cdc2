"""Runs a bundle on pictures, videos and cameras, and writes what it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
from edgeseg_runtime.predictor import load

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
    draw: bool = True,
    surfaces: str | None = None,
    iuv: bool = False,
    save_json: bool = True,
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
    drawing = Drawing(draws=draw, surfaces=surfaces, writes_iuv=iuv)
    given = {"engines_folder": engines, "winograd": winograd}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with terminal.progress() as progress, stop_on_signals() as stop:
        frames = open_sources(sources, stop=stop, max_reconnects=reconnect, recursive=recursive)
        outputs = output_folder(
            frames, out, drawing=drawing, writes_json=save_json, overwrite=overwrite
        )
        progress("load the bundle", 0, 1)
        with load(bundle, backend=backend, threads=threads, **options) as predictor:
            used = predictor.backend.name
            outcome = record(
                predictor,
                frames,
                outputs,
                score=score,
                scene_cut=scene_cut,
                drawing=drawing,
                writes_json=save_json,
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
