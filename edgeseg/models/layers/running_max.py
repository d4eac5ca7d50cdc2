"""Running maxima along an axis of a map, of which corner pooling is made.

In steps that double their reach, inside blocks of places first and then over the blocks: the blocks
are fewer than the places, so most of the steps move little memory. `benchmarks/running_max.py`
measures this against other forms: steps over the whole axis are slower, and a Scan, which not every
engine has, takes a quarter to a third of the time in ONNX Runtime (`benchmarks/results/running_max.json`).

Shape suffixes: B pictures, C channels, H W a map, G blocks, S places of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 8
DIRECTIONS = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}
"""Corner pooling by its name -> the axis that it runs along, and whether it runs from the far end.

Top pooling gives each place the maximum of itself and all below it (Law and Deng, 2018, section 3.4).
"""


def corner_pool(x_BCHW: Tensor, direction: str) -> Tensor:
    """Return the running maximum of a map from one of its sides, a key of `DIRECTIONS`."""
    axis, from_end = DIRECTIONS[direction]
    return running_max(x_BCHW, axis=axis, from_end=from_end)


def running_max(x_BCHW: Tensor, *, axis: int, from_end: bool = False) -> Tensor:
    """Return the maximum of each place and all before it along an axis, or of all behind it.

    Args:
        x_BCHW: maps.
        axis: 2 or 3.
        from_end: run from the axis' end to its beginning.
    """
    size = x_BCHW.shape[axis]
    if size <= 2 * BLOCK or size % BLOCK:
        return doubling(x_BCHW, axis, from_end=from_end)
    num_blocks = size // BLOCK
    blocks = x_BCHW.reshape(*x_BCHW.shape[:axis], num_blocks, BLOCK, *x_BCHW.shape[axis + 1 :])
    within = doubling(blocks, axis + 1, from_end=from_end)
    whole = within.narrow(axis + 1, 0 if from_end else BLOCK - 1, 1)  # of each block, one place
    reached = doubling(whole, axis, from_end=from_end)
    # What lies before a block; before the first one nothing does, and its own first place changes nothing.
    first = num_blocks - 1 if from_end else 0
    itself = within.narrow(axis, first, 1).narrow(axis + 1, BLOCK - 1 if from_end else 0, 1)
    before = (
        torch.cat([reached.narrow(axis, 1, num_blocks - 1), itself], dim=axis)
        if from_end
        else torch.cat([itself, reached.narrow(axis, 0, num_blocks - 1)], dim=axis)
    )
    return torch.maximum(within, before).flatten(axis, axis + 1)


def doubling(x: Tensor, axis: int, *, from_end: bool) -> Tensor:
    """Return the running maximum along an axis, in as many steps as the size has binary digits."""
    size = x.shape[axis]
    reach = 1
    while reach < size:
        near, far = x.narrow(axis, 0, size - reach), x.narrow(axis, reach, size - reach)
        both = torch.maximum(near, far)
        if from_end:
            x = torch.cat([both, x.narrow(axis, size - reach, reach)], dim=axis)
        else:
            x = torch.cat([x.narrow(axis, 0, reach), both], dim=axis)
        reach *= 2
    return x
