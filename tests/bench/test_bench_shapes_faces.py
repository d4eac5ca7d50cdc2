"""The drawn faces are deterministic, and boxes, landmarks, mesh and picture belong together."""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg_bench.datasets import faces, heads, open_dataset
from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco

GOLDEN = Path(__file__).parents[1] / "golden" / "shapes" / "faces.json"
FRONTAL = heads.Head(
    shape=heads.Shape(), centre=(100.0, 90.0), scale=50.0, yaw=0.0, pitch=0.0, roll=0.0
)


@pytest.fixture(scope="module")
def samples():
    return list(open_dataset("shapes", split="train", kind="faces", limit=60))


@pytest.fixture(scope="module")
def annotations(samples):
    return [annotation for sample in samples for annotation in sample.annotations]


def points(annotation, name):
    return np.array(annotation[name])


def mirrored(head):
    """The same person seen in a mirror at x = 100."""
    return replace(head, yaw=-head.yaw, roll=-head.roll)


def summary_of(sample):
    """What must survive a change of numpy, cv2 or CPU: everything but single grey levels."""
    rows = np.array_split(sample.image.astype(np.float64), 3, axis=0)
    cells = [cell.mean(axis=(0, 1)) for row in rows for cell in np.array_split(row, 3, axis=1)]
    return {
        "size": [sample.height, sample.width],
        "boxes": [a["bbox"] for a in sample.annotations],
        "genders": [a["gender"] for a in sample.annotations],
        "landmarks": [a["landmarks"] for a in sample.annotations],
        "colours": np.round(cells, 1).tolist(),
    }


GOLDEN_CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda c: f"{c['split']}-{c['index']}")
def test_a_picture_is_the_same_as_ever(case):
    sample = ShapesDataset(case["split"], kind="faces")[case["index"]]
    found, expected = summary_of(sample), case["summary"]
    assert found["size"] == expected["size"]
    assert found["genders"] == expected["genders"]
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.5)
    np.testing.assert_allclose(found["landmarks"], expected["landmarks"], atol=0.5)
    np.testing.assert_allclose(found["colours"], expected["colours"], atol=1)


def test_the_pictures_of_instances_did_not_change_by_the_faces():
    picture = ShapesDataset("val")[0].image
    assert np.array_equal(picture, ShapesDataset("val", kind="instances")[0].image)
    assert not np.array_equal(picture, ShapesDataset("val", kind="faces")[0].image)


def test_a_picture_depends_on_nothing_but_its_index(samples):
    np.random.seed(5)  # noqa: NPY002  - the global state is what must not matter
    dataset = ShapesDataset("train", kind="faces")
    for index in (3, 0, 2, 1):
        assert np.array_equal(dataset[index].image, samples[index].image)
        assert dataset[index].annotations == samples[index].annotations


def test_splits_and_seeds_share_no_picture():
    datasets = [
        ShapesDataset(split, kind="faces", seed=s) for split in ("train", "val") for s in (0, 1)
    ]
    pictures = {
        hashlib.sha256(dataset[index].image.tobytes()).digest()
        for dataset in datasets
        for index in range(4)
    }
    assert len(pictures) == 16


def test_annotations_have_every_field(samples):
    ids = [a["id"] for sample in samples for a in sample.annotations]
    assert len(set(ids)) == len(ids)
    assert 0 not in ids
    for sample in samples:
        assert 1 <= len(sample.annotations) <= 6
        for annotation in sample.annotations:
            assert annotation["image_id"] == sample.image_id
            assert (annotation["category_id"], annotation["iscrowd"]) == (1, 0)
            assert annotation["gender"] in {0, 1}
            assert points(annotation, "landmarks").shape == (5, 2)
            assert points(annotation, "points_68").shape == (68, 2)
            assert points(annotation, "points_98").shape == (98, 2)
            assert points(annotation, "mesh").shape == (faces.NUM_VERTICES, 3)


