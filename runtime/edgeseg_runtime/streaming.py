"""From the frames of a source to their results: reading, computing and what follows at the same time."""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from edgeseg_runtime.batches import BatchSession
from edgeseg_runtime.belts import Belt
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.picture.sources import Frame, Name, Source
from edgeseg_runtime.results import Result
from edgeseg_runtime.session import Probe
from edgeseg_runtime.tracking import Tracker

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Model", "OpenStreams", "Stream", "results_of_source", "without_frames"]

MAX_WAITING = 4
"""Frames that wait for the model, and results that wait for the caller, at most."""
MAX_WAITING_BYTES = 64 * 2**20
"""Of their pictures, unless there is only one."""

Found = TypeVar("Found", bound=Result)
Item = TypeVar("Item")
Found_co = TypeVar("Found_co", bound=Result, covariant=True)


class Stream(Protocol[Found_co]):
    """One stream of pictures through a model, or through several: a `Session`, or what acts like one."""

    def __call__(self, image: Image) -> Found_co:
        """Return what is found in the next picture."""
        ...

    def reset(self) -> None:
        """Begin a new stream."""
        ...

    def close(self) -> None:
        """Free what the stream holds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Model(Protocol):
    """What follows sources: a `Predictor`, or several in a row."""

    @property
    def manifest(self) -> Manifest:
        """Of what finds the objects."""
        ...

    def kept_scale(self, size: tuple[int, int]) -> float:
        """Return how much is left of the scale that the original gives a picture of height, width."""
        ...

    def stream_frames(
        self,
        source: Source | Name,
        *,
        stop: threading.Event | None = None,
        probe: Probe | None = None,
        scene_cut: float | None = None,
        batch: int = 1,
        tracker: Any = None,
    ) -> Generator[tuple[Frame, Any], None, None]:
        """Yield every frame of a source with its result; what does not fit is refused at once."""
        ...


class OpenStreams:
    """The streams that a model has open, to be ended before its engines are freed."""

    def __init__(self) -> None:
        self._lines: weakref.WeakSet[_Line[Any]] = weakref.WeakSet()

    def add(self, line: _Line[Any]) -> None:
        """Remember a stream as long as somebody follows it."""
        self._lines.add(line)

    def close(self) -> None:
        """End all of them, and wait for their threads."""
        for line in list(self._lines):
            line.close()


_running = OpenStreams()


@functools.cache
def _end_all_at_exit() -> None:
    """Let no thread be in an engine while the interpreter goes down."""
    atexit.register(_running.close)


def results_of_source(
    source: Source | Name,
    session: Stream[Found] | BatchSession[Found],
    *,
    stop: threading.Event | None = None,
    batch: int = 1,
    tracker: Tracker[Found] | None = None,
    streams: OpenStreams,
) -> Generator[tuple[Frame, Found], None, None]:
    """Yield every frame of a source with its result, in order, and close the session.

    One thread reads and decodes, another one computes, and the caller does with the results what it
    likes: all at the same time. A few frames wait in between, of pictures and videos until there is
    place; of a camera or network stream the newest one waits, and older ones are dropped and counted
    in `Source.num_dropped`. An error comes after the results of the frames before it.

    The threads end with the generator: at its end, when it is closed, or with the last reference to it.
    A new stream begins where a camera was opened again.

    Args:
        source: a `Source`, or what one is made of.
        session: is this function's own.
        batch: how many frames a `BatchSession` is given at a time; the last ones may be fewer.
        tracker: gives the results identities, and begins anew where the stream does.
        stop: ends the stream after the current frame when it is set; so does that of a `Source`.
        streams: of the model, which ends them when it is closed.

    Raises:
        SourceError: if there is nothing to read; at once, not on the first frame.
        ValueError: for a batch of a camera or network stream.
    """
    opened = source if isinstance(source, Source) else Source(source)
    if opened.kind == "live" and isinstance(session, BatchSession):
        raise ValueError(
            f"batch is {batch}, and {opened.name} is a camera or network stream, whose frames come one "
            "after the other; leave the batch out"
        )
    together = session if isinstance(session, BatchSession) else _OneByOne(session)
    return _results(_Line(opened, together, batch, tracker, stop), streams)


def without_frames(
    pairs: Generator[tuple[Frame, Found], None, None],
) -> Generator[Found, None, None]:
    """Yield the results of a stream alone, and close it."""
    with contextlib.closing(pairs):
        for _, found in pairs:
            yield found


def _results(
    line: _Line[Found], streams: OpenStreams
) -> Generator[tuple[Frame, Found], None, None]:
    streams.add(line)
    try:
        line.start()
        for pair in line.found:
            if line.is_stopped():
                return
            yield pair
    finally:
        line.close()


class _Line(Generic[Found]):
    """Two threads in a row: frames come from a source, go through a session, and wait on `found`."""

    def __init__(
        self,
        source: Source,
        session: BatchSession[Found] | _OneByOne[Found],
        batch: int,
        tracker: Tracker[Found] | None,
        stop: threading.Event | None,
    ) -> None:
        self._source = source
        self._session = session
        self._batch = batch
        self._tracker = tracker
        self._leaving = _Leaving(stop)
        self._frames = source.frames(stop=self._leaving)
        is_live = source.kind == "live"
        most = 1 if is_live else MAX_WAITING
        self._read: Belt[tuple[Frame, int]] = Belt(
            max_items=most, max_bytes=MAX_WAITING_BYTES, keeps_newest=is_live
        )
        self.found: Belt[tuple[Frame, Found]] = Belt(max_items=most, max_bytes=MAX_WAITING_BYTES)
        self._threads = [
            threading.Thread(target=target, name=f"edgeseg {name}", daemon=True)
            for name, target in (("reads", self._read_frames), ("computes", self._compute))
        ]

    def start(self) -> None:
        _end_all_at_exit()
        _running.add(self)
        for thread in self._threads:
            thread.start()

    def is_stopped(self) -> bool:
        """Tell whether the stream is to end after the current frame."""
        return self._leaving.is_set() or self._source.is_stopped

    def close(self) -> None:
        """End the threads and wait for them; calling it twice is allowed."""
        self._leaving.set()
        self._read.leave()
        self.found.leave()
        for thread in self._threads:
            if thread.ident is not None:  # else it was never started
                thread.join()
        self._session.close()

    def _read_frames(self) -> None:
        num_dropped = self._source.num_dropped
        with _ended(self._read), contextlib.closing(self._frames) as frames:
            for frame in frames:
                if not self._read.put((frame, self._source.num_reconnects), frame.image.nbytes):
                    return
                self._source.num_dropped = num_dropped + self._read.num_dropped

    def _compute(self) -> None:
        with _ended(self.found), contextlib.closing(self._session):
            last_reconnects = self._source.num_reconnects
            for pairs in _collected(self._read, self._batch):
                if self.is_stopped():
                    return
                num_reconnects = pairs[-1][1]
                if num_reconnects != last_reconnects:
                    last_reconnects = num_reconnects
                    self._reset()
                found = self._session([frame.image for frame, _ in pairs])
                for (frame, _), one in zip(pairs, found, strict=True):
                    kept = one if self._tracker is None else self._tracker.update(one)
                    if not self.found.put((frame, kept), frame.image.nbytes):
                        return

    def _reset(self) -> None:
        self._session.reset()
        if self._tracker is not None:
            self._tracker.reset()


class _OneByOne(Generic[Found]):
    """A session that takes lists of pictures."""

    def __init__(self, session: Stream[Found]) -> None:
        self._session = session
        self.reset = session.reset
        self.close = session.close

    def __call__(self, images: Sequence[Image]) -> list[Found]:
        return [self._session(image) for image in images]


def _collected(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """Yield items in lists of so many; what is left before the end, or before an error, is a shorter one."""
    rest, source = [], iter(items)
    error: BaseException | None = None
    while error is None:
        try:
            rest.append(next(source))
        except BaseException as problem:  # noqa: BLE001  raised again below
            error = problem
        if rest and (error is not None or len(rest) == count):
            yield rest
            rest = []
    if not isinstance(error, StopIteration):
        raise error


class _Leaving(threading.Event):
    """Is set by `set`, or by another event."""

    def __init__(self, other: threading.Event | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())


@contextlib.contextmanager
def _ended(belt: Belt[Any]) -> Iterator[None]:
    """End a belt with the block, and with what it raises."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001  raised again by the thread that takes
        belt.end(error)
    else:
        belt.end()
