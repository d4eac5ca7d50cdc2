"""The body of `edgeseg::DeformConv2d`: a GridSample over all taps of the kernel, then a 1x1 convolution.

Shape suffixes: B pictures, G offset groups, T taps of the kernel, R rows and S columns of the output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, TensorProto, helper

from edgeseg.ops.deform_conv2d import tap_positions
from edgeseg_export.functions.body import OPSET, Body

INPUTS = ("x", "offset", "weight", "bias", "mask")
MAX_SAMPLES = 600_000
"""Of a picture at once: what stays in a core's cache until the convolution reads it costs a fifth less time."""


def deform_conv2d_function(
    name: str,
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    output_size: tuple[int, int],
    *,
    inputs: Sequence[bool],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    offset_groups: int,
    is_half: bool = False,
) -> FunctionProto:
    """Return the function for maps of one size, which computes what `edgeseg.ops.deform_conv2d` does.

    Each offset group is a picture for GridSample, which reads all taps as rows of one tall picture: bilinear, zero
    padding, align_corners 0, the form that ONNX Runtime (from 1.25) has a fast path for. The samples come channel by
    channel and tap by tap, as the weights are stored, so that nothing large is transposed. A large output is computed
    strip by strip, see `MAX_SAMPLES`. (The convolution has two axes although one would do: ONNX Runtime is twice as fast.)

    Args:
        name: Of the function, in the domain `edgeseg`.
        size: Height and width of the map.
        channels: Of the map.
        kernel: Its height and width.
        output_size: R and S.
        inputs: Which of `INPUTS` the node has, by position; there may be fewer than those.
        stride: The node's attribute, as are the following.
        padding: Cells around the map.
        dilation: Cells from one tap to the next.
        groups: Of the convolution.
        offset_groups: G.
        is_half: Whether the inputs are float16 (the offsets may be float32); positions and samples are computed in
            float32.
    """
    body = Body()
    given = {name for name, is_given in zip(INPUTS, inputs, strict=False) if is_given}
    taps, (rows, columns) = kernel[0] * kernel[1], output_size
    x, offset = ("x", "offset")
    if is_half:
        x, offset = (body.op("Cast", value, to=TensorProto.FLOAT) for value in (x, offset))
    if offset_groups > 1:
        x = body.reshape(x, -1, channels // offset_groups, *size)
    offset_BGT2RS = body.reshape(offset, -1, taps, 2, rows, columns)
    grids = []
    for cells, positions, of_map in zip(
        body.split(offset_BGT2RS, 2, axis=2),
        tap_positions(kernel, output_size, stride, padding, dilation),
        size,
        strict=True,
    ):
        grid = _in_grid(body, cells, positions[:, None], of_map)
        grids.append(body.reshape(grid, -1, taps, rows, columns, 1))
    grid_BGTRS2 = body.op("Concat", *reversed(grids), axis=4)  # x before y
    mask_BGTRS = body.reshape("mask", -1, taps, rows, columns) if "mask" in given else ""
    weight = body.reshape("weight", 0, channels // groups * taps, 1, 1)

    at_once = max(1, MAX_SAMPLES // (channels * taps * columns))
    strips = []
    for start in range(0, rows, at_once):
        stop = min(start + at_once, rows)
        grid, mask = grid_BGTRS2, mask_BGTRS
        if stop - start < rows:
            grid = body.slice(grid, start, stop, axis=2)
            mask = mask and body.slice(mask, start, stop, axis=2)
        samples = body.op(
            "GridSample",
            x,
            body.reshape(grid, -1, taps * (stop - start), columns, 2),
            padding_mode="zeros",  # and no mode, as in AtlasRoiAlign
            align_corners=0,
        )
        if is_half:
            samples = body.op("Cast", samples, to=TensorProto.FLOAT16)
        if mask:
            factors = body.reshape(mask, -1, 1, taps * (stop - start), columns)
            samples = body.op("Mul", samples, factors)
        columns_BCTRS = body.reshape(samples, -1, channels * taps, stop - start, columns)
        bias = ["bias"] if "bias" in given else []
        strips.append(body.op("Conv", columns_BCTRS, weight, *bias, group=groups))
    result = strips[0] if len(strips) == 1 else body.op("Concat", *strips, axis=2)
    body.output("y", result)
    return helper.make_function(
        "edgeseg",
        name,
        INPUTS[: len(inputs)],  # TensorRT wants as many as the node has
        ["y"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        ["stride", "padding", "dilation", "groups", "offset_groups"],
    )


def _in_grid(body: Body, cells: str, positions: npt.NDArray[np.float32], of_map: int) -> str:
    """Return where GridSample counts positions + cells, from -1 to 1 between the outer borders of the map."""

    def in_grid(position: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return (2 * np.asarray(position, np.float64) + 1) / of_map - 1

    grid = body.op("Mul", cells, body.floats(2 / of_map))
    grid = body.op("Add", grid, body.floats(in_grid(positions)))
    return body.op("Clip", grid, body.floats(in_grid(-2)), body.floats(in_grid(of_map + 1)))
