"""Masks in recycled memory: never a trace of an earlier picture, never a change under a holder."""

import gc
import threading

import numpy as np
import pytest

from edgeseg_runtime.results.masks import MaskSet
from edgeseg_runtime.results.paste import MaskCrop


def _masks(seed, count=3, size=(20, 30)):
    rng = np.random.default_rng(seed)
    crops = []
    expected = np.zeros((count, *size), bool)
    for index in range(count):
        top, left = int(rng.integers(0, 10)), int(rng.integers(0, 15))
        bits = rng.random((int(rng.integers(0, 11)), int(rng.integers(0, 16)))) < 0.5
        crops.append(MaskCrop(top, left, bits))
        expected[index, top : top + bits.shape[0], left : left + bits.shape[1]] = bits
    return MaskSet(crops.__getitem__, count=count, size=size), expected


def _assert_the_next_picture_gets_it_clean(address):
    gc.collect()
    masks, expected = _masks(2, size=(64, 64))
    assert masks.array().ctypes.data == address
    np.testing.assert_array_equal(masks.array(), expected)


@pytest.mark.parametrize("seed", range(30))
def test_masks_hold_nothing_of_earlier_pictures(seed):
    rng = np.random.default_rng(seed)
    for step in range(6):
        count = int(rng.integers(0, 6))
        size = (20, 30) if rng.random() < 0.8 else (25, 31)
        masks, expected = _masks(100 * seed + step, count=count, size=size)
        np.testing.assert_array_equal(masks.array(), expected)


def test_nobody_writes_into_memory_that_the_next_picture_gets():
    first, _ = _masks(1, size=(64, 64))
    with pytest.raises(ValueError, match="read-only"):
        first.array()[0] = True
    with pytest.raises(ValueError, match="read-only"):
        first.crop(0).bits[:] = True
    address = first.array().ctypes.data
    del first
    _assert_the_next_picture_gets_it_clean(address)


def test_masks_made_from_an_array_are_read_only_and_the_array_is_not():
    own = np.zeros((2, 4, 5), bool)
    masks = MaskSet.from_array(own)
    with pytest.raises(ValueError, match="read-only"):
        masks.array()[0] = True
    own[1] = True
    assert masks.array()[1].all(), "nothing is copied"


@pytest.mark.parametrize("part", [np.s_[1], np.s_[:, 3:9], np.s_[0, 2], np.s_[::-1]])
def test_whoever_holds_a_part_keeps_it(part):
    masks, expected = _masks(1)
    held = masks.array()[part]
    del masks
    gc.collect()
    for seed in range(2, 8):
        other, _ = _masks(seed)
        other.array()
        del other
    np.testing.assert_array_equal(held, expected[part])


def test_the_memory_of_masks_that_are_gone_is_used_again():
    first, _ = _masks(1, size=(64, 64))
    address = first.array().ctypes.data
    del first
    _assert_the_next_picture_gets_it_clean(address)


def test_threads_never_share_memory():
    failures = []

    def work(seed):
        for step in range(50):
            masks, expected = _masks(1000 * seed + step)
            if not np.array_equal(masks.array(), expected):
                failures.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