def test_the_box_is_tight_around_mesh_and_landmarks_inside_the_picture(samples):
    for sample in samples:
        border = (sample.width, sample.height)
        for annotation in sample.annotations:
            x, y, width, height = annotation["bbox"]
            extent = np.concatenate(
                [points(annotation, "mesh")[:, :2], points(annotation, "points_98")]
            )
            low, high = np.clip(extent.min(0), 0, border), np.clip(extent.max(0), 0, border)
            np.testing.assert_allclose((x, y), low, atol=0.02)
            np.testing.assert_allclose((x + width, y + height), high, atol=0.02)
            assert annotation["area"] == pytest.approx(width * height, abs=0.02)


def test_most_of_every_face_is_inside_the_picture(samples):
    for sample in samples:
        for annotation in sample.annotations:
            inside = points(annotation, "points_98")
            is_inside = np.all((inside >= 0) & (inside < (sample.width, sample.height)), axis=1)
            assert is_inside.mean() >= 0.7


def test_all_sizes_and_both_genders_occur(annotations):
    heights = np.array([a["bbox"][3] for a in annotations])
    assert 10 < heights.min() < 20
    assert 90 < heights.max() < 190
    assert np.mean(heights < 40) > 0.25
    assert np.mean(heights > 80) > 0.08
    assert 0.35 < np.mean([a["gender"] for a in annotations]) < 0.65


def test_the_five_landmarks_are_vertices_of_the_mesh(annotations):
    for annotation in annotations:
        found = points(annotation, "mesh")[list(faces.VERTICES_5), :2]
        np.testing.assert_allclose(found, points(annotation, "landmarks"), atol=0.02)


def test_the_orders_of_300w_and_wflw_agree(annotations):
    for annotation in annotations:
        found = points(annotation, "points_98")[list(faces.POINTS_68_FROM_98)]
        assert np.array_equal(found, points(annotation, "points_68"))
        five = points(annotation, "points_98")[list(faces.POINTS_5_FROM_98)]
        assert np.array_equal(five, points(annotation, "landmarks"))


def test_left_is_left_as_seen_in_the_picture(annotations):
    for annotation in annotations:
        left_eye, right_eye, _, left_mouth, right_mouth = points(annotation, "landmarks")
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert (left_eye + right_eye)[1] < (left_mouth + right_mouth)[1]


# Pairs of WFLW's points that change places when the picture is mirrored.
WFLW_PAIRS = [
    *((number, 32 - number) for number in range(17)),
    *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)),
    *((51, 51), (52, 52), (53, 53), (54, 54), (55, 59), (56, 58), (57, 57)),
    *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
    *((76, 82), (77, 81), (78, 80), (79, 79), (83, 87), (84, 86), (85, 85)),
    *((88, 92), (89, 91), (90, 90), (93, 95), (94, 94), (96, 97)),
]


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_head_has_mirrored_landmarks(seed):
    rng = np.random.default_rng(seed)
    shape = heads.invent_shape(rng, gender=seed % 2)
    head = replace(FRONTAL, shape=shape, yaw=0.6, pitch=-0.3, roll=0.4)
    ours, theirs = heads.landmarks(head), heads.landmarks(mirrored(head))
    for left, right in WFLW_PAIRS:
        np.testing.assert_allclose(ours[left], theirs[right] * (-1, 1) + (200, 0), atol=1e-9)
        np.testing.assert_allclose(ours[right], theirs[left] * (-1, 1) + (200, 0), atol=1e-9)


