"""Latency statistics, with a clock that tells the time the test wants."""

import numpy as np
import pytest

from edgeseg_bench.latency import (
    MIN_PAIRS,
    MIN_QUERIES_P99,
    Latency,
    Plan,
    Ratio,
    measure_interleaved,
    paired_ratio,
    warm_up,
)

MS = 1_000_000


class FakeClock:
    """Time passes only while something works."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def work(self, duration_ms):
        self.now += round(duration_ms * MS)


@pytest.fixture
def clock():
    return FakeClock()


def latency_of(*samples_ms):
    return Latency(samples_ns=tuple(round(s * MS) for s in samples_ms))


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (100, 100)]
)
def test_percentiles_are_samples(percent, expected):
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 101))
    assert latency_of(*shuffled).percentile_ms(percent) == expected


def test_percentiles_need_enough_samples():
    assert latency_of(*[1.0] * 63).p90_ms is None
    assert latency_of(*[1.0] * 64).p90_ms == 1.0
    assert latency_of(*[1.0] * (MIN_QUERIES_P99 - 1)).p99_ms is None
    assert latency_of(*[1.0] * MIN_QUERIES_P99).p99_ms == 1.0


def test_statistics_of_few_samples():
    latency = latency_of(4.0, 2.0, 6.0)
    assert (latency.p50_ms, latency.mean_ms) == (4.0, 4.0)
    assert (latency.min_ms, latency.max_ms, latency.per_second) == (2.0, 6.0, 250.0)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        Latency(samples_ns=())


def test_contenders_take_turns_in_alternating_order(clock):
    order = []

    def contender(name, duration_ms):
        def call(number):
            order.append((name, number))
            clock.work(duration_ms)

        return call

    plan = Plan(min_queries=4, min_seconds=0)
    found = measure_interleaved({"a": contender("a", 1), "b": contender("b", 2)}, plan, clock=clock)
    assert order == [
        ("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2), ("b", 3), ("a", 3),
    ]  # fmt: skip
    assert found["a"].samples_ns == (MS,) * 4
    assert found["b"].samples_ns == (2 * MS,) * 4


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(min_queries=64, min_seconds=0), 64),
        (Plan(min_queries=64, min_seconds=1), 100),
        (Plan(min_queries=64, min_seconds=1, max_seconds=0.5), 50),
        (Plan(min_queries=64, min_seconds=0, max_seconds=0), 1),
    ],
    ids=["queries", "seconds", "limit", "at-least-one"],
)
def test_a_plan_bounds_queries_and_time(clock, plan, expected):
    found = measure_interleaved({"a": lambda _: clock.work(10)}, plan, clock=clock)
    assert len(found["a"].samples_ns) == expected


def test_progress_costs_no_measured_time(clock):
    seen = []

    def slow_progress(done, total):
        seen.append((done, total))
        clock.work(1000)

    plan = Plan(min_queries=3, min_seconds=0)
    found = measure_interleaved(
        {"a": lambda _: clock.work(1)}, plan, clock=clock, on_round=slow_progress
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found["a"].samples_ns == (MS,) * 3


def test_warm_up_waits_until_times_settle(clock):
    def settles_after_40_calls(number):
        clock.work(10 + max(0, 40 - number))

    plan = Plan(warmup_runs=20, warmup_seconds=0, max_warmup_seconds=100)
    done = warm_up(settles_after_40_calls, plan, clock=clock)
    assert done.is_stable
    assert 40 < done.num_runs <= 60
    assert done.first_ns == 50 * MS


def test_warm_up_gives_up_on_times_that_never_settle(clock):
    plan = Plan(warmup_runs=20, warmup_seconds=0, max_warmup_seconds=5)
    done = warm_up(lambda number: clock.work(1.1**number), plan, clock=clock)
    assert not done.is_stable
    assert clock.now >= 5000 * MS


def test_warm_up_lasts_as_long_as_asked(clock):
    plan = Plan(warmup_runs=4, warmup_seconds=3, max_warmup_seconds=30)
    assert warm_up(lambda _: clock.work(100), plan, clock=clock).num_runs == 30


def test_a_plan_without_queries_is_refused():
    with pytest.raises(ValueError, match="at least one warm-up run and one query, found 20 and 0"):
        Plan(min_queries=0)


def test_drift_of_the_machine_cancels_in_the_ratio():
    """Both slow down threefold during the run; their ratio stays 0.8."""
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 64)
    reference = 10 * MS * drift * rng.normal(1, 0.02, 64)
    candidate = 8 * MS * drift * rng.normal(1, 0.02, 64)
    ratio = paired_ratio(candidate.astype(int).tolist(), reference.astype(int).tolist())
    assert 0.78 < ratio.low < ratio.median < ratio.high < 0.82
    assert not ratio.is_equal


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        noisy = (10 * MS * rng.lognormal(0, 0.2, (2, 64))).astype(int).tolist()
        covered += paired_ratio(noisy[0], noisy[1], resamples=300).is_equal
    assert 0.88 <= covered / 200 <= 1.0


def test_the_interval_is_reproducible():
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 100, (2, 64)).tolist()
    assert paired_ratio(a, b) == paired_ratio(a, b)
    assert paired_ratio(a, b) != paired_ratio(a, b, seed=1)


@pytest.mark.parametrize("count", [1, 2, MIN_PAIRS - 1])
def test_few_pairs_give_a_median_and_no_interval(count):
    ratio = paired_ratio([35] * count, [100] * count)
    assert ratio == Ratio(median=0.35, low=None, high=None, num_pairs=count)
    assert ratio.is_equal, "no difference was shown"


def test_as_many_pairs_as_an_interval_needs_give_one():
    ratio = paired_ratio([35] * MIN_PAIRS, [100] * MIN_PAIRS)
    assert (ratio.low, ratio.high, ratio.num_pairs) == (0.35, 0.35, MIN_PAIRS)


@pytest.mark.parametrize(("count", "low", "high"), [(2, 0.4, 0.6), (MIN_PAIRS, 0.88, 1.0)])
def test_a_bootstrap_of_two_holds_the_median_in_half_of_all_runs(count, low, high):
    """That is why two pairs get no interval: the method is the one of `paired_ratio`."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(300, count))
    picks = rng.integers(0, count, (300, count))
    medians = np.median(noise[:, picks], axis=2)
    ends = np.percentile(medians, [2.5, 97.5], axis=1)
    assert low <= np.mean((ends[0] <= 0) & (ends[1] >= 0)) <= high


@pytest.mark.parametrize(
    ("ratio", "text", "interval"),
    [
        (Ratio(median=0.35, low=0.32, high=0.38, num_pairs=64), "0.35 [0.32, 0.38]", "0.32 to 0.38"),
        (Ratio(median=0.35, low=None, high=None, num_pairs=2), "0.35 (2 pairs)", "2 pairs, too few"),
        (Ratio(median=1.0, low=None, high=None, num_pairs=1), "1.00 (1 pair)", "1 pair, too few"),
    ],
    ids=["enough", "two", "one"],
)  # fmt: skip
def test_a_ratio_shows_its_interval_or_how_few_pairs_it_has(ratio, text, interval):
    assert ratio.text() == text
    assert ratio.interval_text(2) == interval


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 2])], ids=["empty", "unequal"])
def test_a_ratio_needs_pairs(a, b):
    with pytest.raises(ValueError, match="Paired samples are needed"):
        paired_ratio(a, b)
