"""Resize uint8 pictures bit for bit as Pillow's BILINEAR filter does.

Pillow's filter is a triangle whose support grows with the reduction, so that shrinking is
antialiased. It works in fixed point: coefficients are rounded to 22 fractional bits, the
horizontal pass comes first, and its result is rounded to uint8 before the vertical pass
(Pillow, src/libImaging/Resample.c). Pillow 13 runs the vertical pass first where it reduces the
height much more than the width, which moves some values by one grey level; the published models
were trained and measured with the older order, which is kept here.

Here each pass is a product with a banded matrix in float64. All products and sums are multiples
of 2^-22 below 2^9 and thus exact in float64, in whatever order they are added.

Shape suffixes: O output rows, I input rows, X everything that a row holds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg_runtime.blas import MAX_SERIAL_PRODUCTS

_PRECISION_BITS = 32 - 8 - 2
_BLOCK_ROWS = 8  # output rows per product; small keeps the band narrow, large keeps BLAS busy

Image = npt.NDArray[np.uint8]


def resize_pillow_bilinear(image: Image, size: tuple[int, int]) -> Image:
    """Return the picture resized as `PIL.Image.resize(..., BILINEAR)` would.

    Args:
        image: (H, W, C) uint8.
        size: height, width of the result.
    """
    height, width = size
    if image.shape[1] != width:
        transposed = _resample_rows(_transpose(image), width)
        image = _transpose(transposed)
    if image.shape[0] != height:
        image = _resample_rows(image, height)
    return image


class _Band(NamedTuple):
    """The part of the resampling matrix that makes one block of output rows."""

    first_output: int
    first_input: int
    weights: npt.NDArray[np.float64]  # (output rows, input rows)


def _transpose(image: Image) -> Image:
    """Return the picture with its first two axes exchanged, contiguous."""
    transposed = np.asarray(cv2.transpose(image), np.uint8)
    return transposed.reshape(image.shape[1], image.shape[0], image.shape[2])


def _resample_rows(image: Image, num_rows: int) -> Image:
    """Return (num_rows, W, C): one pass of the filter down the columns."""
    rows_IX = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    result_OX = np.empty((num_rows, rows_IX.shape[1]), np.uint8)
    for band in _bands(image.shape[0], num_rows):
        num_outputs, num_inputs = band.weights.shape
        last_output = band.first_output + num_outputs
        last_input = band.first_input + num_inputs
        block_columns = max(1, MAX_SERIAL_PRODUCTS // band.weights.size)
        for start in range(0, rows_IX.shape[1], block_columns):
            columns = slice(start, start + block_columns)
            inputs_IX = rows_IX[band.first_input : last_input, columns].astype(np.float64)
            sums_OX = band.weights @ inputs_IX
            sums_OX += 0.5  # the cast below cuts off: together they round half up, as Pillow does
            result_OX[band.first_output : last_output, columns] = sums_OX
    return result_OX.reshape(num_rows, *image.shape[1:])


@lru_cache(maxsize=32)
def _bands(num_inputs: int, num_outputs: int) -> tuple[_Band, ...]:
    first_O, last_O, weights_OT = _coefficients(num_inputs, num_outputs)
    bands = []
    for start in range(0, num_outputs, _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, num_outputs))
        first = int(first_O[block].min())
        weights_OI = np.zeros((block.stop - start, int(last_O[block].max()) - first))
        for row in range(start, block.stop):
            num_taps = last_O[row] - first_O[row]
            offset = first_O[row] - first
            weights_OI[row - start, offset : offset + num_taps] = weights_OT[row, :num_taps]
        bands.append(_Band(start, first, weights_OI))
    return tuple(bands)


def _coefficients(
    num_inputs: int, num_outputs: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return, of every output row, the first input row, the one after the last, and the weights.

    The arithmetic and its order are those of Pillow's precompute_coeffs and normalize_coeffs_8bpc.
    """
    scale = num_inputs / num_outputs
    filter_scale = max(scale, 1.0)
    support = 1.0 * filter_scale
    num_taps = int(np.ceil(support)) * 2 + 1
    center_O = (np.arange(num_outputs) + 0.5) * scale
    first_O = np.maximum((center_O - support + 0.5).astype(np.int64), 0)
    last_O = np.minimum((center_O + support + 0.5).astype(np.int64), num_inputs)
    tap_T = np.arange(num_taps)
    position_OT = (tap_T + first_O[:, None]) - center_O[:, None] + 0.5
    weights_OT = np.maximum(1.0 - np.abs(position_OT * (1.0 / filter_scale)), 0.0)
    weights_OT[tap_T >= (last_O - first_O)[:, None]] = 0.0
    total_O = np.zeros(num_outputs)
    for tap in tap_T:  # one after the other: np.sum adds pairwise, which rounds differently
        total_O += weights_OT[:, tap]
    weights_OT /= total_O[:, None]
    one = 1 << _PRECISION_BITS
    return first_O, last_O, np.floor(0.5 + weights_OT * one) / one
