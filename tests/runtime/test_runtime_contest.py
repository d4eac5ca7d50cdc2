"""The contest for each pixel: equal to the full form in every pixel, in a few maps' memory."""

import tracemalloc

import numpy as np
import pytest
from full_panoptic import contest_fully, enlarged_fully

from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.tasks.pixel_contest import (
    TILE,
    Contenders,
    enlarged,
    hold_contest,
    nearest_source,
    semantic_maps,
)

NUM_STUFF, NUM_THINGS, FACTOR = 3, 4, 4
SEEDS = range(200)


def scene(seed):
    """Return logits, contenders and where the picture lies; small whole numbers give many ties."""
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(3, 9)), int(rng.integers(3, 2 * TILE + 9 if seed % 10 == 0 else 9))
    size = cells[0] * FACTOR, cells[1] * FACTOR
    low, high = [(-2, 3), (-3, 1), (0, 2)][seed % 3]
    logits = 4 * rng.integers(low, high, (NUM_STUFF + NUM_THINGS, *cells)).astype(np.float32)
    if seed % 2:
        logits += rng.normal(0, 1, logits.shape).astype(np.float32)
    if seed % 4 == 0:  # far apart: most classes can win nowhere
        logits += 30 * (rng.integers(0, 7, (1, *cells)) == np.arange(7)[:, None, None])
    count = int(rng.integers(0, 7))
    limit = np.array([size[1] - 1, size[0] - 1])
    first = rng.uniform(0, 0.8, (count, 2)) * limit
    last = first + rng.uniform(0, 1, (count, 2)) * (limit - first)
    boxes = np.concatenate([first, last], axis=1).astype(np.float32)
    if seed % 5 == 0:
        boxes = np.round(boxes * 2) / 2  # halves are rounded to even
    if seed % 7 == 0:
        boxes[:] = 0, 0, *limit  # a pixel that all contenders cover: used may be negative
    classes = (NUM_STUFF + rng.integers(0, NUM_THINGS, count)).tolist()
    masks = 4 * rng.integers(-2, 3, (count, 4, 4)).astype(np.float32)
    if seed % 11 == 0:
        masks[:] = -1  # all of them are dropped
    return logits, Contenders(boxes, classes, masks), size


@pytest.mark.parametrize("has_unknown", [True, False], ids=["UPSNet", "VPSNet"])
def test_every_pixel_goes_to_the_channel_of_the_full_form(has_unknown):
    seen = {"none": 0, "dropped": 0, "unknown": 0, "outside": 0}
    for seed in SEEDS:
        logits, contenders, size = scene(seed)
        rule = {"num_stuff": NUM_STUFF, "overlap": 0.3, "has_unknown": has_unknown}
        expected = contest_fully(logits, *contenders, **rule)
        geometry = Geometry.at_top_left(source=size, resized=size, network=size)
        found = hold_contest(logits, contenders, geometry, **rule)
        np.testing.assert_array_equal(found.channels, expected[0], str(seed))
        np.testing.assert_array_equal(
            found.semantic[found.semantic < NUM_STUFF], expected[1][found.semantic < NUM_STUFF]
        )
        np.testing.assert_array_equal(found.semantic < NUM_STUFF, expected[1] < NUM_STUFF)
        assert found.kept == expected[2]
        seen["none"] += len(contenders.boxes) == 0
        seen["dropped"] += len(contenders.boxes) > 0 and found.kept == (0,) and seed % 11 == 0
        seen["unknown"] += bool((found.channels == NUM_STUFF + max(len(found.kept), 1)).any())
        seen["outside"] += _wins_outside(found, contenders)
    assert min(seen["none"], seen["dropped"], seen["outside"]) > 3
    assert (seen["unknown"] > 20) == has_unknown


def _wins_outside(found, contenders):
    """Tell whether an instance has a pixel that its box does not."""
    ys, xs = np.mgrid[: found.channels.shape[0], : found.channels.shape[1]]
    for number, row in enumerate(found.kept):
        x1, y1, x2, y2 = contenders.boxes[row]
        is_far = (xs < x1 - 1) | (xs > x2 + 1) | (ys < y1 - 1) | (ys > y2 + 1)
        if (is_far & (found.channels == NUM_STUFF + number)).any():
            return True
    return False


