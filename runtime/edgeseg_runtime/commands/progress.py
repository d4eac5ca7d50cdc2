"""Shows the stages of a long command: in one line of a terminal, as lines in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from edgeseg_runtime.text import printable

__all__ = ["Lines", "OneLine", "StageProgress", "StatusStream", "View"]

LINE_EVERY_S = 10.0
"""How often a stage that takes long writes a line into a file."""


class View(Protocol):
    """Where stages are shown, one after the other."""

    def begin(self, stage: str) -> None:
        """Show a new stage."""
        ...

    def update(self, done: int, total: int) -> None:
        """Show how far it is; a total of 1 or 0 only shows that it is alive."""
        ...

    def finish(self) -> None:
        """Show that it is done."""
        ...

    def close(self) -> None:
        """Leave the place to others."""
        ...


class StageProgress:
    """Shows one stage after the other, in the order in which they are reported; a context manager.

    Called as `progress(stage, done, total)`. When the next stage begins the one before counts as done.

    Args:
        view: where to show them; None for nowhere.
        is_cancelled: asked at every report and at the end; True raises KeyboardInterrupt.
    """

    def __init__(
        self, view: View | None, *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_cancelled = is_cancelled
        self._stage: str | None = None
        self._view = view

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


class Lines:
    """A line when a stage begins, one from time to time, and one when it ends.

    Args:
        write: takes a line.
        keeps_stages: write of every stage, and not only of what takes long.
    """

    def __init__(self, write: Callable[[str], None], *, keeps_stages: bool) -> None:
        self._write_line = write
        self._keeps_stages = keeps_stages
        self._last_s = time.monotonic()

    def begin(self, stage: str) -> None:
        """Write the stage's name."""
        self._reset(stage)
        if self._keeps_stages:
            self._write(f"  {stage}")

    def update(self, done: int, total: int) -> None:
        """Write a line if the last one is old."""
        self._done, self._total = done, total
        if time.monotonic() - self._last_s >= LINE_EVERY_S:
            self._write(f"  {self._stage}{self._count()}")

    def finish(self) -> None:
        """Write that the stage is done, and how long it took."""
        self._done = self._total or self._done
        if self._keeps_stages:
            self._write(f"✓ {self._stage}{self._count()}")

    def close(self) -> None:
        """Leave everything as it is written."""

    def _reset(self, stage: str) -> None:
        self._stage = stage
        self._done, self._total = 0, 0
        self._begin_s = time.monotonic()

    def _count(self) -> str:
        seconds = time.monotonic() - self._begin_s
        total = f"/{self._total}" if self._total else ""
        count = f" {self._done}{total}" if self._total > 1 or self._done > 1 else ""
        return f"{count}, {seconds:.1f} s"

    def _write(self, line: str) -> None:
        self._last_s = time.monotonic()
        self._write_line(line)


class StatusStream(Protocol):
    """A terminal whose last line is replaced by whatever is written next."""

    def write(self, text: str) -> int:
        """Write, in place of the status."""
        ...

    def show_status(self, line: str) -> None:
        """Replace the status; an empty one takes it away."""
        ...


class OneLine(Lines):
    """One line that shows the latest stage, and above it those that are finished.

    Args:
        stream: a terminal.
        keeps_stages: leave finished stages on the screen.
    """

    def __init__(self, stream: StatusStream, *, keeps_stages: bool) -> None:
        super().__init__(lambda line: _write_line(stream, line), keeps_stages=keeps_stages)
        self._stream = stream

    def begin(self, stage: str) -> None:
        """Show the stage's name, in place of the last one's."""
        self._reset(stage)
        self._show()

    def update(self, done: int, total: int) -> None:
        """Show how far the stage is."""
        self._done, self._total = done, total
        self._show()

    def close(self) -> None:
        """Take the line away."""
        self._stream.show_status("")

    def _show(self) -> None:
        self._stream.show_status(printable(f"  {self._stage}{self._count()}"))


def _write_line(stream: StatusStream, line: str) -> None:
    stream.write(printable(line) + "\n")
