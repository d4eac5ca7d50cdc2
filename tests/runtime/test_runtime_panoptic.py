"""Panoptic results: ids, rows, what they become, and how they are drawn."""

import json
import pickle

import cv2
import numpy as np
import pytest

from edgeseg_runtime.errors import ImageError
from edgeseg_runtime.results import Panoptic
from edgeseg_runtime.results.rle import mask_from_rle

NAMES = ("cat", "dog", "sky", "ground")
STUFF, CAT, DOG, OTHER_CAT = 2000, 11, 300_000, 5  # ids of segments


def scene(**changes):
    """Return sky above, and on void two cats that touch, one of them in two parts, and a dog."""
    ids = np.zeros((8, 12), np.int32)
    ids[:3] = STUFF
    ids[3:6, 2:4] = ids[3:6, 9] = CAT
    ids[3:6, 4:6] = OTHER_CAT
    ids[7, 11] = DOG
    arguments = {
        "ids": ids,
        "segment_ids": [DOG, STUFF, CAT, OTHER_CAT],
        "labels": [1, 2, 0, 0],
        "is_thing": [True, False, True, True],
        "scores": [0.3, 1.0, 0.9, 0.6],
        "label_names": NAMES,
        "category_ids": (17, 18, 187, 191),
    }
    return Panoptic(**{**arguments, **changes})


