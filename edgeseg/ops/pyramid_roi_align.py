"""RoI-Align over the levels of a feature pyramid, each box pooled from the level of its size.

Shape suffixes: B pictures, R boxes a picture, L levels, C channels, N cells of all atlases, S samples of all boxes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.ops.pyramid_atlas import atlas_layout, pyramid_atlas

LEVEL_RULES = ("torchvision", "detectron2", "upsnet", "mmdetection")
LAST_PIXEL = {"upsnet": 1.0}
"""Rules that count the pixel at x2 y2 as part of a box -> what its sides are longer; of the level only."""
MAX_BIN_CELLS = 1024  # adaptive sampling of larger bins gives 0: no map is that large, and the work would not end


def pyramid_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    *,
    strides: Sequence[int],
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    level_rule: str = "torchvision",
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    rois_last: bool = False,
    min_cells: float = 1.0,
) -> Tensor:
    """Return average-pooled bilinear samples of each box, taken from the pyramid level that fits its area.

    Joins the levels and pools from their atlas: see `atlas_roi_align`. What pools from the same levels more than once
    shares the atlas by calling `pyramid_atlas` itself.

    Args:
        features: One (B, C, Hl, Wl) map per level, finest first, of one dtype.
        rois: As for `atlas_roi_align`, and so are the following.
        strides: Network pixels per cell of each level.
        output_size: Bins per box.
        sampling_ratio: Samples per bin along each axis.
        aligned: Whether boxes are shifted by half a cell.
        level_rule: How the level of a box is rounded.
        canonical_scale: Side in pixels of the box that belongs to `canonical_level`.
        canonical_level: log2 of the stride from which a box of `canonical_scale` is pooled.
        rois_last: Whether the boxes are the last axis of the result.
        min_cells: Least width and height of a box in cells.

    Returns:
        (B, R, C, PH, PW) or, with `rois_last`, (B, C, PH, PW, R); dtype of `features`.

    Raises:
        ValueError: if the numbers of maps and strides differ, the strides do not form a pyramid or the rule is unknown.
    """
    return atlas_roi_align(
        pyramid_atlas(features),
        rois,
        level_sizes=[(map_.shape[2], map_.shape[3]) for map_ in features],
        strides=strides,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        level_rule=level_rule,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
        rois_last=rois_last,
        min_cells=min_cells,
    )


def atlas_roi_align(
    atlas: Tensor,
    rois: Tensor,
    *,
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    level_rule: str = "torchvision",
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    rois_last: bool = False,
    min_cells: float = 1.0,
) -> Tensor:
    """Return average-pooled bilinear samples of each box, taken from the pyramid level that fits its area.

    Agrees with torchvision's MultiScaleRoIAlign and roi_align (CPU kernels) and with detectron2's ROIPooler:
    samples more than one cell outside the map count as 0, those up to one cell outside take the border's value.
    Differentiable with respect to `atlas` (never to `rois`, as in the originals). A box with a coordinate that
    is not finite gives zeros; so does, with adaptive sampling, one of zero or negative size when `aligned`, and one whose
    bins are larger than `MAX_BIN_CELLS`.

    Inside `torch.onnx.export(dynamo=True)` this is one node, `edgeseg::AtlasRoiAlign`, and R may be a free axis.

    Args:
        atlas: (B, C, Ha, Wa), from `pyramid_atlas`.
        rois: (B, R, 4) float x1 y1 x2 y2 in network pixels.
        level_sizes: Height and width of each level in the atlas, finest first.
        strides: Network pixels per cell of each level: powers of two, each twice the one before.
        output_size: Bins per box, height and width.
        sampling_ratio: Samples per bin along each axis; 0 = adaptive, ceil(box cells / bins), each axis for itself.
        aligned: True shifts by half a cell (detectron2's ROIAlignV2), False does not and makes a box at least one
            cell wide and high (the original Mask R-CNN).
        level_rule: How the level of a box is rounded, see `pyramid_levels`.
        canonical_scale: Side in pixels of the box that belongs to `canonical_level`.
        canonical_level: log2 of the stride from which a box of `canonical_scale` is pooled.
        rois_last: Give (B, C, PH, PW, R): the columns that a fully connected layer multiplies. The exported operator then
            samples in this order and nothing is transposed.
        min_cells: Least width and height of a box in cells, unless `aligned`; 0 for none (mmdetection 1).

    Returns:
        (B, R, C, PH, PW) or, with `rois_last`, (B, C, PH, PW, R); dtype of `atlas`.

    Raises:
        ValueError: if the numbers of levels and strides differ, the strides do not form a pyramid, the rule is unknown or the
            atlas is not that of such levels.
    """
    bins = (output_size, output_size) if isinstance(output_size, int) else output_size
    _check(atlas, rois, level_sizes, strides, level_rule)
    if torch.onnx.is_in_onnx_export():
        pictures, num_rois, channels = *rois.shape[:2], atlas.shape[1]
        return torch.onnx.ops.symbolic(
            "edgeseg::AtlasRoiAlign",
            [atlas, rois],
            {
                "level_sizes": [side for size in level_sizes for side in size],
                "strides": list(strides),
                "output_size": list(bins),
                "sampling_ratio": max(sampling_ratio, 0),
                "aligned": int(aligned),
                "level_rule": level_rule,
                "canonical_scale": float(canonical_scale),
                "canonical_level": canonical_level,
                "rois_last": int(rois_last),
                "min_cells": float(min_cells),
            },
            dtype=atlas.dtype,
            shape=(pictures, channels, *bins, num_rois)
            if rois_last
            else (pictures, num_rois, channels, *bins),
            version=1,
        )
    rois_BR4 = rois.detach().to(torch.promote_types(rois.dtype, torch.float32))
    levels_BR = pyramid_levels(
        rois_BR4,
        strides=strides,
        level_rule=level_rule,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
    )
    least = None if aligned else min_cells
    pooled = _pool(
        atlas, rois_BR4, levels_BR, level_sizes, strides, bins, sampling_ratio, aligned, least
    )
    return pooled.permute(0, 2, 3, 4, 1) if rois_last else pooled


def pyramid_levels(
    rois: Tensor,
    *,
    strides: Sequence[int],
    level_rule: str = "torchvision",
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
) -> Tensor:
    """Return the index of the pyramid level that each box is pooled from, int64 of the shape rois.shape[:-1].

    Eq. 1 of "Feature Pyramid Networks" (arXiv:1612.03144): floor(canonical_level + log2(sqrt(area) / canonical_scale)),
    clamped to the pyramid. "torchvision" adds 1e-6 to the logarithm, "detectron2" adds 1e-8 to its argument, which
    float32 swallows next to 1: 223.9999 is level 4 for the one and 3 for the other. "upsnet" adds 1e-6 to the argument, and
    a pixel to both sides of the box; "mmdetection" adds as much, but counts levels from the finest one. Areas that are 0,
    negative or not a number belong to the finest level.

    Args:
        rois: (..., 4) float x1 y1 x2 y2 in network pixels.
        strides: Network pixels per cell of each level: powers of two, each twice the one before.
        level_rule: one of `LEVEL_RULES`.
        canonical_scale: Side in pixels of the box that belongs to `canonical_level`.
        canonical_level: log2 of the stride from which a box of `canonical_scale` is pooled.
    """
    boundaries = level_boundaries(
        tuple(strides),
        level_rule=level_rule,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
    )
    x1, y1, x2, y2 = rois.detach().float().unbind(-1)
    pixel = LAST_PIXEL.get(level_rule, 0.0)
    area = (x2 - x1 + pixel) * (y2 - y1 + pixel)
    return (area[..., None] >= area.new_tensor(boundaries)).sum(-1)


@functools.lru_cache
def level_boundaries(
    strides: tuple[int, ...], *, level_rule: str, canonical_scale: float, canonical_level: int
) -> tuple[float, ...]:
    """Return the smallest float32 area in square pixels of each level but the finest, ascending.

    The rule is a rising function of the area, so these numbers are the rule, without the logarithm that each engine
    rounds in its own way. Arguments as for `pyramid_levels`.
    """
    finest = strides[0].bit_length() - 1

    def level(area: np.float32) -> float:
        size = np.sqrt(area) / np.float32(canonical_scale)
        if level_rule == "mmdetection":
            size = np.sqrt(area) / np.float32(canonical_scale / 2 ** (canonical_level - finest))
            return finest + math.floor(_log2(size + np.float32(1e-6)))
        if level_rule in _ADDED:
            added = np.float32(_ADDED[level_rule])
            return math.floor(np.float32(canonical_level) + _log2(size + added))
        return math.floor(np.float32(canonical_level) + _log2(size) + np.float32(1e-6))

    boundaries = []
    for wanted in range(finest + 1, finest + len(strides)):
        low, high = 0, 0x7F7FFFFF  # bit patterns of positive floats are ordered as the floats are
        while low < high:
            middle = (low + high) // 2
            area = np.uint32(middle).view(np.float32)
            if area > 0 and level(area) >= wanted:
                high = middle
            else:
                low = middle + 1
        boundaries.append(float(np.uint32(low).view(np.float32)))
    return tuple(boundaries)


_ADDED = {"detectron2": 1e-8, "upsnet": 1e-6}
"""Rules that add to the argument of the logarithm."""


def _log2(value: np.float32) -> np.float32:
    return np.float32(np.log2(np.float64(value)))  # rounded once, unlike any float32 log2


def _check(
    atlas: Tensor,
    rois: Tensor,
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    level_rule: str,
) -> None:
    if level_rule not in LEVEL_RULES:
        raise ValueError(f"level_rule is {level_rule!r}, expected one of {', '.join(LEVEL_RULES)}")
    if not strides or len(level_sizes) != len(strides):
        raise ValueError(f"{len(level_sizes)} levels and {len(strides)} strides, expected one each")
    if strides[0] < 1 or strides[0] & (strides[0] - 1):
        raise ValueError(f"the first stride is {strides[0]}, expected a power of two")
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise ValueError(f"strides are {list(strides)}, expected each to be twice the one before")
    if rois.dim() != 3 or rois.shape[-1] != 4:
        raise ValueError(f"rois have the shape {tuple(rois.shape)}, expected (B, R, 4)")
    layout = atlas_layout(level_sizes)
    if tuple(atlas.shape[2:]) != (layout.height, layout.width):
        raise ValueError(
            f"the atlas has the shape {tuple(atlas.shape)}, expected (B, C, {layout.height}, {layout.width}), "
            "which levels of these sizes give"
        )


def _pool(
    atlas: Tensor,
    rois_BR4: Tensor,
    levels_BR: Tensor,
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    bins: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    min_cells: float | None,
) -> Tensor:
    """Return every bin as one weighted sum of rows of a table of all cells of the atlas: no loop, no padding."""
    num_pictures, num_rois = rois_BR4.shape[:2]
    channels, device = atlas.shape[1], rois_BR4.device
    # Of other than contiguous rows embedding_bag makes slower sums, rounded in another way.
    table_NC = atlas.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    if table_NC.dtype in {torch.float16, torch.bfloat16}:
        table_NC = table_NC.float()

    # For each box its level's size and the table row where that level of its picture begins.
    layout = atlas_layout(level_sizes)
    levels = levels_BR.flatten()
    height, width = torch.tensor(level_sizes, device=device)[levels].unbind(-1)
    left_of_level, top_of_level = torch.tensor(layout.corners, device=device)[levels].unbind(-1)
    picture = torch.arange(num_pictures, device=device).repeat_interleave(num_rois)
    start = (picture * layout.height + top_of_level) * layout.width + left_of_level

    scale = rois_BR4.new_tensor([1.0 / stride for stride in strides])[levels]
    corners = rois_BR4.reshape(-1, 4) * scale[:, None] - (0.5 if aligned else 0.0)
    is_finite = corners.isfinite().all(-1)
    left, top, right, bottom = corners.where(is_finite[:, None], 0).unbind(-1)
    bin_height, count_y = _bins(top, bottom, bins[0], sampling_ratio, min_cells)
    bin_width, count_x = _bins(left, right, bins[1], sampling_ratio, min_cells)

    # One entry per sample, ordered by box, bin and sample; the samples of a bin are counted row by row.
    samples_per_bin = count_y * count_x * is_finite
    bags = samples_per_bin.repeat_interleave(bins[0] * bins[1])
    bag_end = bags.cumsum(0)
    bag = torch.arange(len(bags), device=device).repeat_interleave(bags)
    sample = torch.arange(len(bag), device=device) - (bag_end - bags)[bag]
    roi, bin_ = bag // (bins[0] * bins[1]), bag % (bins[0] * bins[1])
    step_y = (sample // count_x[roi] + 0.5) * (bin_height / count_y)[roi]
    step_x = (sample % count_x[roi] + 0.5) * (bin_width / count_x)[roi]
    y = top[roi] + bin_.div(bins[1], rounding_mode="floor") * bin_height[roi] + step_y
    x = left[roi] + bin_ % bins[1] * bin_width[roi] + step_x

    row_S2, weight_y_S2 = _neighbours(y, height[roi])
    column_S2, weight_x_S2 = _neighbours(x, width[roi])
    index_S22 = start[roi, None, None] + row_S2[:, :, None] * layout.width + column_S2[:, None, :]
    weight_S22 = (
        weight_y_S2[:, :, None] * weight_x_S2[:, None, :] / samples_per_bin[roi, None, None]
    )
    pooled = F.embedding_bag(
        index_S22.flatten(),
        table_NC,
        4 * (bag_end - bags),
        mode="sum",
        per_sample_weights=weight_S22.flatten().to(table_NC.dtype),
    )
    pooled = pooled.view(num_pictures, num_rois, *bins, channels).permute(0, 1, 4, 2, 3)
    return pooled.to(atlas.dtype).contiguous()


def _bins(
    low: Tensor, high: Tensor, bins: int, sampling_ratio: int, min_cells: float | None
) -> tuple[Tensor, Tensor]:
    """Return the size of a bin in cells (float) and its number of samples (int64, may be 0) along one axis, per box."""
    size = high - low
    if min_cells is not None:
        size = size.clamp(min=min_cells)
    bin_size = size / bins
    if sampling_ratio > 0:
        return bin_size, torch.full_like(size, sampling_ratio, dtype=torch.int64)
    is_sampled = (bin_size > 0) & (bin_size <= MAX_BIN_CELLS)
    return bin_size, bin_size.ceil().where(is_sampled, 0).long()


def _neighbours(position: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two cells that a position lies between and their weights, each (S, 2); 0 beyond one cell outside."""
    is_valid = (position >= -1.0) & (position <= size)
    position = torch.minimum(position.clamp(min=0.0), size - 1)
    lower = position.floor()
    fraction = position - lower
    upper = torch.minimum(lower + 1, size - 1)
    cells = torch.stack([lower, upper], -1).long()
    return cells, torch.stack([1.0 - fraction, fraction], -1) * is_valid[:, None]
