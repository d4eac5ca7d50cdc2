"""From the frames of a source to their results, in one session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.picture.sources import Frame, Name, Source
from edgeseg_runtime.results import Result
from edgeseg_runtime.session import Probe

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Model", "Stream", "results_of_source"]

Found = TypeVar("Found", bound=Result)
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

    def session(self, *, scene_cut: float | None = None) -> Stream[Any]:
        """Return a new stream of pictures."""
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
    ) -> Iterator[tuple[Frame, Any]]:
        """Yield every frame of a source with its result."""
        ...


def results_of_source(
    source: Source | Name, session: Stream[Found], *, stop: threading.Event | None = None
) -> Iterator[tuple[Frame, Found]]:
    """Yield every frame of a source with its result, and close the session.

    A new stream begins where a camera was opened again.

    Args:
        source: a `Source`, or what one is made of.
        session: is this function's own.
        stop: ends the stream after the current frame when it is set; so does that of a `Source`.

    Raises:
        SourceError: if there is nothing to read; at once, not on the first frame.
    """
    opened = source if isinstance(source, Source) else Source(source)
    return _results(opened, opened.frames(stop=stop), session)


def _results(
    source: Source, frames: Iterator[Frame], session: Stream[Found]
) -> Iterator[tuple[Frame, Found]]:
    num_reconnects = source.num_reconnects
    with session:
        for frame in frames:
            if source.num_reconnects != num_reconnects:
                num_reconnects = source.num_reconnects
                session.reset()
            yield frame, session(frame.image)
