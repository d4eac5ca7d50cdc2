"""Sample positions of RoI-Align along one axis of the atlas, as nodes of an ONNX function body.

Shape suffixes: B pictures, M boxes, U bins along the axis, S samples of a bin, K candidate samples of a tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeseg_export.functions.body import Body

OUTSIDE = -3.0  # a coordinate that GridSample gives 0 for: the atlas is -1..1
# Samples are more than half a cell apart where a bin has several, so a cell and its two neighbours meet at most five.
# One before and one behind allow for rounding.
CANDIDATES = 7


class Axis(NamedTuple):
    """What is known of each box along one axis, values (B, 1, M, 1) float in cells, and the constants of the axis."""

    low: str
    bin_size: str
    num_samples: str  # of a bin
    size: str  # of the box's level
    corner: str  # of that level in the atlas
    bins: int
    atlas_size: int

    def values(self) -> list[str]:
        """Return the values of the boxes, without the constants."""
        return [self.low, self.bin_size, self.num_samples, self.size, self.corner]

    def with_values(self, values: Sequence[str]) -> Axis:
        """Return the axis with other boxes, or other shapes of theirs."""
        low, bin_size, num_samples, size, corner = values
        return Axis(low, bin_size, num_samples, size, corner, self.bins, self.atlas_size)


def fixed_samples(body: Body, axis: Axis, sample: str) -> str:
    """Return GridSample's coordinate of the samples with these numbers (broadcastable to (B, S, M, 1)), (B, S, M, U)."""
    step = body.op("Div", axis.bin_size, axis.num_samples)
    step = body.op("Mul", body.op("Add", sample, body.floats(0.5)), step)
    position = body.op("Add", _bin_starts(body, axis), step)
    coordinate = _coordinate(body, axis, _clamp(body, axis, position))
    return body.op("Where", _is_valid(body, axis, position), coordinate, body.floats(OUTSIDE))


def num_taps(body: Body, axis: Axis) -> str:
    """Return how many taps hold all samples of a bin, (B, 1, M, 1).

    n samples at most one cell apart touch at most n + 1 cells, and a tap holds two.
    """
    taps = body.op("Floor", body.op("Mul", axis.num_samples, body.floats(0.5)))
    is_sampled = body.op("Greater", axis.num_samples, body.floats(0))
    return body.op("Where", is_sampled, body.op("Add", taps, body.floats(1)), body.floats(0))


def taps(body: Body, axis: Axis, tap: str) -> tuple[str, str]:
    """Return GridSample's coordinate of each tap and its weight, (B, S, M, U); weights of a bin add up to its valid share.

    The samples of a bin are linear interpolations between cells, so their mean is a weighted sum of cells, and two
    neighbouring cells with the weights a and b are one interpolation between them at b / (a + b), times a + b. This
    halves the reads of large boxes, exactly. `tap` counts the pairs of cells of a bin (broadcastable to (B, S, M, 1)).
    """
    one, zero = body.floats(1), body.floats(0)
    count = body.op("Max", axis.num_samples, one)
    step = body.op("Div", axis.bin_size, count)
    bin_start = _bin_starts(body, axis)
    first = body.op("Add", bin_start, body.op("Mul", body.floats(0.5), step))
    start = body.op("Floor", _clamp(body, axis, first))
    lower = body.op("Add", start, body.op("Mul", tap, body.floats(2)))

    def spread(value: str) -> str:  # axes for the two cells and for the candidates
        return body.op("Unsqueeze", value, body.ints(4, 5))

    wide = axis.with_values([spread(value) for value in axis.values()])
    cell = body.op("Add", spread(lower), body.floats([[0], [1]]))
    # A lone sample may have any distance from the next bin's; several are more than half a cell apart.
    distance = body.op("Max", spread(step), body.floats(0.5))
    ahead = body.op("Sub", body.op("Sub", cell, one), spread(first))
    number = body.op("Floor", body.op("Div", ahead, distance))
    number = body.op("Add", number, body.floats(np.arange(CANDIDATES) - 1))
    position = body.op("Add", number, body.floats(0.5))
    position = body.op("Add", spread(bin_start), body.op("Mul", position, spread(step)))
    exists = body.op(
        "And",
        body.op("GreaterOrEqual", number, zero),
        body.op("Less", number, wide.num_samples),
    )
    counts = body.op("And", exists, _is_valid(body, wide, position))
    away = body.op("Abs", body.op("Sub", _clamp(body, wide, position), cell))
    share = body.op("Relu", body.op("Sub", one, away))
    share = body.op("Where", counts, share, zero)
    weights = body.op("ReduceSum", share, body.ints(5), keepdims=0)
    lower_weight, upper_weight = (
        body.op("Squeeze", weight, body.ints(4)) for weight in body.split(weights, 2, axis=4)
    )
    weight = body.op("Add", lower_weight, upper_weight)
    is_used = body.op("Greater", weight, zero)
    fraction = body.op("Div", upper_weight, body.op("Where", is_used, weight, one))
    position = _clamp(body, axis, body.op("Add", lower, fraction))
    coordinate = body.op("Where", is_used, _coordinate(body, axis, position), body.floats(OUTSIDE))
    return coordinate, body.op("Div", weight, count)


def _bin_starts(body: Body, axis: Axis) -> str:
    offsets = body.op("Mul", body.floats(np.arange(axis.bins)), axis.bin_size)
    return body.op("Add", axis.low, offsets)


def _is_valid(body: Body, axis: Axis, position: str) -> str:
    return body.op(
        "And",
        body.op("GreaterOrEqual", position, body.floats(-1)),
        body.op("LessOrEqual", position, axis.size),
    )


def _clamp(body: Body, axis: Axis, position: str) -> str:
    last = body.op("Sub", axis.size, body.floats(1))
    return body.op("Min", body.op("Max", position, body.floats(0)), last)


def _coordinate(body: Body, axis: Axis, position: str) -> str:
    """Return what GridSample (align_corners=0) calls a cell: the centre of cell i lies at (2 i + 1) / size - 1."""
    one = body.floats(1)
    position = body.op("Add", position, axis.corner)
    position = body.op("Add", body.op("Mul", position, body.floats(2)), one)
    return body.op("Sub", body.op("Div", position, body.floats(axis.atlas_size)), one)
