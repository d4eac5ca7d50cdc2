"""How a picture becomes the network's input, as a manifest describes it."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg_runtime.bundle.values import (
    as_tuple,
    check_choice,
    check_int,
    check_number,
    refuse,
)

MAX_PIXELS = 64_000_000
RESIZES = (
    "shortest_edge",
    "letterbox",
    "stretch",
    "original",
    "affine",
    "center",
    "center_odd",
    "square_crop",
)
SAMPLED_RESIZES = (
    "affine",
    "center",
    "center_odd",
    "square_crop",
)  # positions, not sizes, are computed
INTERPOLATIONS = ("linear", "pillow_bilinear", "opencv_linear")
FACTOR = "factor"
"""Rounding of a size that the steps between the pixels do not follow."""
SIZE_ROUNDINGS = ("floor", "half_up", FACTOR)
CROP_ROUNDINGS = ("truncate", "none", "hrnet", "pfld", "pfld_camera")
CROP_MARGIN = 1.25


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture becomes the network's input.

    Attributes:
        height: height of the network's input in pixels, with padding.
        width: width of the network's input in pixels, with padding.
        resize: where the picture lands in the input.

            - "shortest_edge" scales the shorter side to `min_size` unless the longer one then
              exceeds `max_size`, and shrinks further what would not fit;
            - "letterbox" fills the input as far as the aspect ratio allows;
            - "stretch" ignores the aspect ratio;
            - "original" leaves the picture as it is, and shrinks one that would not fit;
            - "affine" scales by width / longer side of the picture about the picture's centre
              (CenterNet's `fix_res`); an input that is not square may cut the picture;
            - "center" lays the picture's centre over the input's without scaling (CenterNet's
              `keep_res`), and shrinks one that would not fit;
            - "center_odd" does the same; of a picture that is as large as an input of an odd size,
              the last row or column is left out (CornerNet);
            - "square_crop" scales a square about the centre of a given box to the input, for
              models that look at one box at a time; see `Manifest.looks_at_boxes`.

            The first four put the picture at the top left.
        min_size: shorter side in pixels; only for "shortest_edge".
        max_size: bound of the longer side in pixels, or None for no bound; only for
            "shortest_edge".
        interpolation: "linear" (half-pixel centres, no antialiasing), "pillow_bilinear"
            (antialiased, bit for bit as Pillow resizes uint8) or "opencv_linear" ("linear" with the
            rounding of OpenCV's INTER_LINEAR, which may depend on the processor).
        rounding: of the resized size: "floor", "half_up" (int(x + 0.5)) or "factor" (half to even, and
            the scale before rounding is that of the pixels; only for "shortest_edge" with "linear");
            for "square_crop" of
            the square's corners: "truncate" to whole pixels, toward zero, "none", or "hrnet",
            "pfld" and "pfld_camera" for all of these originals' cropping, see `crops.py`.
        pad_value: B, G, R in 0..255 of what the picture does not cover.
        crop_margin: side of the square over the longer side of the box; only for "square_crop".
            Without a box the square has the picture's longer side.
    """

    height: int
    width: int
    resize: str
    min_size: int | None = None
    max_size: int | None = None
    interpolation: str = "linear"
    rounding: str = "floor"
    pad_value: tuple[int, int, int] = (0, 0, 0)
    crop_margin: float = CROP_MARGIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad_value", as_tuple("pad_value", self.pad_value))
        check_int("height", self.height, 1, 2**15)
        check_int("width", self.width, 1, 2**15)
        if self.height * self.width > MAX_PIXELS:
            refuse("height x width", f"{self.height}x{self.width}", f"at most {MAX_PIXELS} pixels")
        check_choice("resize", self.resize, RESIZES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.resize in SAMPLED_RESIZES and self.interpolation != "linear":
            refuse("interpolation", self.interpolation, f"linear with resize {self.resize}")
        is_crop = self.resize == "square_crop"
        check_choice("rounding", self.rounding, CROP_ROUNDINGS if is_crop else SIZE_ROUNDINGS)
        is_factor = self.rounding == FACTOR
        if is_factor and (self.resize, self.interpolation) != ("shortest_edge", "linear"):
            found = f"{self.resize}, {self.interpolation}"
            refuse("resize, interpolation", found, f"shortest_edge, linear with rounding {FACTOR}")
        if self.rounding == "hrnet" and self.height != self.width:
            refuse("width", self.width, f"the height, {self.height}, with rounding hrnet")
        check_number("crop_margin", self.crop_margin, 0.01, 100.0)
        if not is_crop and self.crop_margin != CROP_MARGIN:
            refuse("crop_margin", self.crop_margin, "only square_crop to have one")
        if self.resize == "shortest_edge":
            check_int("min_size", self.min_size, 1, 2**15)
            if self.max_size is not None:
                check_int("max_size", self.max_size, 1, 2**15)
        elif self.min_size is not None or self.max_size is not None:
            refuse("min_size and max_size", (self.min_size, self.max_size), "only shortest_edge")
        if len(self.pad_value) != 3:
            refuse("pad_value", self.pad_value, "three integers B, G, R in 0..255")
        for index, value in enumerate(self.pad_value):
            check_int(f"pad_value[{index}]", value, 0, 255)
