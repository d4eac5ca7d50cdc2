"""Results as dicts, JSON, files and polygons, and the options of drawing: the same for every class."""

import json
import logging

import cv2
import numpy as np
import pytest

from edgeseg_runtime.results import Instances, Landmarks, Panoptic
from edgeseg_runtime.results.draw import colour_from_number, muted_colour_from_number
from edgeseg_runtime.results.paste import MaskCrop
from edgeseg_runtime.results.polygons import polygons_from_crop
from edgeseg_runtime.results.rle import mask_from_rle
from edgeseg_runtime.results.surfaces import SurfaceMaps, SurfaceSet

SIZE = (40, 60)
NAMES = ("", "cat", "dog")


def instances(**changes):
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 5:20, 10:30] = True
    masks[0, 8:10, 12:15] = False
    masks[1, 25:30, 5:25] = True
    arguments = {
        "masks": masks,
        "keypoints": [[[12, 6, 0.9], [28, 18, 0.2]], [[6, 26, 0.8], [20, 28, 0]]],
        "track_ids": [4, 9],
        "label_names": NAMES,
        "keypoint_names": ("nose", "tail"),
        "skeleton": ((0, 1),),
        "backend": "onnxruntime",
    }
    boxes = [[10, 5, 30, 20], [5, 25, 25, 30]]
    return Instances(boxes, [0.9, 0.5], [1, 2], **{**arguments, **changes})


def landmarks(**changes):
    points = {"points": [[5, 5], [20, 30]], "scores": [0.9, 0.2], "skeleton": ((0, 1),)}
    return Landmarks(**{**points, "image_size": SIZE, **changes})


def segments(**changes):
    ids = np.zeros(SIZE, np.int32)
    ids[:20], ids[25:35, 10:50] = 7, 3
    rows = {"segment_ids": [7, 3], "labels": [2, 1], "is_thing": [False, True], "scores": [1, 0.8]}
    return Panoptic(ids, **{**rows, "label_names": NAMES, **changes})


RESULTS = {
    "instances": instances,
    "none": lambda: instances()[:0],
    "landmarks": landmarks,
    "segments": segments,
    "void": lambda: Panoptic.empty(SIZE),
}


@pytest.fixture(params=RESULTS)
def result(request):
    return RESULTS[request.param]()


# ---------------------------------------------------------------- dicts and JSON


@pytest.mark.parametrize("masks", ["rle", "polygons", "none"])
def test_every_result_is_a_dict_of_plain_values(result, masks):
    found = result.to_dict(masks=masks)
    assert json.loads(result.to_json(masks=masks)) == found
    assert (found["height"], found["width"]) == SIZE
    assert len(found["detections"]) == result.num_detections
    for entry in found["detections"]:
        assert {"label", "name", "box", "score"} <= set(entry)
        assert not {"image_id", "bbox"} & set(entry)
        has_masks = not isinstance(result, Landmarks)
        assert ("polygons" in entry) == (has_masks and masks == "polygons")
        assert ("segmentation" in entry) == (has_masks and masks == "rle")


def test_a_dict_has_everything_that_was_found():
    found = instances(extra={"fill": [0.25, 0.5]}).to_dict()
    assert (found["backend"], found["keypoint_names"]) == ("onnxruntime", ["nose", "tail"])
    entry = found["detections"][1]
    mask = mask_from_rle(entry["segmentation"]["counts"], entry["segmentation"]["size"])
    np.testing.assert_array_equal(mask, instances().masks[1])
    np.testing.assert_allclose(entry["keypoints"], instances().keypoints[1])
    kept = {name: entry[name] for name in ("label", "name", "box", "track_id", "fill")}
    assert kept == {"label": 2, "name": "dog", "box": [5, 25, 25, 30], "track_id": 9, "fill": 0.5}


def test_instances_apart_from_the_segments_are_in_the_dict_too():
    found = segments(instances=instances()).to_dict(masks="none")
    assert [entry["name"] for entry in found["detections"]] == ["dog", "cat"]
    assert [entry["name"] for entry in found["instances"]] == ["cat", "dog"]


def test_polygons_of_surfaces_are_those_of_the_persons():
    boxes, maps = np.float32([[10, 10, 40, 30]]), np.zeros((1, 2, 4, 4), np.float32)
    maps[:, 1] = 1  # a person everywhere
    surfaces = SurfaceSet(SurfaceMaps(boxes, coarse=maps, fine=maps, u=maps, v=maps), [0, -1])
    found = Instances([*boxes, *boxes], [0.9, 0.8], [0, 0], surfaces=surfaces, image_size=SIZE)
    first, second = found.to_dict(masks="polygons")["detections"]
    assert sorted(first["polygons"][0][0]) == [[10, 10], [10, 30], [40, 10], [40, 30]]
    assert (second["polygons"], "densepose" in second) == ([], False)


