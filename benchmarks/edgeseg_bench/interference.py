"""Tells whether something else on the machine spoiled a measurement, and what of it can still be trusted.

Contenders that take turns share a slow drift, such as that of a clock that sinks with the temperature, so it cancels
in their ratio. What comes in bursts does not: it strikes whoever is running. Nor does a core that another program
takes: a contender whose threads wait for one another loses many times what a contender of one thread loses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from edgeseg_bench.system import Counters

Spoils: TypeAlias = Literal["times", "ratios"]  # ratios: and the times as well

OTHERS_SHARE = 0.1  # one core of ten taken
STEAL_SHARE = 0.02  # a guest on an idle host sees less than 1 %
THROTTLED_SHARE = 0.02
CLOCK_CHANGE = 0.02
DISTURBED_FACTOR = 1.5  # a quiet machine repeats a time within some per cent
DISTURBED_SHARE = 0.1  # of the rounds; the median bears some
MIN_LOAD_SECONDS = 60  # the load average looks back that far


@dataclass(frozen=True, kw_only=True)
class Interference:
    """What else happened while latencies were measured. None = not told on this system.

    Attributes:
        seconds: that measuring took.
        own_cores: how many cores this process kept busy, on average.
        others_share: of the usable cores' time, what other processes took.
        steal_share: of the same, what a hypervisor gave to other machines.
        load_average: over the last minute, at the end; this process is part of it.
        throttled_share: of the periods of the cgroup's quota, those in which it was used up.
        num_thermal_events: how often a core was slowed down because it was hot.
        clock_limit_before: highest clock allowed over the highest that the core has.
        clock_limit_after: the same at the end.
    """

    seconds: float
    own_cores: float
    others_share: float | None
    steal_share: float | None
    load_average: float | None
    throttled_share: float | None
    num_thermal_events: int | None
    clock_limit_before: float | None
    clock_limit_after: float | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that spoiled a measurement.

    Attributes:
        text: what was seen, as a clause.
        spoils: "times", where ratios hold since all contenders bore it alike; "ratios" for both.
    """

    text: str
    spoils: Spoils


def interference_between(before: Counters, after: Counters) -> Interference:
    """Return what happened between two readings of the same cores."""
    seconds = after.wall_s - before.wall_s
    own_s = after.own_s - before.own_s
    own_cores = own_s / seconds if seconds > 0 else 0.0
    core_s = _difference(before.core_s, after.core_s)
    busy_s = _difference(before.busy_s, after.busy_s)
    others_s = None if busy_s is None else max(0.0, busy_s - own_s)
    if others_s is None and after.load_average is not None and seconds >= MIN_LOAD_SECONDS:
        others_s = max(0.0, after.load_average - own_cores)
        core_s = float(after.num_cores)
    throttled = _difference(before.num_throttled, after.num_throttled)
    periods = _difference(before.num_periods, after.num_periods)
    thermal = _difference(before.num_thermal_events, after.num_thermal_events)
    return Interference(
        seconds=seconds,
        own_cores=own_cores,
        others_share=_share(others_s, core_s),
        steal_share=_share(_difference(before.steal_s, after.steal_s), core_s),
        load_average=after.load_average,
        throttled_share=_share(throttled, periods),
        num_thermal_events=None if thermal is None else int(thermal),
        clock_limit_before=before.clock_limit,
        clock_limit_after=after.clock_limit,
    )


def disturbed_share(values: Sequence[float], works: Sequence[Hashable]) -> float | None:
    """Return the share of rounds that are more than 1.5-fold off what is usual for their work.

    Args:
        values: times, or ratios of times, one per round.
        works: what was to be done in each round, such as the number of the picture: times of
            different works differ by themselves.

    Returns:
        None if nothing was done twice.
    """
    logs = np.log(np.maximum(np.asarray(values, dtype=np.float64), np.finfo(np.float64).tiny))
    rounds_of: dict[Hashable, list[int]] = defaultdict(list)
    for number, work in enumerate(works):
        rounds_of[work].append(number)
    alike = [logs[rounds] for rounds in rounds_of.values() if len(rounds) > 1]
    deviations = [each - np.median(each) for each in alike]
    if not deviations:
        return None
    # with two samples the median lies between them; rounding must not decide about the limit
    is_off = np.abs(np.concatenate(deviations)) > np.log(DISTURBED_FACTOR) + 1e-9
    return float(is_off.mean())


def findings_of(
    interference: Interference,
    *,
    disturbed_rounds: Mapping[str, float | None],
    disturbed_ratios: Mapping[str, float | None],
) -> tuple[Finding, ...]:
    """Return what spoiled a measurement; nothing if nothing was seen.

    Args:
        interference: while it was measured.
        disturbed_rounds: `disturbed_share` of each contender's times.
        disturbed_ratios: `disturbed_share` of each contender's ratios to the reference.
    """
    seen = interference
    found: list[Finding] = []
    if _exceeds(seen.others_share, OTHERS_SHARE):
        text = f"other processes took {seen.others_share:.0%} of the usable cores"
        found.append(Finding(text=text, spoils="ratios"))
    if _exceeds(seen.steal_share, STEAL_SHARE):
        text = f"the hypervisor gave {seen.steal_share:.0%} of the cores' time to other machines"
        found.append(Finding(text=text, spoils="ratios"))
    if _exceeds(seen.throttled_share, THROTTLED_SHARE):
        text = f"the CPU quota stopped the process in {seen.throttled_share:.0%} of its periods"
        found.append(Finding(text=text, spoils="ratios"))
    for name, share in disturbed_ratios.items():
        if _exceeds(share, DISTURBED_SHARE):
            text = (
                f"the ratio of {name} was {DISTURBED_FACTOR}-fold off in {share:.0%} of the rounds"
            )
            found.append(Finding(text=text, spoils="ratios"))
    for name, share in disturbed_rounds.items():
        if _exceeds(share, DISTURBED_SHARE):
            text = (
                f"the time of {name} was {DISTURBED_FACTOR}-fold off in {share:.0%} of the rounds"
            )
            found.append(Finding(text=text, spoils="times"))
    if seen.num_thermal_events:
        text = f"hot cores were slowed down {seen.num_thermal_events} times"
        found.append(Finding(text=text, spoils="times"))
    before, after = seen.clock_limit_before, seen.clock_limit_after
    if before is not None and after is not None and abs(after - before) > CLOCK_CHANGE:
        text = f"the highest clock allowed went from {before:.0%} to {after:.0%}"
        found.append(Finding(text=text, spoils="times"))
    return tuple(found)


def _exceeds(share: float | None, limit: float) -> bool:
    return share is not None and share > limit


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0, after - before)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
