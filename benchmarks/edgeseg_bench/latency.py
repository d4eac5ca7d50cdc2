"""Measures latencies that can be compared: warmed up, paired, interleaved, every sample kept.

The absolute time of one operation drifts with the temperature and the clock, while the ratio of two operations that
take turns hardly moves. So several contenders always run on the same input right after one another, in alternating
order (A B, B A, A B ...), and ratios are taken per pair. Bursts do not cancel that way: see `interference`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Clock: TypeAlias = Callable[[], int]  # nanoseconds, monotonic
OnRound: TypeAlias = Callable[[int, int], None]  # rounds done, rounds expected

# A percentile q needs enough samples above it: MLPerf's early-stopping rule at 99 % confidence
# (inference_rules.adoc) asks for 64 queries to state the 90th and 662 for the 99th.
MIN_QUERIES = 64
MIN_QUERIES_P99 = 662
# From 16 pairs on, the 95 % bootstrap interval of a median holds the truth in at least 92 % of runs. With fewer there
# are too few values that a resampled median can take: of 15 pairs 91 %, of 7 pairs 87 %, of 3 pairs 75 %, of 2 pairs 51 %
# (normal noise, 1500 runs each).
MIN_PAIRS = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to warm up and to measure.

    Attributes:
        warmup_runs: at least so many calls of each contender before measuring.
        warmup_seconds: and at least so long each.
        max_warmup_seconds: give up waiting for stable times after this long.
        min_queries: at least so many samples of each contender.
        min_seconds: and keep measuring at least so long in all.
        max_seconds: stop after this long, even with fewer samples; None = never.
    """

    warmup_runs: int = 20
    warmup_seconds: float = 3.0
    max_warmup_seconds: float = 30.0
    min_queries: int = MIN_QUERIES
    min_seconds: float = 60.0
    max_seconds: float | None = 600.0

    def __post_init__(self) -> None:
        if self.min_queries < 1 or self.warmup_runs < 1:
            raise ValueError(
                f"A plan needs at least one warm-up run and one query, found {self.warmup_runs} "
                f"and {self.min_queries}."
            )


