"""Converts between masks and COCO segmentations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as rle_codec


def rle_from_mask(mask_HW: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask as compressed COCO RLE that JSON can hold: size [H, W], counts as str."""
    rle = rle_codec.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_from_segmentation(segmentation: Any, *, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the (height, width) bool mask of a COCO segmentation.

    Args:
        segmentation: a list of polygons, an uncompressed RLE (counts: list) or a compressed RLE.
        height: rows of the picture.
        width: columns of the picture.

    Raises:
        ValueError: the RLE was made for a picture of another size.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            return np.zeros((height, width), dtype=np.bool_)
        rle = rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width))
    else:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(
                f"The segmentation is of a picture of {list(segmentation['size'])} (height, width), "
                f"the picture has [{height}, {width}]. Check that annotations and pictures belong together."
            )
        rle = segmentation
        if isinstance(segmentation["counts"], list):
            rle = rle_codec.frPyObjects(segmentation, height, width)
    return rle_codec.decode(rle).astype(np.bool_)


def box_xywh(mask_HW: npt.NDArray[np.bool_]) -> list[float]:
    """Return the box x, y, width, height around the pixels of a mask that is not empty."""
    rows = np.flatnonzero(mask_HW.any(axis=1))
    columns = np.flatnonzero(mask_HW.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)]
