"""Shows the stages of a long command as progress bars."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

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


class StageProgress:
    """One bar per stage, in the order in which they are reported; a context manager.

    Called as `progress(stage, done, total)`. A stage whose total is 1 or unknown (0) only shows
    that it is alive. When the next stage begins the one before counts as done.

    Args:
        console: where to draw; on anything but a terminal only the finished bars are written.
        keeps_stages: leave finished stages on the screen; otherwise one line shows the latest.
        is_visible: draw at all.
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
        self._is_visible = is_visible
        self._is_cancelled = is_cancelled
        self._keeps_stages = keeps_stages
        self._stage: str | None = None
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

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is.

        Raises:
            KeyboardInterrupt: the command was cancelled.
        """
        if self._is_cancelled():
            raise KeyboardInterrupt
        if not self._is_visible:
            return
        if stage != self._stage:
            self._finish()
            self._begin(stage)
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total if total > 1 else None)

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        if self._stage is not None:
            self._progress.stop()
        if error is None and self._is_cancelled():
            raise KeyboardInterrupt

    def _begin(self, stage: str) -> None:
        self._progress.start()
        self._stage = stage
        if self._task is None or self._keeps_stages:
            self._task = self._progress.add_task(stage, total=None)
        else:
            self._progress.reset(self._task, description=stage, total=None)

    def _finish(self) -> None:
        if self._task is None:
            return
        task = next(task for task in self._progress.tasks if task.id == self._task)
        total = task.total or max(1, int(task.completed))
        self._progress.update(self._task, completed=total, total=total)
