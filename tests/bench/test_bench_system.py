"""What a system tells of its processors, from files of systems that this machine is not."""

import os

import pytest

from edgeseg_bench.system import cpu_quota, default_threads, read_counters, read_text

TICK = os.sysconf("SC_CLK_TCK")
CPU = "sys/devices/system/cpu/cpu"
STAT = f"""cpu  {900 * TICK} 0 0 {900 * TICK} 0 0 0 0 0 0
cpu0 {10 * TICK} {1 * TICK} {2 * TICK} {50 * TICK} {5 * TICK} {1 * TICK} {1 * TICK} {3 * TICK} {9 * TICK} 0
cpu1 {20 * TICK} 0 0 {60 * TICK} 0 0 0 0 0 0
cpu2 {800 * TICK} 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


@pytest.fixture
def system(tmp_path):
    """Return a function that writes files below a root, and returns the root."""

    def build(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return build


def siblings(*groups):
    return {
        f"{CPU}{core}/topology/thread_siblings_list": ",".join(map(str, group))
        for group in groups
        for core in group
    }


QUOTA_2 = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}


@pytest.mark.parametrize(
    ("cores", "files", "expected"),
    [
        ((0, 1, 2), {}, 3),
        ((0, 1, 2, 3), siblings((0, 2), (1, 3)), 2),
        ((0, 2), siblings((0, 2), (1, 3)), 1),
        ((1, 2), siblings((0, 2), (1, 3)), 2),
        ((0, 1, 2, 3), QUOTA_2, 2),
        ((0,), QUOTA_2, 1),
        ((0, 1), {**QUOTA_2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ((0, 1), {**QUOTA_2, "sys/fs/cgroup/cpu.max": "max 100000\n"}, 2),
    ],
    ids=["nothing-told", "two-threads-a-core", "one-pinned", "two-pinned", "quota", "quota-above-cores",
         "half-a-core", "no-quota"],
)  # fmt: skip
def test_threads_are_as_many_as_physical_cores_are_usable(system, cores, files, expected):
    assert default_threads(cores, root=system(files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "9:pids:/\n3:cpuset:/\n1:cpu,cpuacct:/docker/1\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
    ids=["nothing-told", "of-a-parent", "version-1-in-a-container", "version-1-without"],
)
def test_the_lowest_quota_of_all_cgroups_counts(system, files, expected):
    assert cpu_quota(system(files)) == expected


def test_times_are_those_of_the_usable_cores_and_guests_count_once(system):
    found = read_counters((0, 1), root=system({"proc/stat": STAT}))
    assert (found.num_cores, found.core_s, found.busy_s, found.steal_s) == (2, 153.0, 35.0, 3.0)


def test_times_are_those_of_all_cores_where_ours_are_not_listed(system):
    found = read_counters((0, 7), root=system({"proc/stat": STAT}))
    assert (found.core_s, found.busy_s, found.steal_s) == (1800.0, 900.0, 0.0)


def test_an_old_kernel_without_steal_is_read(system):
    found = read_counters((0,), root=system({"proc/stat": f"cpu0 {TICK} 0 0 {TICK}\n"}))
    assert (found.core_s, found.busy_s, found.steal_s) == (2.0, 1.0, 0.0)


def test_throttling_is_counted_by_quota_heat_and_clock(system):
    root = system(
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_periods 0\nnr_throttled 0\n",
            "sys/fs/cgroup/a/cpu.stat": "usage_usec 5\nnr_periods 90\nnr_throttled 7\n",
            f"{CPU}0/thermal_throttle/core_throttle_count": "4\n",
            f"{CPU}1/thermal_throttle/core_throttle_count": "5\n",
            f"{CPU}1/thermal_throttle/package_throttle_count": "1\n",
            f"{CPU}0/cpufreq/scaling_max_freq": "2000000\n",
            f"{CPU}0/cpufreq/cpuinfo_max_freq": "2000000\n",
            f"{CPU}1/cpufreq/scaling_max_freq": "1500000\n",
            f"{CPU}1/cpufreq/cpuinfo_max_freq": "2000000\n",
        }
    )
    found = read_counters((0, 1), root=root)
    assert (found.num_periods, found.num_throttled) == (90, 7)
    assert (found.num_thermal_events, found.clock_limit) == (10, 0.75)


def test_what_a_system_does_not_tell_is_none(tmp_path):
    found = read_counters((0, 1), root=tmp_path)
    untold = (found.core_s, found.busy_s, found.steal_s, found.num_periods, found.num_throttled)
    assert (*untold, found.num_thermal_events, found.clock_limit) == (None,) * 7
    assert found.own_s > 0


def test_this_machine_can_be_read():
    before, after = read_counters(), read_counters()
    assert before.num_cores >= 1
    assert after.wall_s >= before.wall_s
    assert 1 <= default_threads() <= before.num_cores


def test_text_is_read_without_what_surrounds_it(tmp_path):
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin\0\n")
    assert read_text(tmp_path / "model") == "NVIDIA Jetson Orin"
    assert read_text(tmp_path / "none") is None
