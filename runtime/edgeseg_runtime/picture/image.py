"""Pictures on their way in: check, read, resize.

A picture is (H, W, 3) uint8, channels in the order B, G, R, as `cv2.imread` gives it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.errors import ImageError, ImageTooLarge
from edgeseg_runtime.picture.headers import FORMATS, Header, read_header, without_animation
from edgeseg_runtime.picture.pillow_bilinear import resize_pillow_bilinear

__all__ = [
    "Image",
    "check_image",
    "check_pixels",
    "decode_image",
    "max_pixels",
    "read_image",
    "resize_image",
    "resize_linear_fixed_point",
]

Image = npt.NDArray[np.uint8]

DEFAULT_MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
_LIMIT_VARIABLE = "EDGESEG_MAX_IMAGE_PIXELS"

_CONVERSIONS = {  # found layout -> the call that makes a picture of it
    "gray": "cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)",
    "one channel": "cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)",
    "BGRA": "cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)",
    "16 bits": "cv2.convertScaleAbs(image, alpha=1 / 257)",
    "float": "cv2.convertScaleAbs(image, alpha=255)  (if the values are in 0..1)",
}


def check_image(image: Any) -> Image:
    """Return the picture if it is one; memory layout and writability do not matter.

    Raises:
        ImageError: if it is not (H, W, 3) uint8; the message names the conversion.
        ImageTooLarge: if it has more pixels than the limit allows.
    """
    if not isinstance(image, np.ndarray):
        hint = "cv2.imread could not read the file" if image is None else "pass a NumPy array"
        raise ImageError(f"the picture is {type(image).__name__}; {_expected()}: {hint}")
    found = f"the picture is {image.dtype} of shape {image.shape}; {_expected()}"
    layout = _layout(image)
    if layout in _CONVERSIONS:
        raise ImageError(f"{found}. Convert it: {_CONVERSIONS[layout]}")
    if layout is not None:
        raise ImageError(found)
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise ImageError(f"{found}, and neither side may be 0")
    check_pixels(height, width, "the picture")
    return cast("Image", image)


def check_pixels(height: int, width: int, source: str) -> None:
    """Refuse a picture with more pixels than the limit allows, see `max_pixels`.

    Raises:
        ImageTooLarge: if it is too large; the message names the source.
    """
    limit = max_pixels()
    if height * width > limit:
        raise ImageTooLarge(
            f"{source} has {height}x{width} pixels; expected at most {limit}. "
            f"Shrink it, or raise the limit: {_LIMIT_VARIABLE}={height * width}"
        )


def read_image(path: str | os.PathLike[str]) -> Image:
    """Return a picture read from a file, turned upright as its EXIF data say.

    Raises:
        ImageError: if the file is missing, damaged, cut off or no picture.
        ImageTooLarge: if its header claims more pixels than the limit allows.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise ImageError(f"{file} does not exist or is not a file")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ImageTooLarge(f"{file} is larger than {MAX_FILE_BYTES} bytes")
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file} cannot be read ({error.strerror})") from error
    return decode_image(data, source=os.fspath(file))


def decode_image(data: bytes, *, source: str = "the picture") -> Image:
    """Return the picture that an encoded file holds; see `read_image`.

    Gray pictures and those with transparency become B, G, R. Those with 16 bits per channel are
    refused, because the decoder would cut them to 8 in silence.

    Args:
        data: content of a file in one of `headers.FORMATS`; of several pictures, the first counts.
        source: where it came from, for the messages.
    """
    if not data:
        raise ImageError(f"{source} is empty; expected a {' or '.join(FORMATS)} picture")
    try:
        header = read_header(data)
    except ValueError as error:
        raise ImageError(
            f"{source} cannot be used as a picture: {error}. {_EXPORT_AGAIN}"
        ) from error
    _check_header(header, source)
    if header.format == "PNG":  # of an animation OpenCV returns damaged pictures, not initialized
        data = without_animation(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"{source} cannot be decoded ({error.err}). {_EXPORT_AGAIN}") from error
    if image is None and header.format in _OPTIONAL_FORMATS:
        raise ImageError(
            f"{source} cannot be decoded: it is damaged, or this OpenCV ({cv2.__version__}) reads "
            f"no {header.format}. Save it as PNG or JPEG"
        )
    sides = {header.height, header.width}
    is_exact = header.format != "AVIF"  # which may ask for a part of the picture
    if image is None or (is_exact and set(image.shape[:2]) != sides):
        raise ImageError(f"{source} cannot be decoded: the file is damaged. {_EXPORT_AGAIN}")
    return cast("Image", image)


