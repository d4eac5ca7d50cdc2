"""Textures of surfaces: unrolled from a picture, and wrapped around the persons of another one.

A texture has a square tile for each part, in the layout of DensePose's texture files: u runs to the
right, v upwards. Shape suffixes: T tiles, S side of a tile, N pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.picture.image import Image, check_image
from edgeseg_runtime.results.masks import read_only
from edgeseg_runtime.results.surfaces import Surface

__all__ = ["Texture", "picture_from_texture", "texture_from_picture"]

_ATLAS_ROWS = 6


@dataclass(frozen=True, eq=False)
class Texture:
    """What each part of a surface looks like.

    Attributes:
        tiles: (T, S, S, 3) uint8 BGR; tile t is part t + 1.
        is_seen: (T, S, S) bool: where anything is known.

    Raises:
        ValueError: if they do not fit together.
    """

    tiles: npt.NDArray[np.uint8]
    is_seen: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        tiles, is_seen = np.asarray(self.tiles), np.asarray(self.is_seen)
        shape = tiles.shape
        if tiles.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise ValueError(
                f"tiles are {tiles.dtype} of shape {shape}; expected uint8 (T, S, S, 3)"
            )
        if is_seen.dtype != np.bool_ or is_seen.shape != shape[:3]:
            raise ValueError(
                f"is_seen is {is_seen.dtype} of shape {is_seen.shape}; expected bool {shape[:3]}"
            )
        object.__setattr__(self, "tiles", read_only(tiles))
        object.__setattr__(self, "is_seen", read_only(is_seen))

    @classmethod
    def from_atlas(cls, atlas: Image) -> Texture:
        """Return the texture of one picture with all tiles, as `atlas` gives it: 6 rows, filled column by column.

        Raises:
            ValueError: if the picture cannot be divided into 6 rows of squares.
        """
        check_image(atlas)
        height, width = atlas.shape[:2]
        side = height // _ATLAS_ROWS
        if side == 0 or height % _ATLAS_ROWS or width % side:
            raise ValueError(
                f"the atlas is {height}x{width}; expected {_ATLAS_ROWS} rows of square tiles, such as 1200x800"
            )
        grid = atlas.reshape(_ATLAS_ROWS, side, width // side, side, 3)
        tiles = grid.transpose(2, 0, 1, 3, 4).reshape(-1, side, side, 3)
        return cls(tiles, np.ones(tiles.shape[:3], np.bool_))

    def atlas(self) -> Image:
        """Return all tiles in one picture: 6 rows, filled column by column, black where nothing is known."""
        count, side = self.tiles.shape[:2]
        columns = -(-count // _ATLAS_ROWS)
        grid = np.zeros((columns * _ATLAS_ROWS, side, side, 3), np.uint8)
        np.copyto(grid[:count], self.tiles, where=self.is_seen[..., None])
        grid = grid.reshape(columns, _ATLAS_ROWS, side, side, 3).transpose(1, 2, 0, 3, 4)
        return np.ascontiguousarray(grid).reshape(_ATLAS_ROWS * side, columns * side, 3)


def texture_from_picture(
    image: Image, surfaces: Surface | Iterable[Surface], *, side: int = 200, num_parts: int = 24
) -> Texture:
    """Return what a picture shows of a person's surface; where several pixels meet, their mean.

    Args:
        image: (H, W, 3) uint8 BGR, the picture that the surfaces were found in.
        surfaces: of one person, or of several who look alike.
        side: of a tile in texels.
        num_parts: how many tiles.

    Raises:
        ImageError: if it is not a picture.
        ValueError: if there is no texel or tile.
    """
    check_image(image)
    if side < 1 or not 1 <= num_parts <= 255:
        raise ValueError(
            f"side {side}, num_parts {num_parts} found; expected side >= 1, 1..255 parts"
        )
    num_texels = num_parts * side * side
    counts, sums = np.zeros(num_texels), np.zeros((num_texels, 3))
    for surface in [surfaces] if isinstance(surfaces, Surface) else surfaces:
        region, parts, texels_N = _texels(image, surface, side)
        is_known = (parts > 0) & (parts <= num_parts)
        texels_N = texels_N[is_known]
        counts += np.bincount(texels_N, minlength=num_texels)
        for channel in range(3):
            values_N = region[..., channel][is_known]
            sums[:, channel] += np.bincount(texels_N, values_N, minlength=num_texels)
    tiles = np.rint(sums / np.maximum(counts, 1)[:, None]).astype(np.uint8)
    shape = (num_parts, side, side)
    return Texture(tiles.reshape(*shape, 3), counts.reshape(shape) > 0)


def picture_from_texture(image: Image, surface: Surface, texture: Texture) -> Image:
    """Return a copy of a picture in which a person wears a texture, wherever the texture is known.

    Args:
        image: (H, W, 3) uint8 BGR, the picture that the surface was found in.
        surface: of the person.
        texture: with a tile for each part that is to be painted; others stay as they are.

    Raises:
        ImageError: if it is not a picture.
    """
    check_image(image)
    painted = np.array(image, order="C")
    count, side = texture.tiles.shape[:2]
    region, parts, texels = _texels(painted, surface, side)
    is_known = (parts > 0) & (parts <= count)
    is_known[is_known] = texture.is_seen.reshape(-1)[texels[is_known]]
    region[is_known] = texture.tiles.reshape(-1, 3)[texels[is_known]]
    return painted


def _texels(
    image: Image, surface: Surface, side: int
) -> tuple[Image, npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """Return a surface's pixels of a picture, their parts, and the number of the texel of each."""
    left, top, width, height = surface.box_xywh
    region = image[top : top + height, left : left + width]
    inside = slice(0, region.shape[0]), slice(0, region.shape[1])
    parts = surface.parts[inside]
    column, row = (
        np.rint(np.clip(values[inside], 0, 1) * np.float32(side - 1)).astype(np.intp)
        for values in (surface.u, 1 - surface.v)
    )
    return region, parts, ((parts.astype(np.intp) - 1) * side + row) * side + column
