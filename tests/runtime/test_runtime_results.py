"""Results: the contract that all fulfil, shapes, selection, laziness, conversions and drawing."""

import copy
import inspect
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from edgeseg_runtime.errors import ImageError
from edgeseg_runtime.results import Instances, Landmarks, Panoptic, Result
from edgeseg_runtime.results.draw import colour_from_number
from edgeseg_runtime.results.masks import MaskSet
from edgeseg_runtime.results.paste import MaskCrop
from edgeseg_runtime.results.rle import mask_from_rle, rle_from_crop, rle_from_mask
from edgeseg_runtime.results.rows import ROW_FIELDS

NAMES = ("__background__", "cat", "", "dog")


class CountingPaste:
    """A block of 2 x 3 pixels at row i, column i; counts how often it is asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, index):
        self.calls.append(index)
        return MaskCrop(index, index, np.ones((2, 3), np.bool_))


def instances(count=3, paste=None, **changes):
    arguments = {
        "boxes": np.array([[i, i, i + 3, i + 2] for i in range(count)]).reshape(count, 4),
        "scores": np.linspace(0.9, 0.1, count),
        "labels": np.array([1, 3, 2] * count, np.int32)[:count],
        "masks": MaskSet(paste or CountingPaste(), count=count, size=(20, 30)),
        "keypoints": np.ones((count, 5, 3)),
        "track_ids": np.arange(count) + 7,
        "label_names": NAMES,
        "category_ids": (0, 17, 0, 18),
    }
    return Instances(**{**arguments, **changes})


def instances_with_everything():
    """Return Instances that have every array, and further ones."""
    shapes = {
        field.name: (3, *(2 if isinstance(axis, str) else axis for axis in field.axes))
        for field in ROW_FIELDS
    }
    rows = {f.name: np.full(shapes[f.name], 2, f.dtype) for f in ROW_FIELDS}
    extra = {"embedding": np.eye(3, 8, dtype=np.float16), "is_wet": np.array([True, False, True])}
    return instances(**{**rows, "scores": np.linspace(0.9, 0.1, 3)}, extra=extra)


RESULTS = {
    "instances": instances_with_everything,
    "no instances": lambda: instances_with_everything()[:0],
    "landmarks": lambda: Landmarks(np.ones((2, 2)), np.ones(2), np.ones(4), image_size=(20, 30)),
    "segments": lambda: Panoptic(
        np.repeat([[0, 7, 7, 3, 9]], 20, axis=0).repeat(6, axis=1),
        [7, 3, 9],
        [1, 3, 2],
        [True, True, False],
        [0.9, 0.4, 1.0],
        track_ids=[5, 6, -1],
        semantic=np.ones((20, 30), np.int32),
    ),
    "void": lambda: Panoptic.empty((20, 30)),
}


@pytest.fixture(params=RESULTS)
def result(request) -> Result:
    return RESULTS[request.param]()


# ---------------------------------------------------------------- all results


def test_a_result_can_do_what_recording_and_benchmarks_ask_of_it(result):
    image = np.zeros((20, 30, 3), np.uint8)
    assert isinstance(result.num_nonfinite, int)
    assert result.with_backend("other").backend == "other"
    assert len(result.filter()) == len(result)
    result.materialize()
    records = json.loads(json.dumps(result.records(7), allow_nan=False))
    assert len(records) == result.num_detections
    assert all(record["image_id"] == 7 for record in records)
    assert result.draw(image).shape == image.shape


@pytest.mark.parametrize("score", [None, 0.0, 2.0])
def test_landmarks_are_those_of_their_object_whatever_the_score(score):
    found = RESULTS["landmarks"]()
    assert found.filter(score=score) is found
    assert (len(found), found.num_detections) == (2, 1)


@pytest.mark.parametrize("is_materialized", [False, True])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_result_is_equal_and_read_only(result, duplicate, is_materialized):
    if is_materialized:
        result.materialize()
    found = duplicate(result)
    assert type(found) is type(result)
    assert repr(found) == repr(result)
    assert found.records(1) == result.records(1)
    arrays = {**vars(found), **getattr(found, "extra", {}), "masks": getattr(found, "masks", None)}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray):
            assert not array.flags.writeable, name
    for crop in getattr(found, "mask_crops", ()):
        assert not crop.bits.flags.writeable


def test_a_copy_carries_no_pasted_masks():
    found = instances(masks=np.ones((3, 500, 600), bool), image_size=(500, 600))
    assert len(pickle.dumps(found)) < 1.1 * found.masks.nbytes
    lazy = instances(masks=MaskSet(CountingPaste(), count=3, size=(500, 600)))
    lazy.materialize()
    assert len(pickle.dumps(lazy)) < 10_000


def test_every_row_field_is_an_argument_and_an_attribute_of_instances():
    names = [field.name for field in ROW_FIELDS]
    arguments = list(inspect.signature(Instances).parameters)
    assert [name for name in arguments if name in names] == names
    assert [name for name in inspect.get_annotations(Instances) if name in names] == names
    assert all(not field.columns or field.axes[-1] == len(field.columns) for field in ROW_FIELDS)


# ---------------------------------------------------------------- shapes


def test_nothing_found_has_shaped_arrays():
    for empty in (instances(0), instances(3).filter(score=2.0), instances(3)[[]]):
        assert len(empty) == 0
        assert empty.boxes.shape == (0, 4)
        assert empty.scores.shape == empty.labels.shape == empty.track_ids.shape == (0,)
        assert empty.masks.shape == (0, 20, 30)
        assert empty.masks.dtype == np.bool_
        assert empty.keypoints.shape == (0, 5, 3)
        assert list(empty) == list(empty.mask_crops) == empty.to_coco(1) == []
        assert repr(empty) == "Instances(0; image 20x30; with masks, keypoints, track_ids)"


def test_empty_needs_no_arrays():
    empty = Instances.empty(image_size=(4, 5))
    assert (len(empty), empty.masks, empty.keypoints) == (0, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 4))}, r"boxes has shape \(2, 4\); expected \(N, 4\)"),
        ({"boxes": np.zeros((3, 5))}, r"boxes has shape \(3, 5\)"),
        ({"scores": np.zeros((3, 1))}, r"scores has shape \(3, 1\); expected \(N,\)"),
        ({"labels": np.zeros(2, int)}, r"labels has shape \(2,\)"),
        ({"labels": np.zeros(3)}, "labels is float64; expected integers"),
        ({"track_ids": np.zeros(2, int)}, r"track_ids has shape \(2,\)"),
        (
            {"keypoints": np.zeros((3, 5, 2))},
            r"keypoints has shape \(3, 5, 2\); expected \(N, J, 3\)",
        ),
        ({"masks": np.zeros((3, 20, 30))}, r"masks is float64 .*; expected bool \(N, H, W\)"),
        ({"masks": np.zeros((2, 20, 30), bool)}, r"masks are 2 of \(20, 30\); expected 3"),
        ({"image_size": (1, 2)}, r"masks are 3 of \(20, 30\); expected 3 of \(1, 2\)"),
        (
            {"extra": {"area": np.zeros(2)}},
            r"the extra array 'area' has shape \(2,\); expected \(3, \.\.\.\)",
        ),
        ({"extra": {"area": 1.0}}, r"'area' has shape \(\); expected \(3, \.\.\.\)"),
        ({"extra": {"bbox": np.zeros(3)}}, "extra has an array 'bbox'; expected another name"),
        ({"extra": {"masks": np.zeros(3)}}, "extra has an array 'masks'"),
        ({"extra": {"file_name": np.zeros(3)}}, "extra has an array 'file_name'"),
        ({"extra": {"note": [None] * 3}}, "'note' is object; expected numbers, bools or text"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        instances(**changes)


def test_instances_are_read_only():
    with pytest.raises(AttributeError, match=r"Instances are read-only.*'boxes'"):
        instances().boxes = 1


@pytest.mark.parametrize("name", ["boxes", "scores", "labels", "keypoints", "track_ids", "masks"])
def test_no_array_of_instances_can_be_written_into(name):
    for found in (instances(), instances()[:2], instances().replace(scores=np.ones(3))):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 1


@pytest.mark.parametrize("name", ["points", "scores", "box"])
def test_no_array_of_landmarks_can_be_written_into(name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(Landmarks(np.ones((2, 2)), np.ones(2), np.ones(4)), name)[0] = 5


def test_the_callers_own_arrays_stay_writeable():
    boxes, points = np.zeros((3, 4), np.float32), np.zeros((2, 2), np.float32)
    instances(boxes=boxes)
    Landmarks(points, np.zeros(2))
    boxes[0] = points[0] = 1
    assert boxes.sum() == 4
    assert points.sum() == 2


# ---------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        ([], []),
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(1, 1), []),
        (np.array([True, False, True]), [0, 2]),
        ([2, 0, 0], [2, 0, 0]),
    ],
)
def test_a_selection_keeps_all_arrays_aligned(index, rows):
    paste = CountingPaste()
    selected = instances(paste=paste)[index]
    assert paste.calls == []
    whole = instances()
    assert selected.track_ids.tolist() == [7 + row for row in rows]
    for name in ("boxes", "scores", "labels", "keypoints", "masks"):
        np.testing.assert_array_equal(getattr(selected, name), getattr(whole, name)[rows])


@pytest.mark.parametrize("index", [3, -4, [0, 5], np.array([True, False]), 1.5, "x", [[0]]])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(IndexError):
        instances()[index]


def test_iteration_gives_single_rows():
    assert [row.track_ids.tolist() for row in instances()] == [[7], [8], [9]]
    assert all(len(row) == 1 and row.label_names == NAMES for row in instances())


def test_a_class_beyond_the_names_goes_by_its_number():
    found = instances(labels=np.array([1, 9, 2], np.int32))
    assert [found.label_name(row) for row in range(3)] == ["cat", "9", "2"]
    assert len(found.filter(labels=[9])) == 1
    assert found.draw(np.zeros((20, 30, 3), np.uint8)).any()
    assert len(found.records(1)) == 3


def test_filter_by_score_and_label():
    found = instances()
    assert found.filter(score=0.5).track_ids.tolist() == [7, 8]
    assert found.filter(labels=["dog", 2]).track_ids.tolist() == [8, 9]
    assert found.filter(score=0.5, labels=["cat"]).track_ids.tolist() == [7]
    assert len(found.filter(labels=[])) == 0
    with pytest.raises(ValueError, match="there is no label 'cow'"):
        found.filter(labels=["cow"])


# ---------------------------------------------------------------- masks


def test_masks_are_pasted_once_and_shared_with_selections():
    paste = CountingPaste()
    found = instances(paste=paste)
    best = found[:2]
    assert [crop.top for crop in best.mask_crops] == [0, 1]
    assert paste.calls == [0, 1]
    assert found.masks is found.masks
    assert best[1].masks.sum() == 6
    assert sorted(paste.calls) == [0, 1, 2]
    assert found.masks[2, 2:4, 2:5].all()
    assert found.masks.sum() == 18


def test_many_threads_paste_every_mask_once():
    paste = CountingPaste()
    found = instances(count=10, paste=paste)
    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda _: found.masks, range(32)))
    assert all(array is arrays[0] for array in arrays)
    assert sorted(paste.calls) == list(range(10))


def test_ready_masks_are_taken_as_they_are():
    masks = np.random.default_rng(0).random((3, 6, 7)) < 0.5
    found = instances(masks=masks)
    assert np.shares_memory(found.masks, masks)
    assert found.masks is found.masks
    assert found.image_size == (6, 7)
    np.testing.assert_array_equal(found[[2, 0]].masks, masks[[2, 0]])


# ---------------------------------------------------------------- further arrays


def test_further_arrays_follow_their_rows():
    found = instances(extra={"plate": ["A 1", "B 2", "C 3"], "area": np.int16([[1], [2], [3]])})
    for selected in (found[[2, 0]], found.filter(labels=["cat", 2])[::-1]):
        assert selected.extra["plate"].tolist() == ["C 3", "A 1"]
        assert selected.extra["area"].tolist() == [[3], [1]]
        assert selected.extra["area"].dtype == np.int16
    assert repr(found).endswith("with masks, keypoints, track_ids, plate, area)")
    record = json.loads(json.dumps(found.records(1)))[1]
    assert (record["plate"], record["area"], record["track_id"]) == ("B 2", [2], 8)
    assert found.replace(extra={}).extra == {}
    assert list(found.replace(scores=np.ones(3)).extra) == ["plate", "area"]
    assert found[:0].extra["area"].shape == (0, 1)
    with pytest.raises(TypeError, match="does not support item assignment"):
        found.extra["area"] = np.zeros(3)
    with pytest.raises(ValueError, match="read-only"):
        found.extra["area"][0] = 9


# ---------------------------------------------------------------- COCO


def coco_text(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize(
    "mask",
    [np.zeros((1, 1)), np.ones((1, 1)), np.zeros((3, 5)), np.ones((3, 5)), np.eye(4)],
    ids=["0", "1", "nothing", "everything", "diagonal"],
)
def test_the_encoding_of_a_special_mask(mask):
    assert rle_from_mask(mask.astype(bool)) == coco_text(mask)
    np.testing.assert_array_equal(mask_from_rle(coco_text(mask), mask.shape), mask)


@pytest.mark.parametrize("seed", range(40))
def test_the_encoding_is_that_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 50, 2)) < rng.choice([0.02, 0.5, 0.9])
    if seed % 2:
        mask = np.kron(mask, np.ones((17, 5), bool))  # long runs
    height, width = mask.shape
    text = coco_text(mask)
    assert rle_from_mask(mask) == text
    np.testing.assert_array_equal(mask_from_rle(text, (height, width)), mask)
    top, left = rng.integers(0, height), rng.integers(0, width)
    crop = MaskCrop(top, left, mask[top:, left:])
    only_crop = np.zeros_like(mask)
    only_crop[top:, left:] = crop.bits
    assert rle_from_crop(crop, (height, width)) == coco_text(only_crop)


@pytest.mark.parametrize("text", ["", "5", "\xff", "o", "P" * 30, "11", " ", "0a"])
def test_a_text_that_is_no_encoding_is_refused(text):
    with pytest.raises(ValueError, match="run"):
        mask_from_rle(text, (3, 4))


def test_coco_entries_are_plain_json():
    entries = json.loads(json.dumps(instances().to_coco(42)))
    assert [entry["category_id"] for entry in entries] == [17, 18, 0]
    assert entries[1]["image_id"] == 42
    assert entries[1]["bbox"] == [1, 1, 3, 2]
    assert entries[1]["score"] == pytest.approx(0.5)
    assert len(entries[1]["keypoints"]) == 15
    mask = instances().masks[1]
    assert entries[1]["segmentation"] == {"size": [20, 30], "counts": coco_text(mask)}


def test_coco_does_not_build_the_full_array():
    found = instances()
    found.to_coco(1)
    assert found._mask_set._array is None


def test_supervision_takes_over_everything():
    pytest.importorskip("supervision")
    detections = instances(extra={"area": np.arange(3)}).to_supervision()
    assert len(detections) == 3
    assert detections.data["class_name"].tolist() == ["cat", "dog", "2"]
    assert set(detections.data) == {"class_name", "keypoints", "area"}
    assert detections.tracker_id.tolist() == [7, 8, 9]
    assert detections.mask.shape == (3, 20, 30)
    assert len(instances(0).to_supervision()) == 0


# ---------------------------------------------------------------- drawing


def test_drawing_leaves_the_picture_alone_and_tints_the_mask():
    image = np.full((200, 300, 3), 100, np.uint8)
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 120:160, 50:90] = True
    found = Instances([[40, 100, 100, 180]], [0.9], [1], masks=masks, label_names=NAMES)
    drawn = found.draw(image)
    assert (image == 100).all()
    expected = 0.55 * 100 + 0.45 * np.array(colour_from_number(1))
    np.testing.assert_allclose(drawn[140, 70], expected, atol=1)
    assert (drawn[110, 50] == 100).all(), "inside the box, outside of the mask"
    assert (drawn[100, 70] == colour_from_number(1)).all(), "the box"
    np.testing.assert_array_equal(drawn, found.draw(image))


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (20, 30), (30, 2000)])
def test_any_picture_can_be_drawn_on(size):
    boxes = [[0, 0, size[1], size[0]], [-1e9, -5, 1e9, 1e9], [0, 0, 0, 0]]
    masks = np.ones((3, *size), bool)
    found = Instances(boxes, [0.9, 0.5, 0.1], [0, 1, 9], masks=masks, keypoints=np.ones((3, 2, 3)))
    drawn = found.draw(np.zeros((*size, 3), np.uint8))
    assert drawn.shape == (*size, 3)
    assert drawn.any()


def test_a_track_keeps_its_colour_from_frame_to_frame_whatever_its_label():
    image = np.zeros((60, 90, 3), np.uint8)
    frames = [
        Instances([[10, 30, 40, 50], [50, 30, 80, 50]], [0.9, 0.8], [1, 1], track_ids=[5, 6]),
        Instances([[50, 30, 80, 50], [10, 30, 40, 50]], [0.9, 0.8], [1, 3], track_ids=[6, 5]),
    ]
    for drawn in (frame.draw(image) for frame in frames):
        assert (drawn[50, 20] == colour_from_number(5)).all()
        assert (drawn[50, 60] == colour_from_number(6)).all()
    other = frames[0].replace(track_ids=[5, 7])
    assert (other.draw(image)[:30, 50:] != frames[0].draw(image)[:30, 50:]).any(), "the caption"


def test_nothing_found_draws_nothing():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(instances(0).draw(image), image)


def test_another_picture_is_refused():
    with pytest.raises(ValueError, match="the picture is 5x6, the result belongs to one of"):
        instances().draw(np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(ImageError, match="COLOR_GRAY2BGR"):
        instances().draw(np.zeros((20, 30), np.uint8))
