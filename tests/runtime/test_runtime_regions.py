"""Tasks that look at one object at a time: boxes in, key points and landmarks out."""

import numpy as np
import pytest
from fake_model import FakeBackend, fake_predictor, instance_manifest, task_manifest

from edgeseg_runtime.errors import ImageError, ManifestError
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.results import Instances, Landmarks
from edgeseg_runtime.tasks import create_task

PICTURE = np.full((96, 128, 3), 50, np.uint8)
BOXES = [[10, 20, 50, 40], [0.5, 0.5, 30.5, 90.5]]
POINTS = np.float32([[0, 0], [32, 32], [64, 16]])  # of a 64 x 64 input
SCORES = np.float32([0.9, 0.6, 0.3])
NAMES = {"keypoint_names": ("a", "b", "c"), "skeleton": ((0, 1), (1, 2))}


def manifest(task, **changes):
    outputs = {
        "keypoints": {"keypoints": (3, 3)},
        "landmarks": {"points": (3, 2), "scores": (3,)},
    }[task]
    labels = {"labels": ("", "person"), "category_ids": (0, 1)}
    return task_manifest(task, outputs, **{**labels, **NAMES, **changes})


def outputs(task, points=POINTS, scores=SCORES):
    if task == "keypoints":
        return {"keypoints": np.column_stack([points, scores])[None]}
    return {"points": points[None], "scores": scores[None]}


def predictor(task, *, points=POINTS, scores=SCORES, **changes):
    return fake_predictor(manifest(task, **changes), outputs(task, points, scores))


def square(box, margin=1.25):
    """Return origin and side of what is looked at."""
    box = np.float64(box)
    side = margin * (box[2:] - box[:2]).max()
    return (box[:2] + box[2:]) / 2 - side / 2, side


def points_of(found):
    if isinstance(found, Instances):
        return list(found.keypoints[..., :2])
    return [landmarks.points for landmarks in found]


TASKS = ["keypoints", "landmarks"]


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("task", TASKS)
def test_points_come_back_in_source_pixels_for_each_box(task):
    found = predictor(task)(PICTURE, boxes=BOXES)
    assert len(found) == 2
    for box, points in zip(BOXES, points_of(found), strict=True):
        origin, side = square(box)
        np.testing.assert_allclose(points, POINTS * side / 64 + origin, rtol=0, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_without_boxes_the_whole_picture_is_looked_at(task):
    found = predictor(task)(PICTURE)
    points = found.keypoints[0, :, :2] if task == "keypoints" else found.points
    np.testing.assert_allclose(points, POINTS * 2 - (0, 16), rtol=0, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_each_box_is_what_the_network_sees(task):
    image = PICTURE.copy()
    image[20:40, 10:50] = 200
    pose = predictor(task, preprocess={"crop_margin": 1.0})
    pose(image, boxes=[[10, 10, 50, 50], [60, 10, 100, 50]])
    seen = [inputs["image"][0] for inputs in pose.backend.backend.inputs]
    assert (seen[0][18:46, 2:62] == 200).all()
    assert (seen[0][:14] == 50).all()
    assert (seen[1] == 50).all()


def test_a_pose_is_a_row_with_the_box_that_was_asked_for():
    found = predictor("keypoints")(PICTURE, boxes=BOXES)
    np.testing.assert_array_equal(found.boxes, np.float32(BOXES))
    np.testing.assert_allclose(found.scores, [0.6, 0.6])
    np.testing.assert_array_equal(found.keypoints[..., 2], [SCORES, SCORES])
    assert found.labels.tolist() == [1, 1]
    assert found.label_name(0) == "person"
    assert (found.keypoint_names, found.skeleton) == (("a", "b", "c"), ((0, 1), (1, 2)))
    assert found.image_size == (96, 128)
    whole = predictor("keypoints", labels=(), category_ids=())(PICTURE)
    np.testing.assert_array_equal(whole.boxes, [[0, 0, 128, 96]])
    assert whole.labels.tolist() == [0]


def test_landmarks_know_their_box_and_names():
    one, other = predictor("landmarks")(PICTURE, boxes=BOXES)
    np.testing.assert_array_equal(one.box, BOXES[0])
    np.testing.assert_array_equal(other.scores, SCORES)
    assert one.keypoint_names == ("a", "b", "c")
    assert one.image_size == (96, 128)
    assert predictor("landmarks")(PICTURE).box is None


def test_points_can_be_cut_to_whole_pixels():
    points = np.float32([[0.2, 0.2], [31.9, 31.9], [64, 16]])
    options = {
        "preprocess": {"rounding": "truncate", "crop_margin": 1.0},
        "postprocess": {"point_rounding": "truncate"},
    }
    found = predictor("keypoints", points=points, **options)(PICTURE, boxes=[[-20, -20, 44, 44]])
    np.testing.assert_array_equal(found.keypoints[0, :, :2], [[-19, -19], [11, 11], [44, -4]])


def test_boxes_may_be_what_a_detector_found():
    pose = predictor("keypoints")
    detections = Instances(BOXES, [0.9, 0.8], [1, 1])
    found = pose(PICTURE, boxes=detections)
    np.testing.assert_array_equal(found.keypoints, pose(PICTURE, boxes=BOXES).keypoints)
    assert len(pose(PICTURE, boxes=detections[:0])) == 0


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), [], Instances.empty()])
def test_no_boxes_give_shaped_nothing(boxes):
    found = predictor("keypoints")(PICTURE, boxes=boxes)
    assert found.keypoints.shape == (0, 3, 3)
    assert found.boxes.shape == (0, 4)
    assert found.image_size == (96, 128)
    assert predictor("landmarks")(PICTURE, boxes=boxes) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("task", TASKS)
