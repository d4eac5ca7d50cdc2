"""The comparison of an exported graph with its model: rows find their counterparts, what is in them counts."""

import numpy as np
import pytest
import torch
from constant_bundle import constant_graph
from fake_model import task_manifest

from edgeseg.models.reference import Candidates, ReferenceModel
from edgeseg_export.onnx_model import model_from_proto
from edgeseg_export.parity import measure_parity

ROWS = {
    "boxes": (6, 4),
    "scores": (6,),
    "labels": (6,),
    "keypoints": (6, 4, 3),
    "landmarks": (6, 5, 2),
    "gender": (6,),
    "mesh": (6, 7, 3),
    "mask_scores": (6,),
}
ORDER = [2, 0, 1, 4, 3, 5]  # row 5 is empty
PICTURES = [np.zeros((30, 40, 3), np.uint8)]


class ReferenceOfArrays(ReferenceModel):
    """A model whose only stages are its outputs, which are given."""

    def __init__(self, arrays, score_threshold, candidates):
        super().__init__()
        self.arrays = arrays
        self.score_threshold = score_threshold
        self.chosen_from = candidates

    def candidates(self, stages):
        return self.chosen_from

    def stages(self, image):
        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}


def rows():
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(1, 60, (1, *shape)) for name, shape in ROWS.items()}
    values["scores"] = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.0]])
    result = {name: value.astype(np.float32) for name, value in values.items()}
    return {**result, "labels": np.ones((1, 6), np.int32)}


def points(task):
    rng = np.random.default_rng(0)
    shapes = {
        "keypoints": {"keypoints": (16, 3)},
        "landmarks": {"points": (68, 2), "scores": (68,)},
    }[task]
    return {k: rng.uniform(1, 60, (1, *s)).astype(np.float32) for k, s in shapes.items()}


def compare(task, reference, candidate, *, score_threshold=0.0, candidates=None):
    shapes = {name: array.shape[1:] for name, array in reference.items()}
    rounding = {"resize": "stretch", "rounding": "floor"}
    return measure_parity(
        ReferenceOfArrays(reference, score_threshold, candidates),
        {"main": model_from_proto(constant_graph(candidate))},
        {"main": model_from_proto(constant_graph(candidate))},
        task_manifest(task, shapes, preprocess=rounding),
        PICTURES,
        data="grey",
        tolerance=1e-3,
    )


def test_rows_in_another_order_are_the_same_rows():
    reference = rows()
    candidate = {name: array[:, ORDER] for name, array in reference.items()}
    parity = compare("instances", reference, candidate)
    assert parity.is_within_tolerance
    assert parity.max_abs == dict.fromkeys(ROWS, 0.0)
    assert (parity.num_detections, parity.num_unmatched) == (5, 0)


@pytest.mark.parametrize("name", ["keypoints", "landmarks", "gender", "mesh", "mask_scores"])
def test_whatever_belongs_to_a_row_is_compared(name):
    reference = rows()
    candidate = {key: array[:, ORDER].copy() for key, array in reference.items()}
    candidate[name][0, 1:3] += 1.0  # rows 0 and 1 of the reference
    parity = compare("instances", reference, candidate)
    assert parity.first_stage_outside == name
    assert parity.max_abs[name] == pytest.approx(1.0, rel=1e-5)
    assert parity.num_unmatched == 0
    candidate = {key: array.copy() for key, array in reference.items()}
    candidate[name][0, 5] = 7e6  # an empty row
    assert compare("instances", reference, candidate).is_within_tolerance


def test_a_row_without_counterpart_is_counted_whatever_else_it_has():
    reference = rows()
    candidate = {key: array.copy() for key, array in reference.items()}
    candidate["boxes"][0, 1] += 30.0
    parity = compare("instances", reference, candidate)
    assert parity.num_unmatched == 2
    assert not parity.is_within_tolerance


@pytest.mark.parametrize("kept", [(), (0,), (0, 1, 2, 3)], ids=["none", "best", "all but one"])
def test_lost_detections_are_counted(kept):
    reference = rows()
    candidate = {name: np.zeros_like(array) for name, array in reference.items()}
    for name, array in reference.items():
        candidate[name][0, : len(kept)] = array[0, kept]
    assert compare("instances", reference, candidate).num_unmatched == 5 - len(kept)
    assert compare("instances", candidate, reference).num_unmatched == 5 - len(kept)


def test_copies_of_one_detection_are_not_the_counterparts_of_several():
    reference = rows()
    candidate = {name: array[:, [0, 0, 0, 0, 0, 5]] for name, array in reference.items()}
    assert compare("instances", reference, candidate).num_unmatched == 4 + 4


def test_a_detection_at_the_threshold_may_be_missing():
    reference = rows()
    candidate = {name: array.copy() for name, array in reference.items()}
    candidate["scores"][0, 4] = 0.0
    for threshold, num_unmatched in ((0.4995, 0), (0.3, 1)):
        parity = compare("instances", reference, candidate, score_threshold=threshold)
        assert parity.num_unmatched == num_unmatched


def test_the_worst_of_a_full_list_may_be_another_one():
    reference = {name: array[:, :5] for name, array in rows().items()}
    candidate = {name: array.copy() for name, array in reference.items()}
    candidate["boxes"][0, 4] += 200.0
    assert compare("instances", reference, candidate).num_unmatched == 0
    candidate["boxes"][0, 3] += 200.0
    assert compare("instances", reference, candidate).num_unmatched == 2


def test_the_other_box_of_a_tie_is_no_difference():
    reference, candidate = rows(), rows()
    box = reference["boxes"][0, 3]
    box[2:] = box[:2] + 20
    other = candidate["boxes"][0, 3] = box + np.float32([2, 0, 2, 0])
    tied = Candidates(
        boxes=torch.from_numpy(np.stack([box, other])),
        scores=torch.full((2,), 0.6),
        labels=torch.ones(2),
        score_threshold=0.0,
        iou_threshold=0.5,
    )
    assert compare("instances", reference, candidate).num_unmatched == 2
    parity = compare("instances", reference, candidate, candidates=tied)
    assert parity.is_within_tolerance
    assert (parity.num_detections, parity.num_unmatched) == (5, 0)


@pytest.mark.parametrize("task", ["keypoints", "landmarks"])
def test_a_task_without_rows_is_compared_point_by_point(task):
    reference = points(task)
    parity = compare(task, reference, reference)
    assert parity.is_within_tolerance
    assert list(parity.max_abs) == list(reference)
    assert (parity.num_detections, parity.num_unmatched) == (0, 0)
    name = next(iter(reference))
    candidate = {key: array.copy() for key, array in reference.items()}
    candidate[name][0, :4] += 1.0
    assert compare(task, reference, candidate).first_stage_outside == name
