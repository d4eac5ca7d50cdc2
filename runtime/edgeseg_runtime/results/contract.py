"""What every result of a model can do, whatever it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgeseg_runtime.picture.image import Image

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Result"]


class Result(Protocol):
    """What was found in one picture; read-only, and can be pickled."""

    @property
    def num_detections(self) -> int:
        """How many objects or regions were found; what `run` and `bench` count."""
        ...

    @property
    def num_nonfinite(self) -> int:
        """How much was left out or set to 0 because a number in it was NaN or infinite."""
        ...

    @property
    def num_left_out(self) -> int:
        """How many detections lack what the model gives to the best few only, such as surfaces."""
        ...

    def __len__(self) -> int:
        """Return the number of rows of the class's arrays, such as instances or points."""
        ...

    def filter(self, *, score: float | None = None) -> Self:
        """Return what has at least this score; None keeps everything."""
        ...

    def with_backend(self, name: str) -> Self:
        """Return the same as the result of another backend."""
        ...

    def materialize(self) -> None:
        """Compute now what is otherwise computed when it is first read, such as masks."""
        ...

    def records(self, image_id: int) -> list[dict[str, Any]]:
        """Return one JSON object per detection: an entry of a COCO results file, and beyond.

        What COCO has no key for follows under a name of its own. `image_id` is in each of them.
        """
        ...

    def draw(self, image: Image) -> Image:
        """Return a copy of the source picture with everything that was found drawn in.

        Raises:
            ImageError: if it is not a picture.
            ValueError: if it has another size than the picture of this result.
        """
        ...
