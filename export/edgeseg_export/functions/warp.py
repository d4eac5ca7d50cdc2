"""The body of `edgeseg::Warp`: where each cell is read, and one GridSample."""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from edgeseg.ops.warp import grid_bounds, grid_line
from edgeseg_export.functions.body import OPSET, Body


def warp_function(
    name: str, size: tuple[int, int], *, outside: str, spacing: str, is_half: tuple[bool, bool]
) -> FunctionProto:
    """Return the function for maps of one size, which computes what `edgeseg.ops.warp` does.

    Args:
        name: Of the function, in the domain `edgeseg`.
        size: Height and width of the map.
        outside: The node's attribute, as is the following.
        spacing: Where a position is read.
        is_half: Whether map and flow are float16; positions and samples are computed in float32.
    """
    body = Body()
    map_, flow = (
        body.op("Cast", value, to=TensorProto.FLOAT) if half else value
        for value, half in zip(("map", "flow"), is_half, strict=True)
    )
    height, width = size
    x, y = body.split(flow, 2, axis=1)
    grid = []
    for cells, of_map, shape in ((x, width, (1, 1, 1, -1)), (y, height, (1, 1, -1, 1))):
        slope, start = grid_line(of_map, spacing)
        unmoved = np.arange(of_map, dtype=np.float64).reshape(shape) * slope + start
        moved = body.op("Add", body.op("Mul", cells, body.floats(slope)), body.floats(unmoved))
        low, high = grid_bounds(of_map, outside)
        moved = body.op("Clip", moved, body.floats(low), body.floats(high))
        grid.append(body.reshape(moved, 0, height, width, 1))
    sampled = body.op(
        "GridSample",
        map_,
        body.op("Concat", *grid, axis=3),
        padding_mode="zeros",  # and no mode, as in AtlasRoiAlign
        align_corners=0,
    )
    if is_half[0]:
        sampled = body.op("Cast", sampled, to=TensorProto.FLOAT16)
    body.output("moved", sampled)
    return helper.make_function(
        "edgeseg",
        name,
        ["map", "flow"],
        ["moved"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        ["outside", "spacing"],
    )
