"""What an instance has beside box, score and label: from the network's outputs to the drawing."""

import dataclasses
import json

import numpy as np
import pytest
from fake_model import fake_predictor, task_manifest

from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.results import Instances, Landmarks
from edgeseg_runtime.results.draw import colour_from_number
from edgeseg_runtime.tasks import create_task

PICTURE = np.full((80, 120, 3), 50, np.uint8)  # the middle 64 x 64 of it lies at a shift
SHAPES = {
    "boxes": (3, 4),
    "scores": (3,),
    "labels": (3,),
    "keypoints": (3, 4, 3),
    "landmarks": (3, 5, 2),
    "gender": (3,),
    "mesh": (3, 6, 3),
    "mask_scores": (3,),
}
SOFT_NMS = {"soft_nms": "gaussian", "max_detections": 2}
EXTRAS = ["keypoints", "landmarks", "gender", "mesh", "mask_scores"]
BOXES = np.float32([[8, 4, 24, 20], [0, 0, 64, 48], [0, 0, 0, 0]])


def manifest(*, shapes=SHAPES, resize="stretch", rounding="floor", **changes):
    preprocess = {"resize": resize, "rounding": rounding}
    return task_manifest("instances", shapes, size=(40, 60), preprocess=preprocess, **changes)


def outputs(**changes):
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    values.update(boxes=BOXES, scores=np.float32([0.9, 0.5, 0]), labels=np.int32([1, 2, 0]))
    for name in ("keypoints", "landmarks", "mesh"):
        values[name][..., :2] *= 40
    return {name: value[None] for name, value in {**values, **changes}.items()}


def instances(**changes):
    found = fake_predictor(manifest(), outputs())(PICTURE)
    return found.replace(**changes) if changes else found


# ---------------------------------------------------------------- from the network's outputs


def test_everything_comes_back_in_source_pixels():
    given, found = outputs(), instances()
    assert len(found) == 2
    for name in ("keypoints", "landmarks", "mesh"):
        expected = given[name][0, :2].copy()
        expected[..., :2] *= 2  # the picture is twice the network's input
        if name == "mesh":
            expected[..., 2] *= 2
        np.testing.assert_array_equal(getattr(found, name), expected)
    for name in ("gender", "mask_scores"):
        np.testing.assert_array_equal(getattr(found, name), given[name][0, :2])


def test_a_shifted_picture_shifts_points_but_not_scores_and_depths():
    found = fake_predictor(manifest(resize="center"), outputs())(PICTURE[:20, :40])
    given = outputs()
    for name in ("keypoints", "landmarks", "mesh"):
        expected = given[name][0, :2].copy()
        expected[..., :2] -= (10, 10)
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-5)
    np.testing.assert_allclose(found.boxes, BOXES[:2] - 10, atol=1e-5)


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_row_with_a_number_that_is_not_finite_is_dropped_and_counted(name, value):
    values = outputs()[name][0]
    values[1].ravel()[-1:] = value
    if values.ndim == 1:
        values[1] = value
    found = fake_predictor(manifest(), outputs(**{name: values}))(PICTURE)
    assert (len(found), found.num_nonfinite) == (1, 1)
    values = outputs()[name][0]
    values[2] = np.nan  # an empty row
    found = fake_predictor(manifest(), outputs(**{name: values}))(PICTURE)
    assert (len(found), found.num_nonfinite) == (2, 0)


def test_a_model_without_extras_gives_none():
    shapes = {name: SHAPES[name] for name in ("boxes", "scores", "labels")}
    given = {name: outputs()[name] for name in shapes}
    found = fake_predictor(manifest(shapes=shapes), given)(PICTURE)
    assert [getattr(found, name) for name in EXTRAS] == [None] * 5


# ---------------------------------------------------------------- outputs of one's own


OWN = {"embedding": (3, 16), "distance": (3,), "is_wet": (3,), "code": (3, 2)}
DTYPES = {"embedding": "float16", "is_wet": "bool", "code": "int64"}


