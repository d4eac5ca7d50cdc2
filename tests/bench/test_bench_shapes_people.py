"""The drawn people are deterministic, and key points, masks and picture belong together."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg_bench.datasets import bodies, open_dataset
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco

GOLDEN = Path(__file__).parents[1] / "golden" / "shapes" / "people.json"
STRAIGHT_LEG = bodies.Leg(abduction=0.1, flexion=0.0, knee=0.0)
STRAIGHT_ARM = bodies.Arm(abduction=0.4, flexion=0.0, elbow=0.0, elbow_direction=(0.0, 0.0, -1.0))
STANDING = bodies.Body(
    legs=(STRAIGHT_LEG, STRAIGHT_LEG),
    arms=(STRAIGHT_ARM, STRAIGHT_ARM),
    spine=0.0,
    neck=0.0,
    nod=0.0,
    breadth=1.0,
    centre=(100.0, 100.0),
    scale=150.0,
    yaw=0.0,
    pitch=0.0,
    lean=0.0,
)


@pytest.fixture(scope="module")
def samples():
    return list(open_dataset("shapes", split="train", kind="person_keypoints", limit=60))


def keypoints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(16, 3)


def joints_of(body):
    return dict(zip(bodies.JOINTS, bodies.joints(body), strict=True))


def summary_of(sample):
    """What must survive a change of numpy, cv2 or CPU: everything but single grey levels."""
    rows = np.array_split(sample.image.astype(np.float64), 3, axis=0)
    cells = [cell.mean(axis=(0, 1)) for row in rows for cell in np.array_split(row, 3, axis=1)]
    return {
        "size": [sample.height, sample.width],
        "boxes": [a["bbox"] for a in sample.annotations],
        "keypoints": [a["keypoints"] for a in sample.annotations],
        "colours": np.round(cells, 1).tolist(),
    }


GOLDEN_CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda c: f"{c['split']}-{c['index']}")
def test_a_picture_is_the_same_as_ever(case):
    sample = ShapesDataset(case["split"], kind="person_keypoints")[case["index"]]
    found, expected = summary_of(sample), case["summary"]
    assert found["size"] == expected["size"]
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1)
    np.testing.assert_allclose(found["keypoints"], expected["keypoints"], atol=0.5)
    np.testing.assert_allclose(found["colours"], expected["colours"], atol=1)


def test_a_picture_depends_on_nothing_but_its_index(samples):
    np.random.seed(5)  # noqa: NPY002  - the global state is what must not matter
    dataset = ShapesDataset("train", kind="person_keypoints")
    for index in (3, 0, 2, 1):
        assert np.array_equal(dataset[index].image, samples[index].image)
        assert dataset[index].annotations == samples[index].annotations


def test_kinds_share_no_picture():
    kinds = ("instances", "faces", "person_keypoints")
    pictures = {ShapesDataset("val", kind=kind)[0].image.tobytes() for kind in kinds}
    assert len(pictures) == 3


def test_the_category_names_joints_and_skeleton():
    (person,) = open_dataset("shapes", kind="person_keypoints").categories
    assert (person["id"], person["name"]) == (1, "person")
    assert person["keypoints"][0] == "right_ankle"
    assert person["keypoints"][9] == "head_top"
    assert person["keypoints"][15] == "left_wrist"
    ends = {number for pair in person["skeleton"] for number in pair}
    assert ends == set(range(1, 17)), "the skeleton joins all joints, counted from 1"
    assert len(person["skeleton"]) == 15


def test_annotations_describe_the_visible_masks(samples):
    ids = [a["id"] for sample in samples for a in sample.annotations]
    assert len(set(ids)) == len(ids)
    assert 0 not in ids
    for sample in samples:
        assert len(sample.annotations) <= 4
        taken_HW = np.zeros((sample.height, sample.width), dtype=int)
        for annotation in sample.annotations:
            mask_HW = mask_from_segmentation(
                annotation["segmentation"], height=sample.height, width=sample.width
            )
            taken_HW += mask_HW
            rows, columns = np.nonzero(mask_HW)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == len(rows)
            assert annotation["image_id"] == sample.image_id
            assert (annotation["category_id"], annotation["iscrowd"]) == (1, 0)
        assert taken_HW.max() <= 1, "visible masks overlap"
    assert np.mean([len(sample.annotations) > 0 for sample in samples]) > 0.95


def test_flags_say_where_a_joint_is(samples):
    counts = np.zeros(3)
    for sample in samples:
        for annotation in sample.annotations:
            points_J3 = keypoints_of(annotation)
            flags_J = points_J3[:, 2].astype(int)
            counts += np.bincount(flags_J, minlength=3)
            assert annotation["num_keypoints"] == (flags_J > 0).sum()
            assert not points_J3[flags_J == 0].any(), "joints without a label are 0, 0, 0"
            labelled_2 = points_J3[flags_J > 0, :2]
            assert (labelled_2 >= 0).all()
            assert (labelled_2 < (sample.width, sample.height)).all()
            x, y, width, height = annotation["bbox"]
            visible_2 = points_J3[flags_J == 2, :2]
            assert (visible_2 >= (x - 1.5, y - 1.5)).all()
            assert (visible_2 <= (x + width + 1.5, y + height + 1.5)).all()
    assert (counts / counts.sum() > (0.02, 0.03, 0.5)).all()


def test_visible_joints_lie_on_the_persons_mask(samples):
    for sample in samples:
        for annotation in sample.annotations:
            mask_HW = mask_from_segmentation(
                annotation["segmentation"], height=sample.height, width=sample.width
            )
            for x, y, flag in keypoints_of(annotation).tolist():
                if flag == 2:
                    row, column = int(y), int(x)
                    near = mask_HW[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                    assert near.any()


def test_all_sizes_occur(samples):
    heights = np.array([a["bbox"][3] for sample in samples for a in sample.annotations])
    assert heights.min() < 70
    assert heights.max() > 180


def test_the_head_box_goes_from_the_neck_to_the_top(samples):
    for sample in samples:
        for annotation in sample.annotations:
            x, y, width, height = annotation["head_box"]
            assert 5 < np.hypot(width, height) < 120
            for joint in (8, 9):
                joint_x, joint_y, flag = keypoints_of(annotation)[joint]
                if flag:
                    assert x - 0.1 <= joint_x <= x + width + 0.1
                    assert y - 0.1 <= joint_y <= y + height + 0.1


def test_left_is_the_persons_left():
    front = joints_of(STANDING)
    behind = joints_of(replace(STANDING, yaw=np.pi))
    for name in ("ankle", "knee", "hip", "shoulder", "elbow", "wrist"):
        assert front[f"right_{name}"][0] < 100 < front[f"left_{name}"][0]
        assert behind[f"left_{name}"][0] < 100 < behind[f"right_{name}"][0]


def test_a_standing_person_is_upright():
    joints = joints_of(STANDING)
    chain = ("head_top", "upper_neck", "thorax", "pelvis", "left_knee", "left_ankle")
    heights = [joints[name][1] for name in chain]
    assert heights == sorted(heights)
    assert np.ptp([point[1] for point in joints.values()]) == pytest.approx(150, rel=0.1)


def test_limbs_keep_their_length_in_every_pose():
    for seed in range(20):
        body = bodies.invent_body(np.random.default_rng(seed), scale=100.0)
        joints = joints_of(body)
        for first, second, length in (
            ("left_hip", "left_knee", bodies.THIGH),
            ("right_knee", "right_ankle", bodies.SHIN),
            ("left_shoulder", "left_elbow", bodies.UPPER_ARM),
            ("right_elbow", "right_wrist", bodies.FOREARM),
            ("upper_neck", "head_top", bodies.HEAD),
        ):
            distance = np.linalg.norm(joints[first] - joints[second])
            assert distance == pytest.approx(100 * length, rel=1e-6)


def test_an_arm_behind_the_back_is_hidden():
    behind_back = bodies.Arm(
        abduction=-0.5, flexion=-0.6, elbow=0.8, elbow_direction=(-1.0, -0.3, 0.3)
    )
    body = replace(STANDING, arms=(behind_back, STRAIGHT_ARM))
    is_hidden = dict(zip(bodies.JOINTS, bodies.hidden_by_own_body(body), strict=True))
    assert is_hidden["right_wrist"]
    assert not is_hidden["left_wrist"]
    from_behind = replace(body, yaw=np.pi)
    assert not bodies.hidden_by_own_body(from_behind)[bodies.JOINTS.index("right_wrist")]


def test_drawing_a_picture_takes_milliseconds():
    dataset = ShapesDataset("train", kind="person_keypoints")
    times = []
    for index in range(20):
        start = time.process_time()
        _ = dataset[index]
        times.append(time.process_time() - start)
    assert np.median(times) < 0.08  # 15 ms on a 2024 server core


def test_written_people_read_back(tmp_path):
    written = ShapesDataset("val", kind="person_keypoints", limit=2)
    write_coco(written, tmp_path)
    read = open_dataset(f"coco:{tmp_path}", kind="person_keypoints")
    assert read.coco() == written.coco()
    assert read.categories == written.categories