def test_the_best_of_each_group_is_that_of_all_classes():
    """Also with the things that cannot win, in the window where they are asked for."""
    for seed in SEEDS[::4]:
        logits, _, size = scene(seed)
        large = enlarged_fully(logits, FACTOR)
        everywhere = slice(0, size[0]), slice(0, size[1])
        found = semantic_maps(logits, size, num_stuff=NUM_STUFF, factor=FACTOR, exact=everywhere)
        for first, part, scores, labels in (
            (0, large[:NUM_STUFF], found.stuff_scores, found.stuff_labels),
            (NUM_STUFF, large[NUM_STUFF:], found.thing_scores, found.thing_labels),
        ):
            np.testing.assert_array_equal(scores, part.max(axis=0))
            np.testing.assert_array_equal(labels, first + part.argmax(axis=0))


def test_every_window_of_an_enlarged_map_has_its_bits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 10, (1, 7, 9)).astype(np.float32)
    whole = enlarged_fully(logits, FACTOR)[0]
    for _ in range(50):
        (y1, y2), (x1, x2) = (np.sort(rng.integers(0, side + 1, 2)) for side in whole.shape)
        found = enlarged(logits[0], (slice(y1, y2), slice(x1, x2)), factor=FACTOR)
        np.testing.assert_array_equal(found, whole[y1:y2, x1:x2])


def test_a_logit_that_is_no_number_loses_its_pixels():
    logits = np.zeros((2, 4, 4), np.float32)
    logits[0] = 1
    logits[0, 1, 1] = np.nan
    logits[1, 3, 3] = -np.inf
    geometry = Geometry.at_top_left(source=(16, 16), resized=(16, 16), network=(16, 16))
    none = Contenders(np.zeros((0, 4), np.float32), [], np.zeros((0, 4, 4), np.float32))
    found = hold_contest(logits, none, geometry, num_stuff=1)
    assert found.semantic[5, 5] == 1
    assert found.semantic[14, 14] == 0


def test_only_the_part_that_shows_the_picture_is_decided():
    logits, contenders, size = scene(1)
    rule = {"num_stuff": NUM_STUFF, "overlap": 0.3, "has_unknown": True}
    expected = contest_fully(logits, *contenders, **rule)[0]
    resized = size[0] - 3, size[1] - 6
    geometry = Geometry.at_top_left(source=resized, resized=resized, network=size)
    found = hold_contest(logits, contenders, geometry, **rule)
    np.testing.assert_array_equal(found.channels, expected[: resized[0], : resized[1]])


@pytest.mark.parametrize("scale", [1.0, 2.0, 800 / 427, 1024 / 1080, 0.37])
def test_the_nearest_pixel_is_the_one_that_opencv_takes(scale):
    """Called with the factor, as the originals do."""
    import cv2

    source = 27, 40
    step = 1 / scale
    geometry = Geometry(source=source, network=(99, 99), step=(step, step), origin=(0, 0))
    large = np.arange(np.prod(geometry.resized)).reshape(geometry.resized).astype(np.int32)
    factor = float(np.float32(1) / np.float32(scale))
    expected = cv2.resize(
        large.astype(np.float32), None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST
    )
    found = nearest_source(large, geometry)
    assert found.shape == source
    rows, columns = (min(a, b) for a, b in zip(source, expected.shape, strict=True))
    np.testing.assert_array_equal(found[:rows, :columns], expected[:rows, :columns])


def test_memory_does_not_grow_with_classes_and_contenders():
    """19 classes and 100 contenders at 512x1024: full arrays of either would be 40 and 200 MB."""
    rng = np.random.default_rng(0)
    size, count = (512, 1024), 100
    logits = rng.normal(0, 1, (19, size[0] // 4, size[1] // 4)).astype(np.float32)
    first = rng.uniform(0, 0.8, (count, 2)) * size[::-1]
    boxes = np.concatenate([first, np.minimum(first + 150, (1023, 511))], axis=1)
    contenders = Contenders(
        boxes.astype(np.float32),
        (11 + rng.integers(0, 8, count)).tolist(),
        rng.normal(0.3, 1, (count, 28, 28)).astype(np.float32),
    )
    geometry = Geometry.at_top_left(source=size, resized=size, network=size)
    tracemalloc.start()
    hold_contest(logits, contenders, geometry, num_stuff=11)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 4 * size[0] * size[1], f"{peak / 1e6:.0f} MB"