def test_json_has_null_for_numbers_that_it_lacks():
    found = json.loads(instances(extra={"heat": [np.nan, np.inf]}).to_json())
    assert [entry["heat"] for entry in found["detections"]] == [None, None]


def test_an_unknown_form_of_masks_is_refused(result):
    with pytest.raises(ValueError, match="masks is 'bits'; expected one of rle, polygons, none"):
        result.to_dict(masks="bits")


# ---------------------------------------------------------------- files


def test_every_result_is_saved_as_json_or_as_a_picture(result, tmp_path):
    file = result.save(tmp_path / "found.json")
    assert json.loads(file.read_text("utf-8")) == result.to_dict()
    image = np.full((*SIZE, 3), 90, np.uint8)
    picture = result.save(tmp_path / "found.png", image, scores=False)
    np.testing.assert_array_equal(cv2.imread(str(picture)), result.draw(image, scores=False))
    assert result.save(picture, image) == picture, "over what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"found.json", "found.png"}


@pytest.mark.parametrize(
    ("name", "has_image", "message"),
    [
        ("found.png", False, r"'found.png' without a picture; expected NAME.json, or the source"),
        ("found.json", True, "found.json is JSON, and a picture or options of drawing are given"),
        ("found.doc", True, "OpenCV writes no picture called 'found.doc'; expected a name such as"),
        ("found", True, "OpenCV writes no picture called 'found'; expected a name such as"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, name, has_image, message):
    image = np.zeros((*SIZE, 3), np.uint8) if has_image else None
    with pytest.raises(ValueError, match=message):
        instances().save(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_survives_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "found.json").mkdir()
    with pytest.raises(OSError, match=r"found\.json"):
        instances().save(tmp_path / "found.json")
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


# ---------------------------------------------------------------- polygons


def area(ring):
    x, y = ring.astype(np.float64).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(10))
def test_polygons_have_the_area_of_the_mask_and_make_it_again(seed, density):
    """What a ring encloses is what lies inside of it an odd number of times, pixel centre by pixel centre."""
    bits = np.random.default_rng(seed).random((13, 17)) < density
    polygons = polygons_from_crop(MaskCrop(3, 5, bits))
    total = sum(area(p.outline) - sum(map(area, p.holes)) for p in polygons)
    assert total == bits.sum()
    found = np.zeros((20, 25), bool)
    rows, columns = np.mgrid[0:20, 0:25] + 0.5
    for ring in (ring for polygon in polygons for ring in polygon.rings):
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (x1 == x2) != (y1 == y2), "along the edges of pixels"
            found ^= (x1 == x2) & (columns > x1) & (rows > min(y1, y2)) & (rows < max(y1, y2))
    np.testing.assert_array_equal(found[3:16, 5:22], bits)
    assert found.sum() == bits.sum()


def test_polygons_are_those_of_each_instance():
    (first, second), none = instances().polygons, Instances.empty().polygons
    assert [len(polygon.holes) for polygon in first] == [1]
    np.testing.assert_array_equal(
        sorted(second[0].outline.tolist()), [[5, 25], [5, 30], [25, 25], [25, 30]]
    )
    assert none == []
    assert polygons_from_crop(MaskCrop(0, 0, np.zeros((0, 0), bool))) == []
    assert [area(polygons[0].outline) for polygons in segments().polygons] == [20 * 60, 10 * 40]


# ---------------------------------------------------------------- drawing


BLACK = np.zeros((200, 300, 3), np.uint8)


def drawn(found=None, **options):
    return (found or large()).draw(BLACK, **options)


def large(**changes):
    boxes = [[40, 60, 140, 160], [160, 60, 260, 160]]
    return Instances(boxes, [0.9, 0.8], [1, 1], label_names=NAMES, image_size=(200, 300), **changes)


def has(picture, colour):
    return bool((picture == np.uint8(colour)).all(axis=-1).any())


def test_names_and_scores_can_be_left_out():
    both, name, score, none = (
        drawn(**options)
        for options in (
            {},
            {"scores": False},
            {"labels": False},
            {"scores": False, "labels": False},
        )
    )
    widths = [
        int(picture[:58, :150].any(axis=(0, 2)).sum()) for picture in (both, name, score, none)
    ]
    assert widths[0] > max(widths[1:3]) >= min(widths[1:3]) > widths[3] == 0
    captions = segments().draw(np.zeros((*SIZE, 3), np.uint8), labels=False, scores=False)
    assert (captions != segments().draw(np.zeros((*SIZE, 3), np.uint8))).any()


@pytest.mark.parametrize(
    ("colours", "tracks", "expected"),
    [
        (None, None, (1, 1)),
        ("class", None, (1, 1)),
        ("instance", None, (0, 1)),
        (None, [5, 6], (5, 6)),
        ("class", [5, 6], (1, 1)),
        ("instance", [5, 6], (5, 6)),
    ],
)
def test_colours_stand_for_classes_or_instances(colours, tracks, expected):
    picture = drawn(large(track_ids=tracks), colours=colours)
    for x, number in zip((40, 160), expected, strict=True):
        assert (picture[140, x] == colour_from_number(number)).all()


def test_colours_of_things_can_be_those_of_their_class():
    image = np.zeros((*SIZE, 3), np.uint8)
    by_class, own = (
        segments().draw(image, colours=colours, labels=False, scores=False)
        for colours in ("class", None)
    )
    np.testing.assert_allclose(by_class[30, 30], 0.45 * np.array(colour_from_number(1)), atol=1)
    np.testing.assert_allclose(own[30, 30], 0.45 * np.array(colour_from_number(3)), atol=1)
    stuff = 0.45 * np.array(muted_colour_from_number(2))
    np.testing.assert_allclose([by_class[10, 30], own[10, 30]], [stuff, stuff], atol=1)


@pytest.mark.parametrize(("least", "is_there"), [(None, True), (0.2, True), (0.5, False)])
def test_points_are_drawn_from_a_score_on_with_their_bones(least, is_there):
    image = np.zeros((*SIZE, 3), np.uint8)
    found = landmarks(scores=np.float32([0.9, 0.25])).draw(image, keypoint_score=least)
    assert found[5, 5].any()
    assert bool(found[30, 20].any()) == bool(found[17:19, 11:14].any()) == is_there
    points = [[[5, 5, 0.9], [20, 30, 0.25]]]
    same = Instances([[50, 35, 55, 38]], [1], [1], keypoints=points, skeleton=((0, 1),))
    assert bool(same.draw(image, keypoint_score=least)[30, 20].any()) == is_there


def test_lines_are_as_wide_as_the_picture_asks_for_unless_they_are_chosen():
    def width(size, **options):
        found = Instances([[50, 50, 150, 150]], [0.9], [1])
        picture = found.draw(np.zeros((*size, 3), np.uint8), labels=False, scores=False, **options)
        return int(picture[100, :100].any(axis=-1).sum())

    assert width((200, 300)) < width((2000, 3000))
    assert width((200, 300), line_width=9) > width((2000, 3000), line_width=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": "red"}, "colours is 'red'; expected one of class, instance, or None"),
        ({"keypoint_score": float("nan")}, "keypoint_score is NaN; expected a number"),
        ({"line_width": 0}, "line_width is 0; expected 1 to 100 pixels"),
        ({"surfaces": "dots"}, "surfaces is 'dots'; expected one of parts, u, v, contours, iuv"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(result, options, message):
    with pytest.raises(ValueError, match=message):
        result.draw(np.zeros((*SIZE, 3), np.uint8), **options)


# ---------------------------------------------------------------- supervision


def test_supervision_takes_key_points_with_their_scores():
    pytest.importorskip("supervision")
    points = instances().to_supervision(points=True)
    np.testing.assert_allclose(points.xy[0], [[12, 6], [28, 18]])
    np.testing.assert_allclose(points.keypoint_confidence[1], [0.8, 0])
    np.testing.assert_allclose(points.detection_confidence, [0.9, 0.5])
    assert points.data["class_name"].tolist() == ["cat", "dog"]
    assert len(instances()[:0].to_supervision(points=True)) == 0


def test_supervision_takes_landmarks_without_scores():
    pytest.importorskip("supervision")
    found = instances(keypoints=None, landmarks=np.ones((2, 5, 2)))
    points = found.to_supervision(points=True)
    assert (points.xy.shape, points.keypoint_confidence) == ((2, 5, 2), None)
    with pytest.raises(ValueError, match="neither key points nor landmarks; expected the result"):
        instances(keypoints=None).to_supervision(points=True)


# ---------------------------------------------------------------- logging


def test_the_library_logs_below_one_name_and_sets_no_handler():
    logger = logging.getLogger("edgeseg_runtime")
    assert (logger.handlers, logger.propagate, logger.level) == ([], True, logging.NOTSET)