def own_manifest(own=OWN, *, dtypes=DTYPES, **changes):
    return manifest(shapes={**SHAPES, **own}, dtypes=dtypes, **changes)


def own_outputs(**changes):
    values = {
        "embedding": np.arange(48, dtype=np.float16).reshape(3, 16),
        "distance": np.float32([7, 3e38, 9]),
        "is_wet": np.array([True, False, True]),
        "code": np.int64([[1, 2], [2**40, 4], [5, 6]]),
    }
    return outputs(**{**values, **changes})


def test_outputs_that_the_task_does_not_know_reach_the_user():
    given, found = own_outputs(), fake_predictor(own_manifest(), own_outputs())(PICTURE)
    assert sorted(found.extra) == sorted(OWN)
    for name, values in found.extra.items():
        np.testing.assert_array_equal(values, given[name][0, :2], err_msg="as the model gave it")
        assert values.dtype == given[name].dtype
    records = json.loads(json.dumps(found.records(1), allow_nan=False))
    assert [record["code"] for record in records] == [[1, 2], [2**40, 4]]
    assert [record["is_wet"] for record in records] == [True, False]
    assert "embedding" in repr(found)


def test_rows_of_ones_own_stay_with_their_boxes():
    boxes = np.float32([[8, 4, 8, 20], [0, 0, 64, 48], [0, 0, 0, 0]])  # the first has no area
    task = own_manifest(postprocess={"drop_empty_boxes": True})
    found = fake_predictor(task, own_outputs(boxes=boxes))(PICTURE)
    assert found.extra["code"].tolist() == [[2**40, 4]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["embedding", "distance"])
def test_a_number_of_ones_own_that_is_not_finite_costs_the_row(name, value):
    values = own_outputs()[name][0]
    values[0] = values[2] = value  # the last row is empty
    found = fake_predictor(own_manifest(), own_outputs(**{name: values}))(PICTURE)
    assert (len(found), found.num_nonfinite) == (1, 1)
    assert found.extra["code"].tolist() == [[2**40, 4]]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"semantic": (19, 40, 60)},
            r"output semantic float32 .*; expected one of boxes, .*; or \[1, 3, \.\.\.\], a row for",
        ),
        ({"quality": ()}, r"output quality float32 \[-1\]; expected one of"),
        ({"proposals": (4, 4)}, r"output proposals float32 \[-1, 4, 4\]"),
        ({"bbox": (3, 4)}, "output 'bbox'; expected another name"),
        ({"annotation_id": (3,)}, "output 'annotation_id'; expected another name"),
    ],
)
def test_an_output_that_has_no_place_is_refused_on_load(own, message):
    with pytest.raises(ManifestError, match=message):
        create_task(own_manifest(own))


def test_a_model_may_give_identities():
    ids = np.int32([2**31 - 1, 7, 0])
    task = own_manifest({"track_ids": (3,)}, dtypes={"track_ids": "int32"})
    found = fake_predictor(task, outputs(track_ids=ids))(PICTURE)
    assert found.track_ids.tolist() == [2**31 - 1, 7]
    assert (found.track_ids.dtype, found.extra) == (np.int64, {})
    with pytest.raises(
        ManifestError, match=r"output track_ids float32 .*; expected int32 or int64"
    ):
        create_task(own_manifest({"track_ids": (3,)}))


def test_names_and_bones_come_from_the_manifest():
    names = {"keypoint_names": ("a", "b", "c", "d"), "skeleton": ((0, 3),)}
    found = fake_predictor(manifest(**names), outputs())(PICTURE)
    assert (found.keypoint_names, found.skeleton) == (("a", "b", "c", "d"), ((0, 3),))
    assert found[:1].skeleton == ((0, 3),)


