"""Panoptic FPN against what detectron2 put out for the same weights; its other stages are Mask R-CNN's."""

import numpy as np
import pytest
import torch
from golden import load_case
from torch.nn import functional as F

import edgeseg
from edgeseg.models import model_manifest

SYSTEM, CASE = "maskrcnn_detectron2", "dev_panoptic"


@pytest.fixture(scope="module")
def found(golden_model):
    """Return the case, the stages of the model, and the result of the picture."""
    golden, model = golden_model(SYSTEM, CASE)
    predictor = edgeseg.torch_predictor(model)
    inputs, geometry = predictor.task.preprocess(golden.image)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        stages = {name: tensor.numpy() for name, tensor in model.stages(**tensors).items()}
    result = predictor.task.postprocess(stages, geometry)
    return golden, stages, result


def test_semantic_logits_are_the_original_s(found):
    golden, stages, _ = found
    large = F.interpolate(
        torch.from_numpy(stages["semantic_logits"]),
        scale_factor=4,
        mode="bilinear",
        align_corners=False,
    )
    assert golden.relative_error("sem_seg_head", large.numpy()) < 2e-5


def test_detections_are_the_original_s(found):
    golden, stages, _ = found
    np.testing.assert_allclose(stages["boxes"][0], golden.arrays["raw_boxes"], atol=3e-3)
    np.testing.assert_allclose(stages["scores"][0], golden.arrays["raw_scores"], atol=2e-5)
    np.testing.assert_array_equal(stages["labels"][0], golden.arrays["raw_classes"])


def test_segments_are_the_original_s(found):
    """A float64 run of the original has the same map; single pixels are left to roundings."""
    golden, _, result = found
    rows = golden.arrays["segments_info"]
    assert len(result) == len(rows)
    things = rows[:, 1] == 1
    np.testing.assert_array_equal(result.segment_ids, rows[:, 0])
    np.testing.assert_array_equal(result.is_thing, things)
    expected_labels = np.where(things, rows[:, 2], rows[:, 2] + 79)
    np.testing.assert_array_equal(result.labels, expected_labels)
    np.testing.assert_allclose(result.scores[things], rows[things, 3], atol=2e-5)
    np.testing.assert_allclose(result.areas[~things], rows[~things, 5], atol=5)
    different = result.ids != golden.arrays["panoptic_seg"]
    assert different.sum() <= 10, f"{different.sum()} of {different.size} pixels"


def test_the_semantic_map_is_the_original_s(golden_model, found):
    golden, stages, _ = found
    from edgeseg_runtime.picture.geometry import geometry_of
    from edgeseg_runtime.tasks.merge import labels_from_logits

    _, model = golden_model(SYSTEM, CASE)
    preprocess = model_manifest(model).preprocess
    geometry = geometry_of(golden.image.shape[:2], preprocess)
    labels = labels_from_logits(stages["semantic_logits"][0], geometry)
    assert (labels != golden.arrays["sem_seg_argmax"]).sum() <= 5


def test_labels_are_those_of_coco_s_panoptic_task():
    with torch.device("meta"):
        spec = edgeseg.models.get_spec("panoptic_fpn_resnet50_3x")
    config = spec.preset
    assert (len(config.labels), len(config.stuff_labels)) == (80, 53)
    assert config.stuff_category_ids[0] == 92
    assert config.stuff_category_ids[-1] == 200
    assert config.stuff_labels[20] == "road"


def test_stuff_of_one_s_own_has_categories_behind_the_things():
    options = {"num_classes": 2, "labels": ("cat", "dog"), "stuff_labels": ("sky", "ground")}
    model = edgeseg.create_model("maskrcnn_tiny", background_first=False, **options)
    assert model.semantic_head.predictor.out_channels == 3
    manifest = model_manifest(model)
    assert manifest.labels == ("cat", "dog", "sky", "ground")
    assert len(set(manifest.category_ids)) == 4
    given = edgeseg.create_model(
        "maskrcnn_tiny", background_first=False, **options, stuff_category_ids=(92, 93)
    )
    assert model_manifest(given).category_ids[2:] == (92, 93)


def test_the_original_s_score_itself_is_kept():
    """The threshold of a manifest is exclusive, the original's is not."""
    golden = load_case(SYSTEM, CASE)
    model = edgeseg.create_model("panoptic_fpn_resnet50_3x", image_size=golden.input_size)
    threshold = model_manifest(model).postprocess["score_threshold"]
    assert np.float32(threshold) < np.float32(0.5)
    assert not np.nextafter(np.float32(threshold), np.float32(1)) < np.float32(0.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stuff_category_ids": (1, 2)}, "stuff_category_ids with 2 entries found"),
        ({"overlap_threshold": 1.5}, "overlap_threshold 1.5 found, expected 0 to 1"),
        ({"panoptic_score_thresh": -1.0}, "panoptic_score_thresh -1.0 found"),
        ({"stuff_area": -1}, "stuff_area -1 found"),
        ({"semantic_channels": 100}, "semantic_channels 100 found, expected a multiple of 32"),
    ],
)
def test_options_that_cannot_work_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("panoptic_fpn_resnet50_3x", **option)


def test_keypoints_and_stuff_do_not_go_together():
    with pytest.raises(ValueError, match="stuff_labels found together with key points"):
        edgeseg.create_model("keypointrcnn_resnet50_fpn", stuff_labels=("sky",))
