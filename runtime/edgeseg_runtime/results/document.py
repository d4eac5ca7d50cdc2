"""Results as plain dicts, as JSON and as files, the same for every class of results."""

from __future__ import annotations

import json
import math
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2

from edgeseg_runtime.bundle.files import write_synced
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results.style import DrawOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MASK_FORMS", "Documented", "check_mask_form"]

MASK_FORMS = ("rle", "polygons", "none")
"""How masks are written."""


class _Result(Protocol):
    """What is asked of a class that has the methods below."""

    @property
    def image_size(self) -> tuple[int, int] | None: ...

    @property
    def backend(self) -> str: ...

    @property
    def num_nonfinite(self) -> int: ...

    def to_dict(self, *, masks: str = "rle") -> dict[str, Any]: ...

    def to_json(self, *, masks: str = "rle", indent: int | None = None) -> str: ...

    def draw(self, image: Image, **options: Unpack[DrawOptions]) -> Image: ...

    def _details(self, masks: str) -> dict[str, Any]: ...


class Documented:
    """Gives a class of results `to_dict`, `to_json` and `save`.

    The class has `_details(masks)`: the entries of its own, `detections` among them.
    """

    def to_dict(self: _Result, *, masks: str = "rle") -> dict[str, Any]:
        """Return everything that was found in the picture as dicts, lists, numbers and texts.

        `height` and `width` of the picture, `backend`, `num_nonfinite`, and `detections`: of each
        `label` and `name`, `score`, `box` as x1 y1 x2 y2 in source pixels, and whatever else the
        model gives, under the names of `records`. Points are lists [x, y, score], or as long as
        they are in the arrays.

        Args:
            masks: "rle" for `segmentation`, compressed run-length encodings as in COCO's results;
                "polygons" for `polygons`, of each part the outline and its holes as lists of [x, y];
                "none" to leave masks out.

        Raises:
            ValueError: for another form of masks.
        """
        check_mask_form(masks)
        height, width = self.image_size or (None, None)
        return {
            "height": height,
            "width": width,
            "backend": self.backend,
            "num_nonfinite": self.num_nonfinite,
            **self._details(masks),
        }

    def to_json(self: _Result, *, masks: str = "rle", indent: int | None = None) -> str:
        """Return `to_dict` as JSON, with null in place of numbers that JSON lacks.

        Args:
            masks: see `to_dict`.
            indent: spaces of each level; None for one line.

        Raises:
            ValueError: for another form of masks.
        """
        return json.dumps(_finite(self.to_dict(masks=masks)), indent=indent, allow_nan=False)

    def save(
        self: _Result,
        path: str | os.PathLike[str],
        image: Image | None = None,
        *,
        masks: str = "rle",
        **options: Unpack[DrawOptions],
    ) -> Path:
        """Write the result into a file, over one that is there, and return its path.

        Args:
            path: NAME.json for `to_json`; of a picture, such as NAME.jpg or NAME.png, for `draw`.
            image: the source picture, to draw into.
            masks: see `to_dict`.
            **options: see `draw`.

        Raises:
            ValueError: for another kind of file, a picture without `image`, or what `draw` refuses.
            OSError: the file cannot be written; what was there before is still there.
        """
        file = Path(path)
        if file.suffix.lower() == ".json":
            if image is not None or options:
                raise ValueError(
                    f"{file.name} is JSON, and a picture or options of drawing are given; leave them "
                    "out, or save a picture such as NAME.jpg"
                )
            return _written(file, self.to_json(masks=masks, indent=1).encode() + b"\n")
        if image is None:
            raise ValueError(
                f"the path is {file.name!r} without a picture; expected NAME.json, or the source "
                "picture to draw into: save(path, image)"
            )
        return _written(file, _encoded(file, self.draw(image, **options)))


def check_mask_form(masks: str) -> None:
    """Refuse a form of masks that is not one of `MASK_FORMS`.

    Raises:
        ValueError: it is another.
    """
    if masks not in MASK_FORMS:
        raise ValueError(f"masks is {masks!r}; expected one of {', '.join(MASK_FORMS)}")


def _finite(value: Any) -> Any:
    """Return the same with None for numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _encoded(file: Path, picture: Image) -> bytes:
    try:
        is_encoded, data = cv2.imencode(file.suffix, picture)
    except cv2.error:
        is_encoded, data = False, None
    if not is_encoded or data is None:
        raise ValueError(
            f"OpenCV writes no picture called {file.name!r}; expected a name such as NAME.jpg, "
            "NAME.png or NAME.json"
        )
    return data.tobytes()


def _written(file: Path, content: bytes) -> Path:
    """Write a file beside its place and rename it: it is never half written."""
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        write_synced(partial, content)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return file
