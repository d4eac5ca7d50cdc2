"""Shows the stages of a long command as bars."""

from __future__ import annotations

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


class Bars:
    """One bar per stage; a stage whose total is 1 or unknown (0) only shows that it is alive.

    Args:
        console: where to draw.
        keeps_stages: leave finished stages on the screen; otherwise one line shows the latest.
    """

    def __init__(self, console: Console, *, keeps_stages: bool) -> None:
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
        """Add a bar, or take the last one."""
        self._progress.start()
        if self._task is None or self._keeps_stages:
            self._task = self._progress.add_task(stage, total=None)
        else:
            self._progress.reset(self._task, description=stage, total=None)

    def update(self, done: int, total: int) -> None:
        """Move the bar."""
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total if total > 1 else None)

    def finish(self) -> None:
        """Fill the bar."""
        assert self._task is not None
        task = next(task for task in self._progress.tasks if task.id == self._task)
        total = task.total or max(1, int(task.completed))
        self._progress.update(self._task, completed=total, total=total)

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()