@pytest.mark.parametrize(
    ("shapes", "changes", "message"),
    [
        ({"landmarks": (4, 5, 2)}, {}, r"output landmarks float32 .*; expected \[1, 3, L, 2\]"),
        ({"mesh": (3, 6, 2)}, {}, r"expected \[1, 3, V, 3\]"),
        ({"gender": (3, 1)}, {}, r"expected \[1, 3\]"),
        ({"keypoint_heatmaps": (3, 4, 8, 8)}, {}, "keypoints 'none' with outputs"),
        (
            {"keypoint_heatmaps": (3, 4, 8, 8)},
            {"postprocess": {"keypoints": "bicubic_argmax"}},
            "outputs keypoints and keypoint_heatmaps; expected one of them",
        ),
        ({}, {"keypoint_names": ("a",)}, "1 keypoint_names; expected one for each of the 4 points"),
        ({}, {"postprocess": {"box_rounding": "up"}}, "box_rounding 'up'; expected one of none"),
        ({}, {"postprocess": {"soft_nms": "linear"}}, "soft_nms 'linear'; expected one of none, g"),
        (
            {},
            {"postprocess": {"soft_nms": "gaussian"}},
            "max_detections 0 with soft_nms 'gaussian'; expected an integer from 1",
        ),
        ({}, {"postprocess": {"max_detections": 5}}, "soft_nms 'none'; expected 0 without"),
        ({}, {"postprocess": {"center_check": 1}}, "center_check 1; expected true or false"),
        ({}, {"postprocess": {"center_check": True}}, "center_check without soft_nms"),
        (
            {},
            {"postprocess": {"center_check": True, **SOFT_NMS}},
            "center_check True with outputs .*; expected an output centers and center_check",
        ),
        ({"centers": (7, 4)}, {}, "center_check False with outputs"),
        ({"centers": (7, 3)}, {}, r"output centers float32 .*; expected \[1, C, 4\]"),
        (
            {},
            {"resize": "square_crop", "rounding": "none"},
            "resize 'square_crop'; expected a rule that shows the whole picture",
        ),
    ],
)
def test_a_manifest_that_is_no_instance_task_is_refused(shapes, changes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(manifest(shapes={**SHAPES, **shapes}, **changes))


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_an_output_whose_first_axis_is_not_a_batch_of_one_is_refused(shape):
    whole = manifest()
    graph = whole.graphs["main"]
    broken = dataclasses.replace(graph.output("labels"), shape=shape)
    outputs = tuple(broken if spec.name == "labels" else spec for spec in graph.outputs)
    graphs = {"main": dataclasses.replace(graph, outputs=outputs)}
    with pytest.raises(ManifestError, match=r"labels int32 \[.*\], whose first axis"):
        create_task(dataclasses.replace(whole, graphs=graphs))


# ---------------------------------------------------------------- candidates


def test_candidates_lose_score_to_better_ones_and_are_clipped_to_the_picture():
    boxes = np.float32([[0, 0, 20, 20], [40, 20, 70, 40], [0, 0, 20, 19]])
    given = outputs(boxes=boxes, scores=np.float32([0.9, 0.8, 0.7]), labels=np.int32([1, 2, 1]))
    found = fake_predictor(manifest(postprocess={**SOFT_NMS, "max_detections": 3}), given)(PICTURE)
    np.testing.assert_array_equal(found.labels, [1, 2, 1])
    np.testing.assert_array_equal(found.boxes[1], [80, 40, 120, 80])
    assert found.scores[:2].tolist() == pytest.approx([0.9, 0.8])
    assert found.scores[2] == pytest.approx(0.7 * np.exp(-2 * (39 / 41) ** 2), rel=1e-5)
    np.testing.assert_array_equal(found.landmarks[2], given["landmarks"][0, 2] * 2)
    two = fake_predictor(manifest(postprocess=SOFT_NMS), given)(PICTURE)
    assert len(two) == 2
    options = {**SOFT_NMS, "max_detections": 3, "score_threshold": 0.5}
    assert len(fake_predictor(manifest(postprocess=options), given)(PICTURE)) == 2


def test_candidates_without_a_centre_in_their_middle_are_dropped():
    centers = np.float32([[8, 6, 0.3, 1], [30, 24, 0.3, 9], [np.nan, 0, 0.3, 2]])
    given = outputs(centers=centers, boxes=np.float32([[0, 0, 16, 12], [9, 9, 50, 39], [0] * 4]))
    options = {**SOFT_NMS, "center_check": True}
    shapes = {**SHAPES, "centers": (3, 4)}
    found = fake_predictor(manifest(shapes=shapes, postprocess=options), given)(PICTURE)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 32, 24]])
    assert found.scores.tolist() == pytest.approx([(2 * 0.9 + 0.3) / 3])