THOROUGH = Plan()
QUICK = Plan(
    warmup_runs=4, warmup_seconds=0.3, max_warmup_seconds=3.0, min_seconds=0.0, max_seconds=60.0
)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What happened before the measurement.

    Attributes:
        first_ns: duration of the very first call.
        num_runs: calls that were made.
        is_stable: the medians of the last two windows were within 2 % of one another.
    """

    first_ns: int
    num_runs: int
    is_stable: bool


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Samples of one contender in the order they were taken, in nanoseconds."""

    samples_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.samples_ns:
            raise ValueError("A latency needs at least one sample.")

    def percentile_ms(self, percent: float) -> float:
        """Return the smallest sample that at least `percent` % of the samples do not exceed."""
        rank = max(1, math.ceil(percent / 100 * len(self.samples_ns)))
        return sorted(self.samples_ns)[rank - 1] / 1e6

    @property
    def p50_ms(self) -> float:
        """Median."""
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float | None:
        """90th percentile; None with fewer than 64 samples, which do not support it."""
        return self.percentile_ms(90) if len(self.samples_ns) >= MIN_QUERIES else None

    @property
    def p99_ms(self) -> float | None:
        """99th percentile; None with fewer than 662 samples, which do not support it."""
        return self.percentile_ms(99) if len(self.samples_ns) >= MIN_QUERIES_P99 else None

    @property
    def mean_ms(self) -> float:
        """Arithmetic mean."""
        return sum(self.samples_ns) / len(self.samples_ns) / 1e6

    @property
    def min_ms(self) -> float:
        """Shortest sample."""
        return min(self.samples_ns) / 1e6

    @property
    def max_ms(self) -> float:
        """Longest sample."""
        return max(self.samples_ns) / 1e6

    @property
    def per_second(self) -> float:
        """Queries a second, one after the other."""
        return 1e3 / self.mean_ms


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How a contender's time relates to a reference's: below 1 is faster.

    Attributes:
        median: of the ratios candidate / reference, pair by pair.
        low: lower end of the bootstrap 95 % interval of that median; None with fewer than `MIN_PAIRS`.
        high: upper end.
        num_pairs: that it was computed from.
    """

    median: float
    low: float | None
    high: float | None
    num_pairs: int

    @property
    def is_equal(self) -> bool:
        """Whether no difference was shown: the interval contains 1, or there is none."""
        return self.low is None or self.high is None or self.low <= 1.0 <= self.high

    def text(self, digits: int = 2) -> str:
        """Return such as "0.35 [0.32, 0.38]", or "0.35 (2 pairs)" without an interval."""
        return f"{self.median:.{digits}f} {self.interval_text(digits, '[{}, {}]', '({})')}"

    def interval_text(
        self, digits: int, interval: str = "{} to {}", too_few: str = "{}, too few"
    ) -> str:
        """Return the interval, or how many pairs were too few for one."""
        if self.low is None or self.high is None:
            return too_few.format(f"{self.num_pairs} pair{'s' * (self.num_pairs != 1)}")
        return interval.format(f"{self.low:.{digits}f}", f"{self.high:.{digits}f}")


def paired_ratio(
    candidate_ns: Sequence[int],
    reference_ns: Sequence[int],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Ratio:
    """Return the median ratio of paired samples and its bootstrap interval (percentile method).

    There is no interval with fewer than `MIN_PAIRS` pairs.

    Args:
        candidate_ns: one sample per round.
        reference_ns: the samples of the same rounds.
        seed: of the resampling; the same samples and seed give the same interval.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: the samples do not come in pairs, or there are none.
    """
    if len(candidate_ns) != len(reference_ns) or not candidate_ns:
        raise ValueError(
            f"Paired samples are needed, found {len(candidate_ns)} and {len(reference_ns)}: "
            "measure both with measure_interleaved."
        )
    ratios = np.asarray(candidate_ns, dtype=np.float64) / np.maximum(reference_ns, 1)
    if len(ratios) < MIN_PAIRS:
        return Ratio(median=float(np.median(ratios)), low=None, high=None, num_pairs=len(ratios))
    picks = np.random.default_rng(seed).integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(
        median=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        num_pairs=len(ratios),
    )


def warm_up(
    call: Callable[[int], object],
    plan: Plan,
    *,
    clock: Clock = time.perf_counter_ns,
    window: int = 10,
    tolerance: float = 0.02,
) -> WarmUp:
    """Call until the time settles: the medians of the last two windows differ by at most `tolerance`.

    Args:
        call: takes the number of the input.
        plan: the least and the most to do.
        clock: nanoseconds, monotonic.
        window: calls per window; shorter where `plan.warmup_runs` is.
        tolerance: relative.
    """
    window = max(1, min(window, plan.warmup_runs // 2))
    start = clock()
    samples: list[int] = []
    while True:
        before = clock()
        call(len(samples))
        now = clock()
        samples.append(now - before)
        elapsed = (now - start) / 1e9
        is_stable = len(samples) >= 2 * window and _is_settled(samples, window, tolerance)
        is_enough = len(samples) >= plan.warmup_runs and elapsed >= plan.warmup_seconds
        if (is_stable and is_enough) or elapsed >= plan.max_warmup_seconds:
            return WarmUp(first_ns=samples[0], num_runs=len(samples), is_stable=is_stable)


def measure_interleaved(
    calls: Mapping[str, Callable[[int], object]],
    plan: Plan,
    *,
    clock: Clock = time.perf_counter_ns,
    on_round: OnRound | None = None,
) -> dict[str, Latency]:
    """Measure contenders in turns.

    Round r gives input r to every contender, forwards in even rounds and backwards in odd ones, so that drift
    and the state the predecessor leaves behind (caches, clocks) strike all alike. Sample r of one contender
    pairs with sample r of another.

    Args:
        calls: by name; each takes the number of the round and may be any callable that returns when the work
            is done, devices synchronised.
        plan: how long; warm up before, with `warm_up`.
        clock: nanoseconds, monotonic.
        on_round: told the rounds done and expected, outside the timed sections.

    Returns:
        By name, as many samples for each.
    """
    samples: dict[str, list[int]] = {name: [] for name in calls}
    names = list(calls)
    start = clock()
    done = 0
    while not _is_over(done, (clock() - start) / 1e9, plan):
        for name in names if done % 2 == 0 else reversed(names):
            before = clock()
            calls[name](done)
            samples[name].append(clock() - before)
        done += 1
        if on_round is not None:
            on_round(done, max(done, plan.min_queries))
    return {name: Latency(samples_ns=tuple(taken)) for name, taken in samples.items()}


def _is_settled(samples: Sequence[int], window: int, tolerance: float) -> bool:
    earlier = float(np.median(samples[-2 * window : -window]))
    later = float(np.median(samples[-window:]))
    return abs(later - earlier) <= tolerance * earlier


def _is_over(done: int, elapsed: float, plan: Plan) -> bool:
    if done == 0:
        return False
    if plan.max_seconds is not None and elapsed >= plan.max_seconds:
        return True
    return done >= plan.min_queries and elapsed >= plan.min_seconds
