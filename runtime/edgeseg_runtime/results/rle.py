"""COCO's compressed run-length encoding of masks, as `pycocotools.mask` writes it.

Pixels are counted column by column; runs of 0 and 1 alternate, the first one counts zeros. From
the fourth run on, the difference to the run before last is stored, in groups of 5 bits, least
significant first, bit 6 for "more follows", plus 48 (cocoapi, common/maskApi.c, rleToString).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.results.paste import MaskCrop

__all__ = ["mask_from_rle", "rle_from_crop", "rle_from_mask"]

_MAX_GROUPS = 13  # 65 bits hold every int64

Counts = npt.NDArray[np.int64]


def rle_from_mask(mask: npt.NDArray[np.bool_]) -> str:
    """Return the encoding of a mask (H, W)."""
    height, width = mask.shape
    return rle_from_crop(MaskCrop(0, 0, mask), (height, width))


def rle_from_crop(crop: MaskCrop, size: tuple[int, int]) -> str:
    """Return the encoding of a mask of height, width `size` of which only a crop is stored."""
    return _text_from_counts(_counts_from_crop(crop, size))


def mask_from_rle(counts: str, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask (H, W) that an encoding stands for.

    Raises:
        ValueError: if the text is not the encoding of a mask of height, width `size`.
    """
    height, width = size
    runs = _counts_from_text(counts)
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"the runs do not add up to {height}x{width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _counts_from_crop(crop: MaskCrop, size: tuple[int, int]) -> Counts:
    height, width = size
    crop_height, crop_width = crop.bits.shape
    framed = np.zeros((crop_width, crop_height + 2), np.int8)  # columns become rows
    framed[:, 1:-1] = crop.bits.T
    column, row = np.nonzero(np.diff(framed, axis=1))  # begin and end of every run, in turn
    edges = (column + crop.left) * height + row + crop.top
    if len(edges):  # a run that reaches the bottom goes on at the top of the next column
        is_seam = np.zeros(len(edges), np.bool_)
        touching = edges[1:-1:2] == edges[2::2]
        is_seam[1:-1:2] = touching
        is_seam[2::2] = touching
        edges = edges[~is_seam]
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return counts.astype(np.int64, copy=False)


def _text_from_counts(counts: Counts) -> str:
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    groups = np.zeros((len(rest), _MAX_GROUPS), np.uint8)
    is_used = np.zeros(groups.shape, np.bool_)
    is_open = np.ones(len(rest), np.bool_)
    for index in range(_MAX_GROUPS):
        group = rest & 0x1F
        rest >>= 5
        has_more = np.where(group & 0x10, rest != -1, rest != 0)
        groups[:, index] = group + 48 + 0x20 * has_more
        is_used[:, index] = is_open
        is_open = is_open & has_more
        if not is_open.any():
            break
    return groups[is_used].tobytes().decode("ascii")


def _counts_from_text(text: str) -> Counts:
    try:
        symbols = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise ValueError("the text is not a run-length encoding: it is not ASCII") from error
    if len(symbols) == 0:
        return np.zeros(0, np.int64)
    is_last = (symbols & 0x20) == 0
    if symbols.min() < 0 or symbols.max() > 63 or not is_last[-1]:
        raise ValueError("the text is not a run-length encoding, or it is cut off")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() >= _MAX_GROUPS:
        raise ValueError("a run is longer than any mask")
    place = np.arange(len(symbols)) - np.repeat(starts, lengths)
    values = np.add.reduceat((symbols & 0x1F) << (5 * place), starts)
    values -= np.where(symbols[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):  # differences to the run before last, along odd and even runs
        values[first::2] = np.cumsum(values[first::2])
    return values