def test_nothing_is_left_of_no_candidates():
    given = outputs(scores=np.zeros(3, np.float32))
    assert len(fake_predictor(manifest(postprocess=SOFT_NMS), given)(PICTURE)) == 0


# ---------------------------------------------------------------- YOLACT


def test_boxes_are_truncated_by_the_rule_of_yolact():
    boxes = np.float32([[24.9, 19.9, 8.3, 4.2], [-5, -3, 61, 41], [61, 1, 70, 9]])
    given = outputs(boxes=boxes, scores=np.float32([0.9, 0.8, 0.7]))
    found = fake_predictor(manifest(postprocess={"box_rounding": "truncate"}), given)(PICTURE)
    expected = [[16, 8, 49, 39], [0, 0, 120, 80], [122, 2, 120, 18]]  # the last one is outside
    np.testing.assert_array_equal(found.boxes, expected)
    options = {"box_rounding": "truncate", "drop_empty_boxes": True}
    assert len(fake_predictor(manifest(postprocess=options), given)(PICTURE)) == 2


def test_a_mask_over_the_input_may_reach_outside_of_its_box():
    masks = np.zeros((3, 10, 10), np.float32)
    masks[0, 2:5, 2:5] = 0.9
    masks[1, 2:5, 2:5] = 0.5  # not greater than the threshold
    shapes = {**SHAPES, "masks": (3, 10, 10)}
    found = fake_predictor(manifest(shapes=shapes), outputs(masks=masks))(PICTURE)
    assert found.masks[0, 17:39, 42].all()
    assert found.masks[0, 28, 25:59].all()
    assert found.masks.sum() < 26 * 40
    crop, empty = found.mask_crops
    assert crop.bits.size < 34 * 50
    assert empty.bits.size == 0


# ---------------------------------------------------------------- the result


def test_a_selection_keeps_all_extras_aligned():
    found = instances()
    for name in EXTRAS:
        np.testing.assert_array_equal(getattr(found[[1, 0]], name), getattr(found, name)[[1, 0]])
    assert "with keypoints, landmarks, gender, mesh, mask_scores" in repr(found)


