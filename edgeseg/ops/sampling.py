"""How a map is addressed by bilinear sampling."""

from __future__ import annotations

from torch import Tensor


def grid_coordinate(position: Tensor, size: int) -> Tensor:
    """Return cells of a map as ``grid_sample`` counts them without ``align_corners``.

    That is from -1 to 1 between the outer borders of the map: cell i has its centre at
    (2 i + 1) / size - 1.

    Args:
        position: cells along one axis, any shape; what is not a whole number lies between two cells.
        size: of the map along that axis.
    """
    # What is a cell or more outside counts as 0 however far it is: bounds keep it from overflowing an integer.
    return (2 * position.clamp(-2, size + 1) + 1) / size - 1
