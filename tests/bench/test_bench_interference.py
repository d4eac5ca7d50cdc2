"""What spoils a measurement is seen, and what does not is not."""

from dataclasses import replace

import numpy as np
import pytest

from edgeseg_bench.interference import (
    Finding,
    disturbed_share,
    findings_of,
    interference_between,
)
from edgeseg_bench.system import Counters

BEFORE = Counters(
    wall_s=100.0,
    own_s=50.0,
    num_cores=2,
    core_s=1000.0,
    busy_s=500.0,
    steal_s=10.0,
    load_average=3.0,
    num_periods=40,
    num_throttled=4,
    num_thermal_events=7,
    clock_limit=1.0,
)
# 60 s on two cores, one of them ours
QUIET = replace(BEFORE, wall_s=160.0, own_s=110.0, core_s=1120.0, busy_s=561.0, num_periods=640)
UNTOLD = {
    "core_s": None, "busy_s": None, "steal_s": None, "num_periods": None, "num_throttled": None,
    "num_thermal_events": None, "clock_limit": None,
}  # fmt: skip


def findings(after, before=BEFORE, **disturbed):
    given = {"disturbed_rounds": {}, "disturbed_ratios": {}, **disturbed}
    return findings_of(interference_between(before, after), **given)


def test_figures_are_those_between_two_readings():
    after = replace(QUIET, busy_s=590.0, steal_s=13.0, num_throttled=64, num_thermal_events=9)
    seen = interference_between(BEFORE, after)
    assert (seen.seconds, seen.own_cores) == (60.0, 1.0)
    assert seen.others_share == pytest.approx(30 / 120)
    assert seen.steal_share == pytest.approx(3 / 120)
    assert seen.throttled_share == pytest.approx(60 / 600)
    assert seen.num_thermal_events == 2


def test_a_quiet_machine_has_no_findings():
    quiet = {"a": 0.0, "b": 0.09, "c": None}
    assert findings(QUIET, disturbed_rounds=quiet, disturbed_ratios=quiet) == ()


def test_no_time_between_the_readings_finds_nothing():
    assert findings(BEFORE) == ()


@pytest.mark.parametrize(
    ("change", "text", "spoils"),
    [
        ({"busy_s": 596.0}, "other processes took 30% of the usable cores", "ratios"),
        ({"steal_s": 16.0}, "the hypervisor gave 5% of the cores' time to other machines", "ratios"),
        ({"num_throttled": 304}, "the CPU quota stopped the process in 50% of its periods", "ratios"),
        ({"num_thermal_events": 10}, "hot cores were slowed down 3 times", "times"),
        ({"clock_limit": 0.6}, "the highest clock allowed went from 100% to 60%", "times"),
    ],
    ids=["others", "steal", "quota", "heat", "clock"],
)  # fmt: skip
def test_each_kind_of_interference_is_found(change, text, spoils):
    assert findings(replace(QUIET, **change)) == (Finding(text=text, spoils=spoils),)


def test_rounds_and_ratios_that_jump_are_found():
    found = findings(QUIET, disturbed_rounds={"torch": 0.25}, disturbed_ratios={"ort": 0.5})
    assert found == (
        Finding(text="the ratio of ort was 1.5-fold off in 50% of the rounds", spoils="ratios"),
        Finding(text="the time of torch was 1.5-fold off in 25% of the rounds", spoils="times"),
    )


@pytest.mark.parametrize(
    ("seconds", "load", "share"),
    [(60.0, 1.0, 0.0), (60.0, 3.0, 1.0), (60.0, None, None), (59.0, 3.0, None)],
    ids=["ours-alone", "two-others", "no-load", "load-of-earlier-times"],
)
def test_without_proc_the_load_average_tells_of_others(seconds, load, share):
    before = replace(BEFORE, **UNTOLD)
    after = replace(before, wall_s=100 + seconds, own_s=50 + seconds, load_average=load)
    assert interference_between(before, after).others_share == share


def test_a_system_that_tells_nothing_has_no_findings():
    before = replace(BEFORE, **UNTOLD, load_average=None)
    assert findings(replace(before, wall_s=200.0, own_s=90.0), before) == ()


def works(num_rounds, num_pictures):
    return [number % num_pictures for number in range(num_rounds)]


def test_pictures_that_differ_are_no_disturbance():
    """Each picture has its own time, and repeats it within some per cent."""
    rng = np.random.default_rng(0)
    times = np.tile(rng.uniform(1, 50, 32), 4) * rng.normal(1, 0.05, 128)
    assert disturbed_share(times.tolist(), works(128, 32)) == 0.0
    assert disturbed_share(times.tolist(), works(128, 1)) > 0.3


def test_key_frames_that_take_longer_are_no_disturbance():
    """Of three pictures every one is a key frame sometimes, since three and five have no common factor."""
    times = [30.0 if number % 5 == 0 else 10.0 for number in range(60)]
    frames = [(number % 3, number % 5 == 0) for number in range(60)]
    assert disturbed_share(times, frames) == 0.0
    assert disturbed_share(times, works(60, 3)) == 0.2


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_bursts_are_counted(share):
    rng = np.random.default_rng(1)
    times = np.full(640, 10.0)
    struck = rng.permutation(640)[: int(share * 640)]
    times[struck] *= rng.uniform(3, 10, len(struck))
    assert disturbed_share(times.tolist(), works(640, 8)) == pytest.approx(share, abs=0.01)


def test_a_slow_drift_disturbs_times_and_not_ratios():
    drift = np.linspace(1, 6, 256)
    ours, theirs = 10 * drift, 20 * drift
    assert disturbed_share(ours.tolist(), works(256, 32)) > 0.1
    assert disturbed_share((ours / theirs).tolist(), works(256, 32)) == 0.0


def test_bursts_that_strike_one_of_two_disturb_their_ratio():
    """The order in which contenders take turns protects from drift, not from this."""
    rng = np.random.default_rng(2)
    ours, theirs = np.where(rng.random((2, 128)) < 0.3, 100.0, 10.0)
    assert disturbed_share((ours / theirs).tolist(), works(128, 32)) > 0.1


@pytest.mark.parametrize(
    ("values", "pictures", "expected"),
    [([], [], None), ([5.0], [0], None), ([1, 2, 3], [0, 1, 2], None), ([1, 2, 3, 1], [0, 1, 2, 0], 0.0),
     ([0, 0], [0, 0], 0.0)],
    ids=["none", "one", "each-once", "one-twice", "zeros"],
)  # fmt: skip
def test_what_was_run_once_says_nothing(values, pictures, expected):
    assert disturbed_share(values, pictures) == expected
