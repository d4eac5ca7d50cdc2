"""Where values are clipped: the fast search finds what a plain one finds, and what is known."""

import math
import time

import numpy as np
import pytest

from edgeseg_export.calibration import warn_of_pictures
from edgeseg_export.histograms import (
    NUM_BINS,
    NUM_LEVELS,
    bins_by_entropy,
    bins_by_error,
    bins_by_percentile,
    bins_kept,
    count_magnitudes,
    divergences,
)


def test_pictures_that_tell_little_are_said(caplog):
    noise = list(np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8))
    warn_of_pictures(noise)
    assert not caplog.messages
    warn_of_pictures([*noise[1:], np.full((8, 8, 3), 7, np.uint8)])
    warn_of_pictures(noise[:3])
    warn_of_pictures([*noise, *noise[:2]])
    warn_of_pictures([noise[0]] * 100)
    first, second, third, *others = caplog.messages
    assert third.startswith("2 of the 18 pictures to calibrate on are copies of others")
    assert [text.split(" to calibrate")[0] for text in others] == [
        "99 of the 100 pictures",
        "1 pictures",
    ]
    assert first.startswith("1 of the 16 pictures to calibrate on show a single colour")
    assert second.startswith("3 pictures to calibrate on are too few to rely on")


def plain_divergence(counts, kept):
    """Migacz's loop for one number of kept bins, written as he draws it."""
    p = [float(count) for count in counts[:kept]]
    p[-1] += float(sum(counts[kept:]))
    q = [0.0] * kept
    for level in range(NUM_LEVELS):
        bins = range(level * kept // NUM_LEVELS, (level + 1) * kept // NUM_LEVELS)
        filled = [i for i in bins if p[i] > 0]
        for i in filled:
            q[i] = float(sum(counts[j] for j in bins)) / len(filled)
    divergence = 0.0
    for p_i, q_i in zip(p, q, strict=True):
        if p_i > 0 and q_i == 0:
            return math.inf
        if p_i > 0:
            divergence += p_i / sum(p) * math.log((p_i / sum(p)) / (q_i / sum(q)))
    return divergence


def drawn(seed, num_bins):
    """Return a histogram that falls to the right, has gaps, and some magnitudes far out."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1000 * np.exp(-np.arange(num_bins) / rng.uniform(10, 200)))
    counts[rng.random(num_bins) < rng.uniform(0, 0.5)] = 0
    counts[-1] += rng.integers(0, 3)
    counts[3] += 1
    return counts.astype(np.int64)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_bins", [NUM_LEVELS, NUM_LEVELS + 1, 333])
def test_the_search_computes_what_a_plain_loop_computes(seed, num_bins):
    counts = drawn(seed, num_bins)
    expected = [plain_divergence(counts, kept) for kept in range(NUM_LEVELS, num_bins + 1)]
    np.testing.assert_allclose(divergences(counts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bins_per_level", [1, 2, 4, 16])
def test_entropy_clips_where_every_level_is_even(bins_per_level):
    """Each level's magnitudes are evenly spread: the kept bins lose nothing, other cuts would."""
    rng = np.random.default_rng(bins_per_level)
    per_level = 1000 + rng.permutation(NUM_LEVELS)
    counts = np.zeros(NUM_BINS, np.int64)
    counts[: NUM_LEVELS * bins_per_level] = np.repeat(per_level, bins_per_level)
    counts[-1] += 3
    assert bins_by_entropy(counts) == NUM_LEVELS * bins_per_level


def test_zeros_do_not_change_where_entropy_clips():
    """A ReLU gives as many as it likes; every scale holds them exactly."""
    counts = drawn(0, NUM_BINS)
    expected = bins_by_entropy(counts)
    counts[0] = 10**9
    assert bins_by_entropy(counts) == expected


@pytest.mark.parametrize(
    "counts", [np.eye(1, NUM_BINS, dtype=np.int64)[0], np.zeros(NUM_BINS, np.int64)]
)
def test_entropy_clips_nothing_of_a_value_that_is_always_zero(counts):
    assert bins_by_entropy(counts) == NUM_BINS


def test_the_search_takes_milliseconds():
    """A network has a hundred values."""
    counts = drawn(0, NUM_BINS)
    start = time.perf_counter()
    bins_by_entropy(counts)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("num_outliers", "expected"),
    [(0, 1000), (99, 1000), (100, 1000), (101, NUM_BINS)],
)
def test_percentile_leaves_out_one_in_ten_thousand(num_outliers, expected):
    counts = np.zeros(NUM_BINS, np.int64)
    counts[:1000] = 1000
    counts[999] -= num_outliers  # of a million
    counts[-1] = num_outliers
    assert bins_by_percentile(counts) == expected


@pytest.mark.parametrize(
    ("values", "largest", "expected"),
    [
        ([], 1.0, {}),
        ([0.0, -0.0], 0.0, {0: 2}),
        ([1.0, -2.0], np.inf, {0: 2}),
        ([2.0, -2.0, 1.0, -0.9999, 0.0], 2.0, {0: 1, 1023: 1, 1024: 1, 2047: 2}),
    ],
    ids=["nothing", "zeros", "an infinite range", "to the border"],
)
def test_magnitudes_are_counted_in_equal_bins(values, largest, expected):
    counts = count_magnitudes(np.array(values, np.float32), largest)
    assert counts.shape == (NUM_BINS,)
    assert {int(i): int(counts[i]) for i in counts.nonzero()[0]} == expected


@pytest.mark.parametrize("seed", range(4))
def test_the_range_of_least_error_is_that_of_plain_rounding(seed):
    """Of all ranges none errs less on the magnitudes themselves, within the width of a bin."""
    magnitudes = np.abs(np.random.default_rng(seed).standard_t(3 + seed, 20_000))
    largest = magnitudes.max()
    counts = count_magnitudes(magnitudes.astype(np.float32), largest)

    def error(kept):
        step = largest * kept / NUM_BINS / (NUM_LEVELS - 1)
        levels = np.minimum(np.rint(magnitudes / step), NUM_LEVELS - 1)
        return ((magnitudes - levels * step) ** 2).sum()

    best = min(error(kept) for kept in range(NUM_LEVELS, NUM_BINS + 1, 8))
    assert error(bins_by_error(counts)) <= 1.02 * best


def test_negative_values_count_as_little_as_a_leaky_relu_leaves_of_them():
    positive, negative = np.zeros((2, NUM_BINS), np.int64)
    positive[: NUM_BINS // 8] = 100
    negative[-3:] = 100
    whole = bins_kept("mse", positive, negative, 1.0)
    leaky = bins_kept("mse", positive, negative, 0.01)
    assert whole > 0.9 * NUM_BINS
    assert leaky < 0.5 * NUM_BINS
    assert bins_kept("entropy", positive, negative, 0.01) == bins_by_entropy(positive + negative)


def test_nothing_but_zeros_keeps_the_whole_range():
    assert bins_by_error(np.zeros(NUM_BINS, np.int64)) == NUM_BINS
