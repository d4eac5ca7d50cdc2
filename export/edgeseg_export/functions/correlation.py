"""The body of `edgeseg::Correlation`: matrix products of neighbouring cells, of which a diagonal band is kept.

Shape suffixes: B pictures, C channels, H rows, P phases of the columns (their remainders by the step), N tiles of a row,
T cells of a tile, V cells of the window that a tile is compared with, D shifts along one axis.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from edgeseg_export.functions.body import OPSET, Body

TILE = 32
"""Cells of a row that are compared at once: see benchmarks/correlation.py."""


def correlation_function(
    name: str,
    size: tuple[int, int],
    channels: int,
    *,
    radius: int,
    step: int,
    is_half: bool = False,
    tile: int = TILE,
) -> FunctionProto:
    """Return the function for maps of one size, which computes what `edgeseg.ops.correlation` does.

    A row of the first map is cut into tiles of T cells, `step` columns apart. For a shift of rows, all dx of a tile are in
    one product of its (C, T) with the V = T + 2 * radius cells of the second map that it may meet, (V, C); of the result
    (V, T) each column's D entries below the diagonal are kept. That is V / D times the multiplications that are needed,
    but matrix products, and a node for each row of shifts instead of one for each shift.

    Args:
        name: Of the function, in the domain `edgeseg`.
        size: Height and width of the maps.
        channels: C.
        radius: The node's attribute, as is the following.
        step: Cells between two shifts.
        is_half: Whether the maps are float16; products are summed in float32.
        tile: T, unless the map is narrower.
    """
    body = Body()
    height, width = size
    count, reach = 2 * radius + 1, radius * step
    per_phase = -(-width // step)
    tile = min(tile, per_phase)
    tiles = -(-per_phase // tile)
    window, covered = tile + 2 * radius, tiles * tile * step

    first, second = "first", "second"
    if is_half:
        first, second = (body.op("Cast", v, to=TensorProto.FLOAT) for v in (first, second))
    if covered > width:
        first = body.op("Pad", first, body.ints(0, 0, 0, 0, 0, 0, 0, covered - width))
    first = body.reshape(first, 0, channels, height, tiles, tile, step)
    first_BHPNCT = body.op("Transpose", first, perm=[0, 2, 5, 3, 1, 4])

    right = reach + covered - width
    second = body.op("Pad", second, body.ints(0, 0, reach, reach, 0, 0, reach, right))
    second_BHWC = body.op("Transpose", second, perm=[0, 2, 3, 1])
    columns_PNV = (np.arange(tiles)[:, None] * tile + np.arange(window)) * step + np.arange(step)[
        :, None, None
    ]
    flat = body.op("Gather", second_BHWC, body.ints(*columns_PNV.ravel().tolist()), axis=2)
    second_BHPNVC = body.reshape(flat, 0, height + 2 * reach, step, tiles, window, channels)

    places_DT = (np.arange(count)[:, None] + np.arange(tile)) * tile + np.arange(tile)
    rows = []
    for shift in range(0, 2 * reach + 1, step):
        others = body.slice(second_BHPNVC, shift, shift + height, axis=1)
        product = body.op("MatMul", others, first_BHPNCT)
        product = body.reshape(product, 0, height, step, tiles, window * tile)
        band = body.op("Gather", product, body.ints(*places_DT.ravel().tolist()), axis=4)
        band_BHPNDT = body.reshape(band, 0, height, step, tiles, count, tile)
        band_BDHNTP = body.op("Transpose", band_BHPNDT, perm=[0, 4, 1, 3, 5, 2])
        rows.append(body.reshape(band_BDHNTP, 0, count, height, covered))
    found = body.op("Concat", *rows, axis=1)
    if covered > width:
        found = body.slice(found, 0, width, axis=3)
    found = body.op("Mul", found, body.floats(1 / channels))
    if is_half:
        found = body.op("Cast", found, to=TensorProto.FLOAT16)
    body.output("likeness", found)
    return helper.make_function(
        "edgeseg",
        name,
        ["first", "second"],
        ["likeness"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        ["radius", "step"],
    )
