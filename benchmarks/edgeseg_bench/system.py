"""Reads what the operating system tells of its processors: which are ours, how busy and how throttled they are.

Every function takes the root of the file system, and gives None for what a system does not tell.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg_runtime.environment import ROOT, read_text, usable_cores

CPUS = "sys/devices/system/cpu"


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What was counted up to a moment, times in seconds. None = not told on this system.

    Attributes:
        wall_s: of a monotonic clock.
        own_s: processor time of this process, all threads together.
        num_cores: logical cores this process may use; core_s, busy_s and steal_s are sums over them.
        core_s: time that passed, whatever they did.
        busy_s: time at work for any process of this machine.
        steal_s: time that a hypervisor gave to other machines.
        load_average: runnable processes over the last minute, this one included.
        num_periods: of the cgroup's processor quota.
        num_throttled: of these, in which the quota was used up and every thread had to wait.
        num_thermal_events: how often a core was slowed down because it was hot.
        clock_limit: highest clock allowed at the moment over the highest that the core has; of the
            core with the lowest.
    """

    wall_s: float
    own_s: float
    num_cores: int
    core_s: float | None = None
    busy_s: float | None = None
    steal_s: float | None = None
    load_average: float | None = None
    num_periods: int | None = None
    num_throttled: int | None = None
    num_thermal_events: int | None = None
    clock_limit: float | None = None


def default_threads(cores: Sequence[int] | None = None, *, root: Path = ROOT) -> int:
    """Return how many threads keep the usable cores busy: one per physical core, within the quota.

    Two threads on one physical core share its multipliers, so a second one gains a network nothing.

    Args:
        cores: numbers of logical cores; None = those that this process may use.
        root: of the file system.
    """
    numbers = usable_cores() if cores is None else cores
    siblings = {
        read_text(root / CPUS / f"cpu{number}" / "topology" / "thread_siblings_list") or str(number)
        for number in numbers
    }
    quota = cpu_quota(root)
    return max(1, len(siblings) if quota is None else min(len(siblings), int(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many cores' time the cgroups of this process allow; None = as many as there are."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def read_counters(cores: Sequence[int] | None = None, *, root: Path = ROOT) -> Counters:
    """Return what the system has counted up to now.

    Args:
        cores: numbers of logical cores; None = those that this process may use.
        root: of the file system.
    """
    numbers = usable_cores() if cores is None else cores
    core_s, busy_s, steal_s = _core_times(numbers, root)
    throttling = [_throttling(folder) for folder in _cgroup_folders(root)]
    num_periods, num_throttled = max(
        (found for found in throttling if found is not None),
        key=lambda found: found[1],
        default=(None, None),
    )
    return Counters(
        wall_s=time.monotonic(),
        own_s=time.process_time(),
        num_cores=len(numbers),
        core_s=core_s,
        busy_s=busy_s,
        steal_s=steal_s,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        num_periods=num_periods,
        num_throttled=num_throttled,
        num_thermal_events=_num_thermal_events(numbers, root),
        clock_limit=_clock_limit(numbers, root),
    )


def _core_times(
    numbers: Sequence[int], root: Path
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return the cores' time, the part at work and the part stolen; of all cores if none is named."""
    text = read_text(root / "proc" / "stat") or ""
    lines = {
        name: [int(field) for field in fields.split()]
        for name, fields in re.findall(r"^(cpu\d*) +([\d ]+)$", text, re.MULTILINE)
    }
    names = [f"cpu{number}" for number in numbers]
    chosen = [lines[name] for name in names] if lines.keys() >= set(names) else [lines.get("cpu")]
    counts = [fields for fields in chosen if fields]
    if not counts:
        return None, None, None
    # user nice system idle iowait irq softirq steal; guests count as user already (proc_stat(5))
    ticks = [sum(column) for column in zip(*(fields[:8] for fields in counts), strict=True)]
    ticks += [0] * (8 - len(ticks))
    per_second = os.sysconf("SC_CLK_TCK")
    idle, steal = ticks[3] + ticks[4], ticks[7]
    return sum(ticks) / per_second, (sum(ticks) - idle - steal) / per_second, steal / per_second


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's CPU cgroup and of those above it, version 1 and 2.

    Inside a container the path that /proc tells may be the host's, where only the top is visible.
    """
    for line in (read_text(root / "proc" / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys" / "fs" / "cgroup" / controllers
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth])


def _quota(cgroup: Path) -> float | None:
    """Return the cores' time that one cgroup allows: cpu.max of version 2, cpu.cfs_* of version 1."""
    text = read_text(cgroup / "cpu.max")
    if text is None:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        text = " ".join(read_text(cgroup / name) or "" for name in names)
    match = re.fullmatch(r"(\d+) (\d+)", text)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None


def _throttling(cgroup: Path) -> tuple[int, int] | None:
    text = read_text(cgroup / "cpu.stat") or ""
    counts = dict(re.findall(r"^(nr_periods|nr_throttled) (\d+)$", text, re.MULTILINE))
    return (int(counts["nr_periods"]), int(counts["nr_throttled"])) if len(counts) == 2 else None


def _num_thermal_events(numbers: Sequence[int], root: Path) -> int | None:
    folders = [root / CPUS / f"cpu{number}" / "thermal_throttle" for number in numbers]
    names = ("core_throttle_count", "package_throttle_count")
    counts = [
        int(text) for folder in folders for name in names if (text := read_text(folder / name))
    ]
    return sum(counts) if counts else None


def _clock_limit(numbers: Sequence[int], root: Path) -> float | None:
    """Return the lowest limit of any core; a hot one is limited here where nothing else counts it."""
    limits = []
    for number in numbers:
        folder = root / CPUS / f"cpu{number}" / "cpufreq"
        allowed, highest = (
            read_text(folder / name) for name in ("scaling_max_freq", "cpuinfo_max_freq")
        )
        if allowed and highest and int(highest):
            limits.append(int(allowed) / int(highest))
    return min(limits, default=None)