_OPTIONAL_FORMATS = ("GIF", "AVIF", "HEIC")  # not in every OpenCV
_EXPORT_AGAIN = "Copy it again, or save it again as PNG or JPEG"


def max_pixels() -> int:
    """Return how many pixels a picture may have: 64 million, or EDGESEG_MAX_IMAGE_PIXELS.

    Raises:
        ValueError: if the environment variable is not a positive number.
    """
    text = os.environ.get(_LIMIT_VARIABLE)
    if text is None:
        return DEFAULT_MAX_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{_LIMIT_VARIABLE} is {text!r}; expected a positive number of pixels")
    return int(text)


def resize_image(image: Image, size: tuple[int, int], *, interpolation: str) -> Image:
    """Return the picture resized.

    Args:
        image: (H, W, 3) uint8.
        size: height, width of the result.
        interpolation: "linear": half-pixel centres, the ratio taken per axis as old / new size, no
            antialiasing (torchvision's rule, up to the rounding to uint8); "pillow_bilinear":
            antialiased, as Pillow resizes uint8 (detectron2's rule); "opencv_linear": as "linear", but rounded as
            OpenCV's INTER_LINEAR rounds on this processor, which is what mmcv's originals saw.
    """
    if image.shape[:2] == size:
        return image
    if interpolation == "pillow_bilinear":
        return resize_pillow_bilinear(image, size)
    if interpolation == "linear":
        # The same result on every processor, which INTER_LINEAR does not promise.
        resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
        return cast("Image", resized)
    if interpolation == "opencv_linear":
        return cast("Image", cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))
    raise ValueError(
        f"interpolation is {interpolation!r}; expected linear, pillow_bilinear or opencv_linear"
    )


def resize_linear_fixed_point(
    image: Image, size: tuple[int, int], *, scale: tuple[float, float] | None = None
) -> tuple[Image, Image]:
    """Return the picture resized with half-pixel centres, in whole grey levels and 1/256 of one.

    For originals that resize in floating point: whole + fraction / 256 is within 1/512 of a grey
    level of their result, where uint8 alone is within 1/2.

    Args:
        image: (H, W, 3) uint8.
        size: height, width of the result.
        scale: x, y; pixels of the result per pixel of the picture, where it is not exactly the ratio
            of the sizes.
    """
    if image.shape[:2] == size and (scale is None or scale == (1, 1)):
        return image, np.zeros_like(image)
    fine = image.astype(np.uint16) << 8
    resized = np.asarray(
        cv2.resize(fine, size[::-1], interpolation=cv2.INTER_LINEAR)
        if scale is None
        else _scaled(fine, size, scale),
        np.uint16,
    )
    return (resized >> 8).astype(np.uint8), (resized & 255).astype(np.uint8)


def _scaled(
    image: npt.NDArray[Any], size: tuple[int, int], scale: tuple[float, float]
) -> npt.NDArray[Any]:
    """Return a picture resized by factors, of exactly this size: OpenCV may round it in another way."""
    resized: npt.NDArray[Any] = cv2.resize(
        image, None, fx=scale[0], fy=scale[1], interpolation=cv2.INTER_LINEAR
    )
    missing = [max(wanted - found, 0) for wanted, found in zip(size, resized.shape, strict=False)]
    if any(missing):
        resized = np.pad(resized, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return resized[: size[0], : size[1]]


def _layout(image: npt.NDArray[Any]) -> str | None:
    """Return the name of a layout that is not a picture's, or None for a picture."""
    if image.dtype == np.uint16:
        return "16 bits"
    if image.dtype.kind == "f":
        return "float"
    if image.dtype != np.uint8:
        return "other type"
    if image.ndim == 2:
        return "gray"
    if image.ndim != 3:
        return "other rank"
    return {1: "one channel", 3: None, 4: "BGRA"}.get(image.shape[2], "other channels")


def _expected() -> str:
    return "expected uint8 of shape (height, width, 3), channels B, G, R"


def _check_header(header: Header, source: str) -> None:
    if header.height == 0 or header.width == 0:
        raise ImageError(f"{source} has no pixels ({header.height}x{header.width})")
    check_pixels(header.height, header.width, source)
    if header.bits > 8:
        raise ImageError(
            f"{source} has {header.bits} bits per channel; expected 8. Read it with "
            f"cv2.IMREAD_UNCHANGED, then convert it: {_CONVERSIONS['16 bits']}"
        )
