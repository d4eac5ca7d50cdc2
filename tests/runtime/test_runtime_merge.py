"""Merging instances and semantic maps: equal to the full forms of the originals, in every pixel."""

import cv2
import numpy as np
import pytest

from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.results.paste import MaskCrop
from edgeseg_runtime.tasks.merge import (
    Contender,
    labels_from_logits,
    mask_window,
    remove_masks,
    resized_mask,
    semantic_window,
    settle_segments,
    stack_segments,
    unify,
)

NUM_STUFF, NUM_THINGS = 3, 4
SIZE = 22, 30
SEEDS = range(300)


# ---------------------------------------------------------------- Panoptic FPN


def stacked_fully(masks_NHW, semantic_HW, *, overlap, stuff_area):
    """Return ids, instances and stuff as detectron2 describes them, with whole masks."""
    ids = np.zeros(semantic_HW.shape, np.int32)
    instances, stuff = [], []
    for row, mask in enumerate(masks_NHW):
        if mask.sum() == 0 or (mask & (ids > 0)).sum() / mask.sum() > overlap:
            continue
        instances.append(row)
        ids[mask & (ids == 0)] = len(instances)
    for label in np.unique(semantic_HW):
        free = (semantic_HW == label) & (ids == 0)
        if label != 0 and free.sum() >= stuff_area:
            stuff.append(label)
            ids[free] = len(instances) + len(stuff)
    return ids, tuple(instances), tuple(stuff)


def test_stacked_segments_are_those_of_the_full_form():
    lengths = set()
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(0, 6))
        masks, crops = np.zeros((count, *SIZE), bool), []
        for mask in masks:
            top, left = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
            height, width = rng.integers(0, SIZE[0] - top + 1), rng.integers(0, SIZE[1] - left + 1)
            bits = rng.random((height, width)) < rng.choice([0.0, 0.5, 1.0], p=[0.1, 0.4, 0.5])
            mask[top : top + height, left : left + width] = bits
            crops.append(MaskCrop(int(top), int(left), bits))
        semantic = np.repeat(rng.integers(0, NUM_STUFF + 1, (SIZE[0], 5)), 6, axis=1)
        rule = {"overlap": 0.5, "stuff_area": int(rng.choice([0, 60, 200]))}
        ids, instances, stuff = stacked_fully(masks, semantic, **rule)
        found = stack_segments(crops, semantic.astype(np.int32), **rule)
        np.testing.assert_array_equal(found.ids, ids)
        assert (found.instances, found.stuff) == (instances, stuff)
        lengths.add((count - len(instances), len(stuff)))
    assert {dropped for dropped, _ in lengths} >= {0, 1, 2}
    assert {num_stuff for _, num_stuff in lengths} >= {0, 1, 2, 3}


def test_half_covered_is_not_too_much():
    below = MaskCrop(0, 0, np.ones((1, 4), bool))
    half = MaskCrop(0, 2, np.ones((1, 4), bool))
    more = MaskCrop(0, 1, np.ones((1, 4), bool))
    semantic = np.zeros((1, 8), np.int32)
    assert stack_segments([below, half], semantic).instances == (0, 1)
    assert stack_segments([below, more], semantic).instances == (0,)


