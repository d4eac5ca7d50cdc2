"""Shows the stages of a long command: as bars on a terminal, as lines in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

LINE_EVERY_S = 10.0
"""How often a stage that takes long writes a line into a file."""


class StageProgress:
    """Shows one stage after the other, in the order in which they are reported; a context manager.

    Called as `progress(stage, done, total)`. A stage whose total is 1 or unknown (0) only shows
    that it is alive. When the next stage begins the one before counts as done.

    Args:
        console: where to draw bars; on anything but a terminal lines are written.
        keeps_stages: leave finished stages on the screen; otherwise one line shows the latest, and
            a file gets only what takes long.
        is_visible: show anything at all.
        is_cancelled: asked at every report and at the end; True raises KeyboardInterrupt.
    """

    def __init__(
        self,
        console: Console,
        *,
        keeps_stages: bool = True,
        is_visible: bool = True,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_cancelled = is_cancelled
        self._stage: str | None = None
        self._view: _View | None = None
        if is_visible:
            self._view = (_Bars if console.is_terminal else _Lines)(console, keeps_stages)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is.

        Raises:
            KeyboardInterrupt: the command was cancelled.
        """
        if self._is_cancelled():
            raise KeyboardInterrupt
        if self._view is None:
            return
        if stage != self._stage:
            if self._stage is not None:
                self._view.finish()
            self._stage = stage
            self._view.begin(stage)
        self._view.update(done, total)

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._view is not None and self._stage is not None:
            if error is None:
                self._view.finish()
            self._view.close()
        if error is None and self._is_cancelled():
            raise KeyboardInterrupt


class _View(Protocol):
    """Where stages are shown."""

    def begin(self, stage: str) -> None: ...

    def update(self, done: int, total: int) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _Bars:
    """One bar per stage."""

    def __init__(self, console: Console, keeps_stages: bool) -> None:
        self._keeps_stages = keeps_stages
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=not keeps_stages,
        )

    def begin(self, stage: str) -> None:
        self._progress.start()
        if self._task is None or self._keeps_stages:
            self._task = self._progress.add_task(stage, total=None)
        else:
            self._progress.reset(self._task, description=stage, total=None)

    def update(self, done: int, total: int) -> None:
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total if total > 1 else None)

    def finish(self) -> None:
        assert self._task is not None
        task = next(task for task in self._progress.tasks if task.id == self._task)
        total = task.total or max(1, int(task.completed))
        self._progress.update(self._task, completed=total, total=total)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """A line when a stage begins, one from time to time, and one when it ends."""

    def __init__(self, console: Console, keeps_stages: bool) -> None:
        self._console = console
        self._keeps_stages = keeps_stages
        self._last_s = time.monotonic()

    def begin(self, stage: str) -> None:
        self._stage = stage
        self._done, self._total = 0, 0
        self._begin_s = time.monotonic()
        if self._keeps_stages:
            self._write(f"  {stage}")

    def update(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if time.monotonic() - self._last_s >= LINE_EVERY_S:
            self._write(f"  {self._stage}{self._count()}")

    def finish(self) -> None:
        self._done = self._total or self._done
        if self._keeps_stages:
            self._write(f"✓ {self._stage}{self._count()}")

    def close(self) -> None:
        """Leave everything as it is written."""

    def _count(self) -> str:
        seconds = time.monotonic() - self._begin_s
        total = f"/{self._total}" if self._total else ""
        count = f" {self._done}{total}" if self._total > 1 or self._done > 1 else ""
        return f"{count}, {seconds:.1f} s"

    def _write(self, line: str) -> None:
        self._last_s = time.monotonic()
        self._console.print(Text(line), soft_wrap=True)
