"""All levels of a feature pyramid in one map, the atlas, which one sampling reads wherever a box belongs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Map = TypeVar("Map")


class AtlasLayout(NamedTuple):
    """Where the levels lie in their atlas: the finest on top, the others side by side below it."""

    height: int
    width: int
    corners: tuple[tuple[int, int], ...]  # x, y of each level


def atlas_layout(level_sizes: Sequence[tuple[int, int]]) -> AtlasLayout:
    """Return the layout of levels of these heights and widths, finest first."""
    (height, width), *coarse = level_sizes
    widths = [level_width for _, level_width in coarse]
    return AtlasLayout(
        height + max((level_height for level_height, _ in coarse), default=0),
        max(width, sum(widths)),
        ((0, 0), *((sum(widths[:level]), height) for level in range(len(widths)))),
    )


def pyramid_atlas(features: Sequence[Tensor]) -> Tensor:
    """Return the (B, C, Ha, Wa) atlas of the levels (B, C, Hl, Wl), finest first, laid out as `atlas_layout` says.

    Boxes are pooled from it by `atlas_roi_align`, as often as is needed. What no level covers is of no meaning. Inside
    `torch.onnx.export(dynamo=True)` this is one node, `edgeseg::PyramidAtlas`.

    Raises:
        ValueError: if there is no level.
    """
    if not features:
        raise ValueError("no feature maps, expected one for each level of the pyramid")
    level_sizes = [(map_.shape[2], map_.shape[3]) for map_ in features]
    if torch.onnx.is_in_onnx_export():
        layout = atlas_layout(level_sizes)
        return torch.onnx.ops.symbolic(
            "edgeseg::PyramidAtlas",
            list(features),
            dtype=features[0].dtype,
            shape=(*features[0].shape[:2], layout.height, layout.width),
            version=1,
        )

    def pad(map_: Tensor, axis: int, count: int) -> Tensor:
        return F.pad(map_, (0, count) if axis == 3 else (0, 0, 0, count))

    return join_levels(
        features,
        level_sizes,
        concat=lambda first, second, axis: torch.cat([first, second], axis),
        pad=pad,
    )


def join_levels(
    levels: Sequence[Map],
    level_sizes: Sequence[tuple[int, int]],
    *,
    concat: Callable[[Map, Map, int], Map],
    pad: Callable[[Map, int, int], Map],
) -> Map:
    """Return the atlas of maps of any kind; each is copied as rarely as possible, since the fine ones are large.

    What is free beside the coarse ones is filled with copies of them, which no sample of weight reads: ONNX Runtime
    concatenates several times faster than it pads. Zeros fill what no copy fits.

    Args:
        levels: Finest first.
        level_sizes: Their heights and widths.
        concat: (first, second, axis) -> both, one behind the other.
        pad: (map, axis, count) -> the map and as many zeros behind it.
    """

    def grow(map_: Map, size: int, wanted: int, axis: int) -> Map:
        if wanted == size:
            return map_
        return concat(map_, map_, axis) if wanted == 2 * size else pad(map_, axis, wanted - size)

    if len(levels) == 1:
        return levels[0]
    (_, finest_width), *coarse = level_sizes
    used = sum(width for _, width in coarse)
    atlas_width = max(finest_width, used)
    strip_height, width = coarse[-1]
    strip = grow(levels[-1], width, width + atlas_width - used, 3)
    for level, (height, _) in zip(levels[-2:0:-1], coarse[-2::-1], strict=True):
        strip = concat(level, grow(strip, strip_height, height, 2), 3)
        strip_height = height
    return concat(grow(levels[0], finest_width, atlas_width, 3), strip, 2)
