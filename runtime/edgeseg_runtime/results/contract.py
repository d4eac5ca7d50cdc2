"""What every result of a model can do, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.style import DrawOptions

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

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

    def draw(self, image: Image, **options: Unpack[DrawOptions]) -> Image:
        """Return a copy of the source picture with everything that was found drawn in.

        Args:
            image: the source picture.
            **options: the attributes of `Style`.

        Raises:
            ImageError: if it is not a picture.
            ValueError: if it has another size than the picture of this result, or an option has a
                value that makes no sense.
        """
        ...

    def to_dict(self, *, masks: str = "rle") -> dict[str, Any]:
        """Return everything that was found as dicts, lists, numbers and texts; see `Documented.to_dict`."""
        ...

    def to_json(self, *, masks: str = "rle", indent: int | None = None) -> str:
        """Return `to_dict` as JSON; see `Documented.to_json`."""
        ...

    def save(
        self,
        path: str | os.PathLike[str],
        image: Image | None = None,
        *,
        masks: str = "rle",
        **options: Unpack[DrawOptions],
    ) -> Path:
        """Write NAME.json, or a picture with everything drawn in; see `Documented.save`."""
        ...