@pytest.mark.parametrize(
    ("source", "resized", "network"),
    [
        ((50, 70), (40, 56), (64, 64)),
        ((20, 28), (40, 56), (40, 56)),
        ((64, 64), (64, 64), (64, 64)),
    ],
    ids=["shrunk and padded", "enlarged", "as it is"],
)
def test_labels_are_the_best_of_all_logits(source, resized, network):
    logits = np.random.default_rng(3).normal(0, 1, (5, network[0] // 4, network[1] // 4))
    logits = logits.astype(np.float32)
    geometry = Geometry.at_top_left(source=source, resized=resized, network=network)
    large = cv2.resize(logits.transpose(1, 2, 0), network[::-1])[: resized[0], : resized[1]]
    expected = cv2.resize(large, source[::-1]).argmax(axis=2)
    np.testing.assert_array_equal(labels_from_logits(logits, geometry), expected)


@pytest.mark.parametrize("seed", range(12))
def test_classes_that_are_not_enlarged_win_nowhere(seed):
    """Blobs of some classes, others close behind, others far: the full argmax over all of them is the same."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(2, 12, 2))
    winners = np.repeat(np.repeat(rng.integers(0, 4, (3, 3)), 4, axis=0), 4, axis=1)
    logits = rng.normal(0, rng.choice([0.01, 1]), (9, height, width)).astype(np.float32)
    logits += 5 * (np.arange(9)[:, None, None] == winners[None, :height, :width])
    logits[6:] -= rng.choice([0, 100])
    network = 4 * height, 4 * width
    resized = int(rng.integers(1, network[0] + 1)), int(rng.integers(1, network[1] + 1))
    source = int(rng.integers(1, 60)), int(rng.integers(1, 60))
    geometry = Geometry.at_top_left(source=source, resized=resized, network=network)
    inside = [cv2.resize(plane, network[::-1])[: resized[0], : resized[1]] for plane in logits]
    expected = np.stack([cv2.resize(plane, source[::-1]) for plane in inside]).argmax(axis=0)
    np.testing.assert_array_equal(labels_from_logits(logits, geometry), expected)


def test_equal_and_missing_logits_give_the_lowest_class():
    geometry = Geometry.at_top_left(source=(8, 8), resized=(8, 8), network=(8, 8))
    logits = np.ones((3, 2, 2), np.float32)
    assert (labels_from_logits(logits, geometry) == 0).all()
    logits[0] = np.nan
    assert (labels_from_logits(logits, geometry) == 1).all()
    assert (labels_from_logits(np.full_like(logits, np.nan), geometry) == 0).all()


# ---------------------------------------------------------------- UPSNet


def random_scene(seed):
    """Return logits of all classes, boxes, labels and mask logits; small whole numbers give many ties."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 7))
    low, high = [(-2, 3), (-3, 1), (0, 2)][seed % 3]
    logits = rng.integers(low, high, (NUM_STUFF + NUM_THINGS, *SIZE)).astype(np.float32)
    if seed % 2:
        logits += rng.normal(0, 0.3, logits.shape).astype(np.float32)
    first = rng.uniform(0, 0.8, (count, 2)) * (SIZE[1] - 1, SIZE[0] - 1)
    last = first + rng.uniform(0, 1, (count, 2)) * ((SIZE[1] - 1, SIZE[0] - 1) - first)
    boxes = np.concatenate([first, last], axis=1).astype(np.float32)
    if seed % 5 == 0:
        boxes = np.round(boxes * 2) / 2  # halves are rounded to even
    if count and seed % 7 == 0:
        boxes[0] = 0, 0, SIZE[1] - 1, SIZE[0] - 1
    labels = NUM_STUFF + rng.integers(0, NUM_THINGS, count)
    masks = rng.integers(-2, 3, (count, 4, 4)).astype(np.float32)
    if seed % 11 == 0:
        masks[:] = -1  # all of them are dropped
    return logits, boxes, labels.tolist(), masks


def removed_fully(masks, boxes, labels):
    """Return the kept candidates as UPSNet's sheet describes them, with whole maps for each class."""
    covered = np.zeros((NUM_STUFF + NUM_THINGS, *SIZE), bool)
    kept = []
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = (int(value) for value in box)
        size = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        whole = np.zeros((SIZE[0] + size[1], SIZE[1] + size[0]), bool)
        whole[y1 : y1 + size[1], x1 : x1 + size[0]] = cv2.resize(masks[number], size) > 0
        mask, own = whole[: SIZE[0], : SIZE[1]], covered[labels[number]]
        if mask.sum() == 0 or (mask & own).sum() / mask.sum() > 0.3:
            continue
        own |= mask
        kept.append(number)
    return tuple(kept)


def unified_fully(logits, boxes, labels, masks, *, has_unknown):
    """Return the argmax over an array with a channel for each stuff, instance and unknown."""
    semantic = np.zeros((max(len(boxes), 1), *SIZE), np.float32)
    instances = np.zeros_like(semantic)
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = (float(value) for value in box)
        place = slice(int(y1), int(round(y2) + 1)), slice(int(x1), int(round(x2) + 1))
        semantic[number][place] = logits[labels[number]][place]
        if masks is not None:
            left, top = int(x1), int(y1)
            size = max(int(x2) - left + 1, 1), max(int(y2) - top + 1, 1)
            instances[number][top : top + size[1], left : left + size[0]] = cv2.resize(
                masks[number], size
            )
    channels = [logits[:NUM_STUFF], semantic + instances]
    if has_unknown:
        channels.append((logits[NUM_STUFF:].max(axis=0) - semantic.max(axis=0))[None])
    return np.concatenate(channels).argmax(axis=0)


def contenders_of(logits, boxes, labels, masks):
    found = []
    for number, box in enumerate(boxes):
        window = semantic_window(box, SIZE)
        parts = {
            "semantic": window,
            "class_logits": lambda label=labels[number], window=window: logits[label][window],
        }
        if masks is not None:
            mask = masks[number]
            parts["mask"] = mask_window(box, SIZE)
            parts["mask_logits"] = lambda mask=mask, box=box: resized_mask(mask, box, SIZE)
        found.append(Contender(**parts))
    return found


def unified(logits, boxes, labels, masks, *, has_unknown):
    stuff = logits[:NUM_STUFF]
    return unify(
        stuff.max(axis=0),
        stuff.argmax(axis=0).astype(np.int32),
        contenders_of(logits, boxes, labels, masks),
        num_stuff=NUM_STUFF,
        thing_scores_HW=logits[NUM_STUFF:].max(axis=0) if has_unknown else None,
    )


@pytest.mark.parametrize("has_unknown", [True, False], ids=["UPSNet", "VPSNet"])
def test_every_pixel_goes_to_the_channel_of_the_full_form(has_unknown):
    num_dropped = num_empty = num_ties = 0
    for seed in SEEDS:
        logits, boxes, labels, masks = random_scene(seed)
        kept = remove_masks(masks, boxes, labels, SIZE)
        assert kept == removed_fully(masks, boxes, labels)
        chosen, given = list(kept), masks
        if len(boxes) and not kept:  # the best candidate stays, without its mask
            chosen, given = [0], None
            num_dropped += 1
        num_empty += not len(boxes)
        scene = (
            logits,
            boxes[chosen],
            [labels[number] for number in chosen],
            None if given is None else given[chosen],
        )
        expected = unified_fully(*scene, has_unknown=has_unknown)
        np.testing.assert_array_equal(unified(*scene, has_unknown=has_unknown), expected, str(seed))
        num_ties += len(np.unique(logits)) < 6
    assert min(num_dropped, num_empty, num_ties) > 5


def test_outside_of_its_windows_an_instance_beats_negative_stuff():
    """Without that rule the pixels beside the boxes are wrong."""
    logits = np.full((NUM_STUFF + NUM_THINGS, *SIZE), -1, np.float32)
    boxes = np.array([[2, 2, 9, 9], [12, 2, 20, 9]], np.float32)
    masks = np.full((2, 4, 4), 3, np.float32)
    found = unified(logits, boxes, [NUM_STUFF, NUM_STUFF + 1], masks, has_unknown=False)
    assert found[15, 25] == NUM_STUFF  # the first one wins where both are 0
    assert found[5, 5] == NUM_STUFF
    assert found[5, 15] == NUM_STUFF + 1
    far = unified(logits, boxes[:0], [], masks[:0], has_unknown=False)
    assert (far == NUM_STUFF).all()


def settled_fully(channels, semantic, labels, *, stuff_area):
    """Return (semantic class, instance number) of each pixel by the rule, segment by segment."""
    classes, instances = channels.copy(), np.full(channels.shape, -1)
    for channel in np.unique(channels):
        segment = channels == channel
        if channel < NUM_STUFF:
            continue
        if channel == NUM_STUFF + len(labels):
            classes[segment] = 255
            continue
        own = labels[channel - NUM_STUFF]
        found, counts = np.unique(semantic[segment], return_counts=True)
        most = found[counts.argmax()]
        if most != own and counts.max() / segment.sum() >= 0.5 and most < NUM_STUFF:
            classes[segment] = most
        else:
            classes[segment] = own
            instances[segment] = channel - NUM_STUFF
    for label in range(NUM_STUFF):
        if (classes == label).sum() < stuff_area:
            classes[classes == label] = 255
    return classes, instances


def test_segments_settle_as_in_the_full_form():
    num_turned = 0
    for seed in SEEDS:
        logits, boxes, labels, masks = random_scene(seed)
        if not len(boxes):
            continue
        channels = unified_fully(logits, boxes, labels, masks, has_unknown=True)
        coarse = np.random.default_rng(seed).integers(0, NUM_STUFF + NUM_THINGS, (2, 3))
        semantic = np.repeat(np.repeat(coarse, 11, axis=0), 10, axis=1)
        area = int(np.random.default_rng(seed).choice([0, 30, 150]))
        expected, instances = settled_fully(channels, semantic, labels, stuff_area=area)
        found = settle_segments(channels, semantic, labels, num_stuff=NUM_STUFF, stuff_area=area)
        table = np.array([255, *found.labels])
        np.testing.assert_array_equal(table[found.ids], expected)
        numbers = np.array([-1, *found.instances])
        np.testing.assert_array_equal(numbers[found.ids], instances)
        present = {number for number in np.unique(channels) if number >= NUM_STUFF}
        num_turned += len(present) > len(set(instances[instances >= 0]))
    assert num_turned > 20


def test_the_stand_in_for_no_instance_is_part_of_the_last_stuff():
    channels = np.full((4, 4), NUM_STUFF, np.int32)
    channels[0] = 1
    channels[1] = NUM_STUFF + 1  # unknown
    semantic = np.full((4, 4), NUM_STUFF)
    found = settle_segments(channels, semantic, [], num_stuff=NUM_STUFF, stuff_area=3)
    assert found.labels == (1, NUM_STUFF - 1)
    assert found.instances == (-1, -1)
    np.testing.assert_array_equal(found.ids[:, 0], [1, 0, 2, 2])
