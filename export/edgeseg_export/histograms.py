"""Finds where to clip a value, from a histogram of its magnitudes.

Shape suffixes: N bins, M = N - `NUM_LEVELS` + 1 numbers of bins that may be kept, G = `NUM_LEVELS` levels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

NUM_BINS = 2048
NUM_LEVELS = 128  # of one sign
PERCENTILE = 99.99


def count_magnitudes(values: npt.NDArray[np.float32], largest: float) -> Counts:
    """Return how many magnitudes lie in each of `NUM_BINS` equal bins from 0 to ``largest``.

    All lie in the first one unless ``largest`` is positive.
    """
    if not 0 < largest < np.inf:
        return np.bincount([0], [values.size], NUM_BINS).astype(np.int64)
    bins = np.minimum(np.abs(values.ravel()) * (NUM_BINS / largest), NUM_BINS - 1)
    return np.bincount(bins.astype(np.int32), minlength=NUM_BINS)


def bins_by_percentile(counts: Counts) -> int:
    """Return how many of the lowest bins hold `PERCENTILE` of all magnitudes."""
    held = np.cumsum(counts)
    return int(np.searchsorted(held, held[-1] * PERCENTILE / 100)) + 1


def bins_by_entropy(counts: Counts) -> int:
    """Return how many of the lowest bins to keep, so that `NUM_LEVELS` levels lose least information.

    (Migacz, 8-bit inference with TensorRT, GTC 2017.) What lies in the first bin is mostly the
    zeros of a ReLU, which every scale holds exactly; it counts as much as the second one, as in
    NVIDIA's pytorch-quantization.
    """
    counted = counts.copy()
    counted[0] = counted[1]
    if not counted.any():
        return len(counts)
    return NUM_LEVELS + int(np.argmin(divergences(counted)))


def divergences(counts: Counts) -> Doubles:
    """Return the information lost, [M] in nats, if only the first `NUM_LEVELS` + m bins are kept.

    It is the Kullback-Leibler divergence of Q from P. P are the kept bins, the last one with all
    magnitudes beyond it. Q knows only how many magnitudes of the kept bins fall on each level, and
    spreads them evenly over those of its bins that are not empty in P. Where Q has nothing of
    what P has, it is infinite.

    Args:
        counts: [N] magnitudes in each bin, some above 0.
    """
    counts_N = counts.astype(np.float64)
    kept_M = np.arange(NUM_LEVELS, len(counts) + 1)
    last_M = counts_N[kept_M - 1]
    beyond_M = counts_N.sum() - _sums_to(counts_N)[kept_M]

    ends_MG1 = kept_M[:, None] * np.arange(NUM_LEVELS + 1) // NUM_LEVELS
    level_MG = np.diff(_sums_to(counts_N)[ends_MG1])
    filled_MG = np.diff(_sums_to(counts_N > 0)[ends_MG1])
    filled_MG[:, -1] += (last_M == 0) & (beyond_M > 0)
    p_MG = level_MG.copy()
    p_MG[:, -1] += beyond_M

    with np.errstate(divide="ignore", invalid="ignore"):
        cross_MG = np.where(p_MG > 0, p_MG * np.log(level_MG / filled_MG), 0.0)
        p_log_p_M = _sums_to(_x_log_x(counts_N))[kept_M - 1] + _x_log_x(last_M + beyond_M)
        found_M = (p_log_p_M - cross_MG.sum(1)) / counts_N.sum()
        found_M += np.log(level_MG.sum(1) / counts_N.sum())
    return np.where(np.isnan(found_M), np.inf, found_M)


CLIPPING: dict[str, Callable[[Counts], int]] = {
    "entropy": bins_by_entropy,
    "percentile": bins_by_percentile,
}
"""Method of calibration -> how many of the lowest bins it keeps."""


def _sums_to(values: npt.NDArray[np.float64] | npt.NDArray[np.bool_]) -> Doubles:
    """Return the sum of the values before each index, and of all: one more than there are."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(x: Doubles) -> Doubles:
    return x * np.log(np.maximum(x, 1))  # counts: 0 or at least 1