def test_a_point_that_is_not_finite_is_set_to_zero_and_counted(task, value):
    points = POINTS.copy()
    points[1, 0] = value
    found = predictor(task, points=points)(PICTURE, boxes=BOXES[:1])
    found = found if task == "keypoints" else found[0]
    assert found.num_nonfinite == 1
    if task == "keypoints":
        assert found.keypoints[0, 1].tolist() == [0, 0, 0]
        np.testing.assert_allclose(found.scores, [0.4])
    else:
        assert [*found.points[1], found.scores[1]] == [0, 0, 0]
        assert "1 nonfinite set to 0" in repr(found)
    assert predictor(task, scores=np.float32([np.nan, 1, 1]))(PICTURE).num_nonfinite == 1


# ---------------------------------------------------------------- the predictor


@pytest.mark.parametrize("task", TASKS)
def test_the_stages_of_all_boxes_are_timed(task):
    pose = predictor(task)
    found, times = pose.profile(PICTURE, boxes=BOXES)
    assert len(found) == 2
    assert min(times.preprocess_ms, times.model_ms, times.postprocess_ms) > 0
    assert pose.backend.backend.num_runs == 2
    assert pose.profile(PICTURE, boxes=[])[1].model_ms == 0
    assert pose.warm_up() > 0


@pytest.mark.parametrize("task", TASKS)
def test_frames_are_looked_at_as_a_whole(task, tmp_path):
    import cv2

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), PICTURE)
    assert len(list(predictor(task).stream(tmp_path))) == 3


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"boxes is int64 of shape \(4,\); expected numbers of shape \(N, 4\)"),
        (np.zeros((2, 5)), r"shape \(2, 5\)"),
        (np.zeros((1, 2, 2)), r"shape \(1, 2, 2\)"),
        ([["a"] * 4], "expected numbers"),
        ([[0, 0, 5, 5], [0, 0, np.nan, 5]], r"box 1 is \[0.0, 0.0, nan, 5.0\]; expected finite"),
        ([[0, 0, np.inf, 5]], "box 0 is"),
        ([[5, 0, 5, 5]], r"expected finite x1 < x2 and y1 < y2\. Leave such boxes out"),
        ([[0, 5, 5, 0]], "box 0 is"),
        ([[0, 0, 1e12, 1]], "box 0 is"),
    ],
)
def test_what_is_no_box_is_refused(boxes, message):
    pose = predictor("keypoints")
    with pytest.raises(ValueError, match=message):
        pose(PICTURE, boxes=boxes)
    assert pose.backend.backend.num_runs == 0


def test_a_model_that_finds_its_own_boxes_takes_none():
    backend = FakeBackend({})
    detector = Predictor(instance_manifest(), create_task(instance_manifest()), backend)
    with pytest.raises(ValueError, match=r"fake looks at whole pictures \(task 'instances'"):
        detector(PICTURE, boxes=BOXES)


@pytest.mark.parametrize("task", TASKS)
def test_a_manifest_tells_whether_its_model_looks_at_boxes(task):
    assert manifest(task).looks_at_boxes
    assert not manifest(task, preprocess={"resize": "center", "rounding": "floor"}).looks_at_boxes
    assert not instance_manifest().looks_at_boxes


def test_a_model_of_whole_pictures_takes_no_boxes():
    pose = predictor("keypoints", preprocess={"resize": "stretch", "rounding": "floor"})
    assert len(pose(PICTURE)) == 1
    with pytest.raises(
        ValueError, match=r"looks at whole pictures .*resize 'stretch'.*without boxes"
    ):
        pose(PICTURE, boxes=BOXES)


@pytest.mark.parametrize("boxes", [None, [], BOXES])
def test_a_picture_of_another_layout_is_refused(boxes):
    with pytest.raises(ImageError, match="COLOR_GRAY2BGR"):
        predictor("landmarks")(PICTURE[..., 0], boxes=boxes)


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("keypoints", {"postprocess": {"point_rounding": "up"}}, "point_rounding 'up'; expected"),
        ("keypoints", {"postprocess": {"colour": 1}}, "option 'colour'; expected one of point_"),
        ("landmarks", {"postprocess": {"colour": 1}}, "option 'colour'; expected none"),
        ("keypoints", {"keypoint_names": ("a", "b", "c", "d")}, "4 keypoint_names; expected one"),
        ("landmarks", {"keypoint_names": ("a", "b"), "skeleton": ()}, "2 keypoint_names"),
    ],
)
def test_a_manifest_that_is_none_of_the_task_is_refused(task, changes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(manifest(task, **changes))


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        ("keypoints", {"keypoints": (3, 2)}, r"output keypoints .*; expected \[1, J, 3\]"),
        ("landmarks", {"points": (3, 2), "scores": (4,)}, r"output scores .*; expected \[1, 3\]"),
        ("landmarks", {"points": (3, 2)}, "scores among them"),
        (
            "landmarks",
            {"points": (3, 2), "scores": (3,), "pose": (3,)},
            r"output pose .*; expected one of points, scores",
        ),
        (
            "keypoints",
            {"keypoints": (3, 3), "embedding": (16,)},
            r"output embedding .*; expected one of keypoints\.",
        ),
    ],
)
def test_outputs_of_another_shape_are_refused(task, outputs, message):
    with pytest.raises(ManifestError, match=message):
        create_task(task_manifest(task, outputs))


def test_a_task_says_what_it_is():
    for task, name in (("keypoints", "KeypointTask"), ("landmarks", "LandmarkTask")):
        assert repr(predictor(task).task) == f"{name}('fake', 64x64)"
    assert isinstance(predictor("landmarks")(PICTURE), Landmarks)
