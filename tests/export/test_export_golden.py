"""The recorded results of the originals, through an exported bundle in ONNX Runtime."""

import numpy as np
import pytest
from golden import load_case, match_detections

import edgeseg
import edgeseg_runtime

REPEATS = pytest.mark.exhaustive
"""The original's results in torch are compared in tests/models, the way through a bundle with quicker models."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "case", "name"),
    [pytest.param("maskrcnn_torchvision", "dev", "maskrcnn_resnet50_fpn", marks=REPEATS),
     pytest.param("maskrcnn_torchvision", "dev_keypoint", "keypointrcnn_resnet50_fpn", marks=REPEATS),
     pytest.param("maskrcnn_detectron2", "dev", "maskrcnn_resnet50_fpn_3x", marks=REPEATS)],
)  # fmt: skip
def test_a_bundle_gives_the_original_s_results(tmp_path, system, case, name):
    golden = load_case(system, case)
    model = edgeseg.create_model(name, weights=golden.weights(), image_size=golden.input_size)
    bundle = edgeseg.export_bundle(model, tmp_path / name, images=[golden.image])
    del model
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        result = predictor(golden.image)
    rows = match_detections(result, golden, box_px=0.01, score=1e-4)
    if result.has_masks:
        different = result.masks[rows] != golden.masks()
        assert different.sum() <= 50, f"{different.sum()} of {different.size} pixels"
    else:
        found = result.keypoints[rows]
        np.testing.assert_allclose(found[..., :2], golden.arrays["keypoints"][..., :2], atol=0.01)


@pytest.mark.slow
@REPEATS
def test_a_bundle_gives_the_original_s_segments(tmp_path):
    golden = load_case("maskrcnn_detectron2", "dev_panoptic")
    name = "panoptic_fpn_resnet50_3x"
    model = edgeseg.create_model(name, weights=golden.weights(), image_size=golden.input_size)
    bundle = edgeseg.export_bundle(model, tmp_path / name, images=[golden.image], variants=False)
    del model
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        result = predictor(golden.image)
    np.testing.assert_array_equal(result.segment_ids, golden.arrays["segments_info"][:, 0])
    different = result.ids != golden.arrays["panoptic_seg"]
    assert different.sum() <= 10, f"{different.sum()} of {different.size} pixels"
