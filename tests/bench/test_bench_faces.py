"""WIDER FACE's average precision, and what is measured on matched faces."""

import numpy as np
import pytest

from edgeseg_bench.metrics.faces import gender_accuracy, landmark_nme, mesh_nme
from edgeseg_bench.metrics.wider import wider_ap


def truth_of(*pictures):
    """A data set from lists of boxes, or of whole annotations, one list per picture."""
    annotations = []
    for image_id, faces in enumerate(pictures, 1):
        for face in faces:
            face = face if isinstance(face, dict) else {"bbox": face}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **face})
    images = [{"id": i, "width": 500, "height": 500} for i in range(1, len(pictures) + 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def found(image_id, box, score, **further):
    return {"image_id": image_id, "category_id": 1, "bbox": box, "score": score, **further}


FAR = [400, 400, 60, 60]


@pytest.mark.parametrize(
    ("faces", "detections", "expected"),
    [
        pytest.param([[10, 10, 60, 60]], [found(1, [10, 10, 60, 60], 0.9)], 1.0, id="found"),
        pytest.param([[10, 10, 60, 60]], [], 0.0, id="missed"),
        pytest.param([[10, 10, 60, 60]], [found(1, FAR, 0.9)], 0.0, id="beside it"),
        pytest.param(
            [[10, 10, 60, 60]],
            [found(1, FAR, 0.9), found(1, [10, 10, 60, 60], 0.8)],
            0.5,
            id="a false one is more confident",
        ),
        pytest.param(
            [[10, 10, 60, 60], [200, 200, 60, 60]],
            [found(1, [10, 10, 60, 60], 0.9), found(1, [12, 10, 60, 60], 0.8)],
            0.5,
            id="a second detection finds nothing new",
        ),
    ],
)
def test_average_precision_of_one_picture(faces, detections, expected):
    scores = wider_ap(truth_of(faces), detections)
    assert scores["easy"] == pytest.approx(expected, abs=2e-3)
    assert scores["hard"] == scores["easy"]  # every face is tall enough for all three


def test_a_face_outside_the_subset_is_neither_asked_for_nor_held_against_a_model():
    truth = truth_of([[10, 10, 60, 60], [200, 200, 20, 20]])
    detections = [found(1, [200, 200, 20, 20], 0.9), found(1, [10, 10, 60, 60], 0.8)]
    assert wider_ap(truth, detections)["easy"] == pytest.approx(1.0)
    assert wider_ap(truth, detections[1:])["hard"] == pytest.approx(0.5)


def test_the_lists_of_the_benchmark_come_before_the_size():
    truth = truth_of([{"bbox": [10, 10, 60, 60], "subsets": ["hard"]}])
    assert wider_ap(truth, []) == {"easy": None, "medium": None, "hard": 0.0}


def original_ap(pictures, detections, is_asked):
    """The protocol written with the original's loops: one threshold after the other."""
    scores = np.array([d["score"] for d in detections])
    low, high = scores.min(), scores.max()
    num_thresholds = 1000
    info = np.zeros((num_thresholds, 2))
    num_faces = 0
    for image_id, faces in enumerate(pictures, 1):
        asked = [is_asked(face) for face in faces]
        num_faces += sum(asked)
        rows = sorted(
            (d for d in detections if d["image_id"] == image_id), key=lambda d: -d["score"]
        )
        if not faces or not rows:
            continue
        recalled, proposal, num_recalled = [0] * len(faces), [1] * len(rows), []
        for r, row in enumerate(rows):
            overlaps = [overlap(row["bbox"], face) for face in faces]
            best = int(np.argmax(overlaps))
            if overlaps[best] >= 0.5:
                if not asked[best]:
                    recalled[best], proposal[r] = -1, -1
                elif recalled[best] == 0:
                    recalled[best] = 1
            num_recalled.append(sum(value == 1 for value in recalled))
        normalised = [(row["score"] - low) / (high - low) for row in rows]
        for t in range(num_thresholds):
            reached = [i for i, s in enumerate(normalised) if s >= 1 - (t + 1) / num_thresholds]
            if reached:
                last = reached[-1]
                info[t] += sum(p == 1 for p in proposal[: last + 1]), num_recalled[last]
    recall = [0.0, *(info[:, 1] / num_faces), 1.0]
    precision = [0.0, *(info[:, 1] / np.maximum(info[:, 0], 1)), 0.0]
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return sum((recall[i + 1] - recall[i]) * precision[i + 1] for i in range(len(recall) - 1))


def overlap(box, other):
    x = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0]) + 1
    y = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1]) + 1
    inside = max(x, 0) * max(y, 0)
    areas = [(b[2] + 1) * (b[3] + 1) for b in (box, other)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize("seed", range(6))
def test_random_pictures_score_as_the_original_loops_do(seed):
    rng = np.random.default_rng(seed)
    pictures, detections = [], []
    for image_id in range(1, 7):
        size = rng.integers(12, 90, (int(rng.integers(0, 6)), 1))
        faces = np.concatenate([rng.integers(0, 400, (len(size), 2)), size, size], axis=1)
        pictures.append(faces.tolist())
        moved = faces + rng.integers(-8, 9, faces.shape)
        moved = np.concatenate([moved, rng.integers(20, 90, (3, 4))])
        detections += [found(image_id, box, float(rng.random())) for box in moved.tolist()]
    expected = original_ap(pictures, detections, lambda face: face[3] >= 30)
    assert 0 < expected < 1
    assert wider_ap(truth_of(*pictures), detections)["medium"] == pytest.approx(expected, abs=1e-9)


def face_of(**further):
    return {"bbox": [100, 100, 64, 64], **further}


def test_landmark_error_is_measured_in_box_sizes_on_matched_faces():
    points = np.arange(10.0).reshape(5, 2) + 100
    truth = truth_of([face_of(landmarks=points.tolist())], [face_of(landmarks=points.tolist())])
    moved = np.add(points, [6.0, 0]).tolist()
    scores = landmark_nme(truth, [found(1, [100, 100, 64, 64], 0.9, landmarks=moved)])
    assert scores == {
        "NME": pytest.approx(6 / 64),
        "failures": 0.0,
        "matched": 0.5,
    }


def test_nothing_is_measured_without_a_match():
    truth = truth_of([face_of(landmarks=[[0, 0]] * 5, gender=1, mesh=[[0, 0, 0]])])
    assert landmark_nme(truth, []) == {"NME": None, "failures": None, "matched": 0.0}
    assert gender_accuracy(truth, []) == {"accuracy": None, "balanced": None}
    assert mesh_nme(truth, []) == {"NME": None, "NME3D": None}


def test_labels_with_another_number_of_points_are_not_compared():
    box = [100, 100, 64, 64]
    truth = truth_of(
        [face_of(landmarks=[[110, 110]] * 5, points_4=[[100, 100]] * 4, mesh=[[0, 0, 0]])]
    )
    four, six = (found(1, box, 0.9, landmarks=[[100, 104]] * count) for count in (4, 6))
    assert landmark_nme(truth, [four])["NME"] == pytest.approx(4 / 64)
    assert landmark_nme(truth, [six]) == {"NME": None, "failures": None, "matched": None}
    assert mesh_nme(truth, [found(1, box, 0.9, mesh=[[0, 0, 0]] * 2)])["NME"] is None


def test_balanced_gender_accuracy_does_not_reward_guessing_the_frequent_one():
    truth = truth_of([face_of(gender=1)], [face_of(gender=1)], [face_of(gender=0)])
    always_one = [found(i, [100, 100, 64, 64], 0.9, gender=0.9) for i in (1, 2, 3)]
    scores = gender_accuracy(truth, always_one)
    assert scores == {"accuracy": pytest.approx(2 / 3), "balanced": pytest.approx(0.5)}


def test_mesh_error_ignores_where_depth_begins_but_not_its_shape():
    mesh = np.array([[110.0, 110, 0], [120, 110, 8], [130, 120, -8]])
    truth = truth_of([face_of(mesh=mesh.tolist())])
    pushed = np.add(mesh, [0, 0, 50]).tolist()
    flat = (mesh * [1, 1, 0]).tolist()
    box = [100, 100, 64, 64]
    assert mesh_nme(truth, [found(1, box, 0.9, mesh=pushed)]) == {
        "NME": 0,
        "NME3D": pytest.approx(0, abs=1e-12),
    }
    scores = mesh_nme(truth, [found(1, box, 0.9, mesh=flat)])
    assert scores == {"NME": 0, "NME3D": pytest.approx(16 / 3 / 64)}
