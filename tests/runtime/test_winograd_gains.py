"""Which layers are rewritten: those that were measured to gain, or lie between such."""

import json
import math

import pytest

from edgeseg_runtime.onnx.winograd import TILES, Layer
from edgeseg_runtime.onnx.winograd_gains import (
    FILE,
    MAX_RATIO,
    MAX_THREADS,
    Table,
    choice_for,
    read_tables,
)


def table(ratio=0.5, serial=0.02, **changes):
    """Wide layers gain, narrow ones do not, and the less the fewer tiles there are."""
    values = {
        "engine": "engine",
        "tile": 4,
        "has_many_maps": False,
        "channels": (64, 256),
        "tiles": (16, 1024),
        "ratios": ((2.0, 1.0), (1.0, ratio)),
        "serial": ((serial, serial), (serial, serial)),
    }
    return Table(**{**values, **changes})


def layer(channels=256, out=256, maps=1, height=128, width=128):
    return Layer(channels, out, maps, height, width)


def test_what_was_measured_is_met_and_between_it_is_estimated():
    assert table().ratio(layer()) == pytest.approx(0.5)
    assert table().ratio(layer(128, 128)) == pytest.approx(0.75)
    assert table().ratio(layer(height=32, width=64)) == pytest.approx(0.75)


def test_beyond_the_largest_the_last_holds_and_below_the_smallest_nothing_does():
    assert table().ratio(layer(1024, 1024, height=512)) == pytest.approx(0.5)
    assert table().ratio(layer(63, 63)) == math.inf
    assert table().ratio(layer(height=12, width=16)) == math.inf


def test_tiles_that_stick_out_of_the_map_count():
    assert table().ratio(layer(height=125)) == pytest.approx(0.5 * 128 / 125, rel=1e-3)


def test_a_few_channels_in_or_out_are_worth_nothing():
    assert table().ratio(layer(256, 128)) == table().ratio(layer(128, 256)) > 0.5
    assert table().ratio(layer(1024, 8)) == math.inf


def test_what_was_not_measured_is_left_out():
    assert table(ratios=((2.0, 1.0), (0.7, None))).ratio(layer()) == pytest.approx(0.7)
    assert table(ratios=((2.0, 1.0), (None, None))).ratio(layer(128, 128)) == pytest.approx(1.0)


def test_the_form_that_gains_most_is_chosen_if_any_does():
    two = table(tile=2, ratio=0.4, tiles=(16, 4096))
    assert choice_for("engine", 1, [table(), two])(layer()) == 2
    assert choice_for("engine", 1, [table()])(layer()) == 4
    assert choice_for("engine", 1, [table()])(layer(64, 64)) is None
    assert choice_for("engine", 1, [table()])(layer(maps=4)) is None
    assert choice_for("other", 1, [table()])(layer()) is None


def test_what_one_thread_computes_counts_more_with_each_further_thread():
    assert table().ratio(layer(), threads=4) == pytest.approx(0.56)
    steep = [table(serial=0.15)]  # 0.5, 0.65, 0.8 and 0.95
    assert choice_for("engine", 3, steep)(layer()) == 4
    assert choice_for("engine", 4, steep)(layer()) is None


def test_with_very_many_threads_nothing_is_rewritten():
    assert choice_for("engine", MAX_THREADS, [table()])(layer()) == 4
    assert choice_for("engine", MAX_THREADS + 1, [table()])(layer()) is None


def test_the_tables_that_are_shipped_can_be_read():
    tables = read_tables()
    assert {table.engine for table in tables} == {"onnxruntime", "openvino"}
    for found in tables:
        assert found.tile in TILES
        assert list(found.channels) == sorted(found.channels)
        for rows in (found.ratios, found.serial):
            assert [len(row) for row in rows] == [len(found.tiles)] * len(found.channels)
    assert FILE.stat().st_size < 20_000
    json.loads(FILE.read_text())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("threads", [1, 2])
def test_wide_layers_gain_and_narrow_ones_do_not(engine, threads):
    choose = choice_for(engine, threads)
    assert choose(layer(256, 256, height=100, width=168)) == 4
    assert choose(layer(32, 32)) is None
    assert MAX_RATIO < 1