def test_the_landmarks_of_a_frontal_face_lie_where_their_standards_say():
    p = heads.landmarks(FRONTAL)
    assert np.all(np.diff(p[:33, 0]) > 0), "the contour runs from left to right"
    assert p[16, 1] == p[:, 1].max(), "point 16 is the chin"
    for inner_to_outer in (range(37, 32, -1), range(42, 47)):
        assert np.all(np.diff(np.abs(p[list(inner_to_outer), 0] - 100)) > 0)
    assert np.all(p[38:42, 1] > p[[37, 36, 35, 34], 1]), "left brow: 38 to 41 are its lower edge"
    assert np.all(p[47:51, 1] > p[[45, 44, 43, 42], 1] - 1e-9), (
        "right brow: 47 to 50 are its lower edge"
    )
    assert np.all(np.diff(p[51:55, 1]) > 0), "the bridge of the nose runs down"
    assert np.all(np.diff(p[55:60, 0]) > 0)
    for first, left_corner, right_corner in ((60, 60, 64), (68, 68, 72)):
        eye = p[first : first + 8]
        assert eye[:, 0].argmin() == left_corner - first
        assert eye[:, 0].argmax() == right_corner - first
        assert eye[1:4, 1].max() < eye[5:8, 1].min()
    assert p[76, 0] == p[76:88, 0].min()
    assert p[82, 0] == p[76:88, 0].max()
    assert p[77:82, 1].max() < p[83:88, 1].min()
    assert p[88:96, 0].min() == p[88, 0] > p[76, 0]


@pytest.mark.parametrize(
    ("turn", "axis", "sign"),
    [("yaw", 0, 1), ("pitch", 1, 1)],
    ids=["yaw-to-the-right", "pitch-down"],
)
def test_a_turned_face_looks_where_it_should(turn, axis, sign):
    nose = heads.landmarks(FRONTAL)[54] - heads.landmarks(FRONTAL)[[60, 72]].mean(axis=0)
    turned = replace(FRONTAL, **{turn: 0.4})
    moved = heads.landmarks(turned)[54] - heads.landmarks(turned)[[60, 72]].mean(axis=0)
    assert sign * (moved - nose)[axis] > 3


def test_the_mesh_faces_the_camera():
    mesh = heads.mesh(FRONTAL)
    assert mesh[:, 2].argmin() == faces.VERTICES_5[2], "the tip of the nose is the nearest"
    corners = mesh[faces.TRIANGLES][:, :, :2]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    clockwise = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    assert (clockwise > 0).mean() > 0.97
    assert set(faces.TRIANGLES.ravel()) == set(range(faces.NUM_VERTICES))


def test_the_mean_shape_fills_a_box_of_height_one():
    low, high = faces.MEAN_SHAPE.min(axis=0), faces.MEAN_SHAPE.max(axis=0)
    assert faces.MEAN_SHAPE.shape == (faces.NUM_VERTICES, 3)
    np.testing.assert_allclose((low + high)[:2], 0, atol=1e-12)
    assert high[1] - low[1] == pytest.approx(1.0)
    assert 0.7 < high[0] - low[0] < 0.9


def test_eyes_are_where_the_landmarks_say(samples):
    """The white of the eyes is brighter than the pupil in the middle of them."""
    darker = []
    for sample in samples:
        for annotation in sample.annotations:
            eyes = points(annotation, "points_98")[[96, 97, 60, 64, 68, 72]]
            if annotation["bbox"][3] < 80 or (eyes < 2).any() or (eyes > 180).any():
                continue
            corners = (eyes[[0, 0, 1, 1]] + eyes[2:]) / 2  # halfway between pupil and corner
            grey = sample.image.mean(axis=2)
            at = [grey[int(y), int(x)] for x, y in [*eyes[:2], *corners]]
            darker.append(np.mean(at[:2]) < np.mean(at[2:]))
    assert len(darker) > 5
    assert np.mean(darker) > 0.8


def test_drawing_a_picture_takes_milliseconds():
    dataset = ShapesDataset("train", kind="faces")
    times = []
    for index in range(20):
        start = time.process_time()
        _ = dataset[index]
        times.append(time.process_time() - start)
    assert np.median(times) < 0.08  # 15 ms on a 2024 server core


def test_written_faces_read_back(tmp_path):
    written = ShapesDataset("val", kind="faces", limit=2)
    write_coco(written, tmp_path)
    read = open_dataset(f"coco:{tmp_path}", kind="faces")
    assert read.coco() == written.coco()
    assert np.array_equal(read[1].image, written[1].image)


def test_an_unknown_kind_says_what_there_is():
    with pytest.raises(ValueError, match=r"no kind 'cats': choose from \['instances', 'faces'"):
        open_dataset("shapes", kind="cats")