def random_scene(seed):
    """Return any number of segments with any ids, in any order, on a picture of any size."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    pool = np.array([0, 1, 2, 3, 255, 256, 65_535, 65_536, 70_000, 256**3 - 1])
    ids = np.repeat(rng.choice(pool, (height, width)), 3, axis=1).astype(np.int32)
    segment_ids = rng.permutation(np.unique(ids[ids != 0]))
    count = len(segment_ids)
    return Panoptic(
        ids,
        segment_ids,
        rng.integers(0, 4, count),
        rng.random(count) < 0.5,
        rng.random(count),
        track_ids=rng.integers(-1, 5, count),
    )


def test_areas_and_boxes_are_those_of_the_pixels():
    for seed in range(40):
        found = random_scene(seed)
        for row, segment_id in enumerate(found.segment_ids):
            y, x = np.nonzero(found.ids == segment_id)
            assert found.areas[row] == len(y)
            box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert found.boxes[row].tolist() == box


def test_segments_tell_what_each_is():
    dog, sky, cat, other = scene(track_ids=[4, -1, 8, 9]).segments
    assert (dog.id, dog.name, dog.area, dog.box) == (DOG, "dog", 1, (11.0, 7.0, 12.0, 8.0))
    assert (sky.is_thing, sky.track_id, sky.area) == (False, None, 36)
    assert (cat.label, cat.is_thing, cat.track_id) == (0, True, 8)
    assert cat.score == pytest.approx(0.9)
    assert cat.box == (2.0, 3.0, 10.0, 6.0)
    assert other.area == 6
    assert repr(scene()) == "Panoptic(3 things; 1 stuff; image 8x12)"


@pytest.mark.parametrize("size", [(5, 7), (0, 7), (5, 0)])
def test_a_void_picture_has_no_segments(size):
    found = Panoptic.empty(size, label_names=NAMES)
    assert (len(found), found.num_detections, found.segments) == (0, 0, ())
    assert found.image_size == size
    assert found.records(1) == []
    assert len(found.to_instances()) == 0
    assert found.filter(score=0.5) is found
    if 0 not in size:
        image = np.full((*size, 3), 90, np.uint8)
        np.testing.assert_array_equal(found.draw(image), image)
        assert found.to_coco_panoptic(3, "3.png").annotation["segments_info"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.zeros((2, 3, 4), np.int32)}, r"ids has shape \(2, 3, 4\); expected \(H, W\)"),
        ({"ids": np.zeros((2, 3))}, "ids is float64; expected integers"),
        ({"ids": np.full((2, 3), 2**31)}, "ids has numbers beyond those of int32"),
        ({"scores": [1.0]}, r"scores has shape \(1,\); expected \(S,\)"),
        ({"track_ids": [1]}, r"track_ids has shape \(1,\)"),
        ({"segment_ids": [[DOG, STUFF, CAT, OTHER_CAT]]}, r"segment_ids has shape \(1, 4\)"),
        ({"segment_ids": [DOG, STUFF, CAT, 256**3]}, "segment id 16777216 found; expected 1 to"),
        ({"segment_ids": [DOG, STUFF, CAT, 0]}, "segment id 0 found"),
        ({"segment_ids": [DOG, STUFF, CAT, CAT]}, "segment_ids has an id twice"),
        ({"segment_ids": [DOG, STUFF, CAT, 6]}, "ids has pixels of 5, which is not one of segment"),
        ({"ids": np.full((8, 12), CAT)}, f"segment {DOG} has no pixel in ids"),
        ({"ids": np.full((8, 12), -1)}, "ids has pixels of -1"),
        ({"semantic": np.zeros((8, 11), np.int32)}, r"semantic has shape \(8, 11\)"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        scene(**changes)


def test_what_is_filtered_out_becomes_void():
    found = scene(track_ids=[4, -1, 8, 9]).filter(score=0.5)
    assert found.segment_ids.tolist() == [STUFF, CAT, OTHER_CAT]
    assert found.track_ids.tolist() == [-1, 8, 9]
    assert found.ids[7, 11] == 0
    np.testing.assert_array_equal(found.ids[:7], scene().ids[:7])
    assert scene().filter(labels=["sky", 1]).labels.tolist() == [1, 2]
    assert scene().filter(score=2).ids.max() == 0
    with pytest.raises(ValueError, match="there is no label 'cow'"):
        scene().filter(labels=["cow"])


def test_filtering_keeps_every_other_pixel():
    for seed in range(30):
        found = random_scene(seed)
        kept = found.filter(score=0.5)
        is_kept = np.isin(found.ids, found.segment_ids[found.scores >= 0.5])
        np.testing.assert_array_equal(kept.ids, np.where(is_kept, found.ids, 0))
        assert kept.areas.sum() == is_kept.sum()


def test_records_hold_the_whole_map():
    for seed in range(20):
        found = random_scene(seed)
        ids = np.zeros(found.image_size, np.int32)
        for record in json.loads(json.dumps(found.records(6), allow_nan=False)):
            rle = record["segmentation"]
            mask = mask_from_rle(rle["counts"], tuple(rle["size"]))
            assert mask.sum() == record["area"]
            ids[mask] = record["segment_id"]
        np.testing.assert_array_equal(ids, found.ids)


def test_records_name_category_kind_and_track():
    dog, sky, *_ = scene(track_ids=[4, -1, 8, 9]).records(6)
    keys = ("image_id", "category_id", "isthing", "track_id")
    assert [dog[key] for key in keys] == [6, 18, 1, 4]
    assert (sky["category_id"], sky["isthing"], sky["bbox"]) == (187, 0, [0.0, 0.0, 12.0, 3.0])
    assert "track_id" not in sky
    assert "track_id" not in scene().records(6)[0]


def test_a_coco_png_holds_the_ids_and_its_annotation_the_segments():
    for found in (scene(), *map(random_scene, range(20))):
        png, annotation = found.to_coco_panoptic(139, "000139.png")
        blue, green, red = np.moveaxis(
            cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).astype(np.int32), 2, 0
        )
        np.testing.assert_array_equal(red + 256 * green + 256**2 * blue, found.ids)
        assert (annotation["image_id"], annotation["file_name"]) == (139, "000139.png")
        segments = json.loads(json.dumps(annotation))["segments_info"]
        assert [s["id"] for s in segments] == found.segment_ids.tolist()
        assert [s["area"] for s in segments] == found.areas.tolist()
        assert all(s["iscrowd"] == 0 for s in segments)
    assert scene().to_coco_panoptic(1, "1.png").annotation["segments_info"][0] == {
        "id": DOG,
        "category_id": 18,
        "iscrowd": 0,
        "bbox": [11, 7, 1, 1],
        "area": 1,
        "score": pytest.approx(0.3),
    }


def test_things_become_instances_with_their_masks():
    found = scene(track_ids=[4, -1, 8, 9], backend="onnxruntime").to_instances()
    assert found.labels.tolist() == [1, 0, 0]
    assert found.track_ids.tolist() == [4, 8, 9]
    assert found.image_size == (8, 12)
    assert found.backend == "onnxruntime"
    for mask, segment_id in zip(found.masks, (DOG, CAT, OTHER_CAT), strict=True):
        np.testing.assert_array_equal(mask, scene().ids == segment_id)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.masks, found.masks)


def test_supervision_gets_the_things():
    pytest.importorskip("supervision")
    found = scene().to_supervision()
    assert found.class_id.tolist() == [1, 0, 0]
    assert found.mask.sum() == scene().areas[[0, 2, 3]].sum()


def drawn(found, pixel):
    """Return the colour at a pixel of a black picture in which segments are drawn."""
    picture = found.draw(np.zeros((*found.image_size, 3), np.uint8))
    return tuple(picture[pixel].tolist())


def blocks(**changes):
    """Return two things and stuff, large enough for their names not to cover everything."""
    ids = np.zeros((200, 400), np.int32)
    ids[:, :100], ids[:, 100:200], ids[:, 200:300] = 1, 2, 3
    rows = {"labels": [0, 0, 2], "is_thing": [True, True, False], "scores": [0.9, 0.8, 1.0]}
    return Panoptic(ids, [1, 2, 3], **{**rows, "label_names": NAMES, **changes})


INSIDE = {
    name: (150, x) for name, x in {"first": 50, "second": 150, "sky": 250, "void": 350}.items()
}


def test_things_have_a_colour_each_and_void_stays():
    colours = [drawn(blocks(), INSIDE[name]) for name in INSIDE]
    assert len(set(colours)) == 4
    assert colours[3] == (0, 0, 0)


def test_a_track_keeps_its_colour_whatever_its_id_and_stuff_that_of_its_class():
    before, after = blocks(track_ids=[4, 8, -1]), blocks(track_ids=[8, 4, -1])
    assert drawn(before, INSIDE["first"]) == drawn(after, INSIDE["second"])
    assert drawn(before, INSIDE["first"]) != drawn(after, INSIDE["first"])
    assert drawn(before, INSIDE["sky"]) == drawn(blocks(), INSIDE["sky"])


def test_segments_are_outlined_and_named():
    image = np.zeros((200, 400, 3), np.uint8)
    found = blocks().draw(image)
    assert (found[150, 100] == 255).all()
    assert (found[150, 101] != 255).any()
    plain = blocks(label_names=("", "", "")).draw(image)
    for columns in (slice(0, 100), slice(100, 200), slice(200, 300)):  # each has its own name
        assert (found[:, columns] != plain[:, columns]).any()
    with pytest.raises(ImageError):
        blocks().draw(np.zeros((200, 400)))
    with pytest.raises(ValueError, match="the picture is 100x400, the result belongs"):
        blocks().draw(image[:100])