def test_one_array_can_be_replaced():
    found = instances()
    changed = found.replace(landmarks=np.zeros((2, 68, 2)))
    assert changed.landmarks.shape == (2, 68, 2)
    np.testing.assert_array_equal(changed.mesh, found.mesh)
    assert found.replace(mesh=None).mesh is None
    with pytest.raises(ValueError, match=r"landmarks has shape \(3, 5, 2\); expected \(N, L, 2\)"):
        found.replace(landmarks=np.zeros((3, 5, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gender": np.zeros((2, 1))}, r"gender has shape \(2, 1\); expected \(N,\)"),
        ({"mask_scores": np.zeros(3)}, r"mask_scores has shape \(3,\)"),
        ({"mesh": np.zeros((2, 7, 2))}, r"mesh has shape \(2, 7, 2\); expected \(N, V, 3\)"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        instances(**changes)


def test_coco_entries_hold_everything():
    found = instances()
    entry = json.loads(json.dumps(found.to_coco(3)))[1]
    np.testing.assert_allclose(entry["keypoints"], found.keypoints[1].ravel())
    np.testing.assert_allclose(entry["landmarks"], found.landmarks[1])
    np.testing.assert_allclose(entry["mesh"], found.mesh[1])
    assert entry["gender"] == pytest.approx(found.gender[1])
    assert entry["mask_score"] == pytest.approx(found.mask_scores[1])


def test_supervision_takes_over_everything():
    pytest.importorskip("supervision")
    data = instances().to_supervision().data
    assert set(data) == {"class_name", *EXTRAS}
    assert data["landmarks"].shape == (2, 5, 2)


# ---------------------------------------------------------------- landmarks


def landmarks(**changes):
    points = np.float32([[10, 10], [40, 10], [40, 30]])
    return Landmarks(**{"points": points, "scores": np.float32([1, 0.5, 0]), **changes})


def test_landmarks_refuse_arrays_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"points has shape \(3, 2\) and scores \(2,\)"):
        landmarks(scores=np.zeros(2))
    with pytest.raises(ValueError, match=r"box has shape \(1, 4\); expected \(4,\)"):
        landmarks(box=np.zeros((1, 4)))


def test_landmarks_are_one_entry_of_coco():
    (entry,) = json.loads(json.dumps(landmarks(box=np.array([1, 2, 5, 9])).to_coco(7)))
    assert entry["keypoints"] == [10, 10, 1, 40, 10, 0.5, 40, 30, 0]
    assert entry["bbox"] == [1, 2, 4, 7]
    assert (entry["image_id"], entry["score"]) == (7, 0.5)
    assert "bbox" not in landmarks().to_coco(7)[0]


def test_landmarks_are_key_points_of_supervision():
    pytest.importorskip("supervision")
    points = landmarks().to_supervision()
    assert points.xy.shape == (1, 3, 2)
    np.testing.assert_array_equal(points.keypoint_confidence, [[1, 0.5, 0]])


def test_landmarks_say_what_they_are():
    assert repr(landmarks(image_size=(80, 120))) == "Landmarks(3; image 80x120)"
    assert len(landmarks()) == 3


# ---------------------------------------------------------------- drawing


def is_painted(drawn, x, y):
    return (drawn[y, x] == colour_from_number(1)).all()


def is_touched(drawn, x, y):
    return (drawn[y, x] != PICTURE[y, x]).any()


def test_bones_connect_the_points_that_are_there():
    bones = ((0, 1), (1, 2))
    drawn = landmarks(skeleton=bones, box=np.array([5, 5, 60, 60])).draw(PICTURE)
    assert is_touched(drawn, 10, 10)
    assert is_touched(drawn, 25, 10), "bone"
    assert not is_touched(drawn, 40, 20), "no bone to a point without a score"
    assert is_painted(drawn, 5, 40), "box"
    points = np.column_stack([landmarks().points, landmarks().scores])[None]
    found = Instances([[0, 0, 1, 1]], [0.5], [1], keypoints=points, skeleton=bones)
    assert is_touched(found.draw(PICTURE), 25, 10)
    assert not is_touched(found.draw(PICTURE), 40, 20)


def test_landmarks_mesh_and_gender_are_drawn():
    box = [[100, 60, 110, 70]]
    plain = Instances(box, [0.5], [1])
    points = np.float32([[[10, 10], [40, 30]]])
    assert is_touched(plain.replace(landmarks=points).draw(PICTURE), 40, 30)
    connected = plain.replace(landmarks=points, skeleton=((0, 1),)).draw(PICTURE)
    assert is_touched(connected, 25, 20)
    mesh = np.concatenate([points, np.ones((1, 2, 1), np.float32)], axis=2)
    drawn = plain.replace(mesh=mesh).draw(PICTURE)
    assert is_painted(drawn, 40, 30)
    assert not is_touched(drawn, 41, 30), "one pixel: there are many"
    captions = [plain.replace(gender=[p]).draw(PICTURE) for p in (0.02, 0.98)]
    assert (captions[0] != captions[1]).any()


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (30, 2000)])
def test_any_picture_can_be_drawn_on(size):
    image = np.zeros((*size, 3), np.uint8)
    wild = np.float32([[-1e9, 5], [np.nan, 1e9], [3, 3]])
    assert landmarks(points=wild, skeleton=((0, 1), (1, 2))).draw(image).shape == image.shape
    assert instances(image_size=size).draw(image).any()


def test_landmarks_of_another_picture_are_refused():
    with pytest.raises(ValueError, match="the picture is 80x120, the result belongs to one of"):
        landmarks(image_size=(5, 6)).draw(PICTURE)
