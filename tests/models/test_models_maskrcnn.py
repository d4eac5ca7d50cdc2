"""Mask R-CNN against the recorded results of torchvision and detectron2, stage by stage."""

import numpy as np
import pytest
import torch
from golden import load_case, match_detections
from torch.nn import functional as F

import edgeseg
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.maskrcnn.config import CHOICES
from edgeseg.models.maskrcnn.spec import SPECS, key_table
from edgeseg.ops.pyramid_roi_align import LEVEL_RULES

# Between the noise of float32 (a float64 run of the originals: 5e-6) and the smallest mistake that
# was tried (another eps in the frozen norms: 5.5e-5 in the scores).
TOLERANCE = 2e-5

TORCHVISION_TAPS = {
    **{f"c{level}": f"c{level}" for level in range(2, 6)},
    **{f"fpn_{level}": f"p{level + 2}" for level in range(4)},
    "fpn_pool": "p6",
    **{f"rpn_logits_{level}": f"rpn_logits_p{level + 2}" for level in range(5)},
    **{f"rpn_deltas_{level}": f"rpn_deltas_p{level + 2}" for level in range(5)},
}
DETECTRON2_TAPS = {
    **{f"res{level}": f"c{level}" for level in range(2, 6)},
    **{f"fpn_p{level}": f"p{level}" for level in range(2, 7)},
    **{f"rpn_logits_{level}": f"rpn_logits_p{level + 2}" for level in range(5)},
    **{f"rpn_deltas_{level}": f"rpn_deltas_p{level + 2}" for level in range(5)},
}
ROI_TAPS = {
    "proposals": "proposals",
    "box_roi_features": "box_features",
    "class_logits": "class_logits",
    "box_regression": "box_deltas",
}
MASK_TAPS = {"mask_roi_features": "mask_features", "mask_logits": "mask_logits"}
KEYPOINT_TAPS = {
    "keypoint_roi_features": "keypoint_features",
    "keypoint_logits": "keypoint_heatmaps",
}

CASES = [
    pytest.param(
        "maskrcnn_torchvision",
        "dev",
        {**TORCHVISION_TAPS, **ROI_TAPS, **MASK_TAPS},
        {"det_boxes_resized": "boxes", "scores": "scores", "labels": "labels"},
        id="torchvision",
    ),
    pytest.param(
        "maskrcnn_torchvision",
        "dev_keypoint",
        {**TORCHVISION_TAPS, **ROI_TAPS, **KEYPOINT_TAPS},
        {"det_boxes_resized": "boxes", "scores": "scores", "labels": "labels"},
        id="torchvision-keypoints",
    ),
    pytest.param(
        "maskrcnn_detectron2",
        "dev",
        {**DETECTRON2_TAPS, **ROI_TAPS, **MASK_TAPS},
        {"raw_boxes": "boxes", "raw_scores": "scores", "raw_classes": "labels"},
        id="detectron2",
    ),
]


class _GivenInput(torch.nn.Module):
    """Stands in for the normalisation: the network gets exactly what the original's got."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self, *_):
        return self.tensor


def _torchvision_input(golden, model):
    """Normalise, then resize in floating point, then pad: torchvision's order."""
    height, width = (int(side) for side in golden.arrays["resized_size"][0])
    rgb = torch.from_numpy(golden.image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    normalized = (rgb - model.normalize.mean / 255) / (model.normalize.std / 255)
    resized = F.interpolate(normalized, (height, width), mode="bilinear", align_corners=False)
    padding = (0, golden.input_size[1] - width, 0, golden.input_size[0] - height)
    return F.pad(resized, padding)


@pytest.fixture(scope="module")
def stages(golden_model):
    """(system, case) -> the case and every stage of the model on the original's input."""
    cache = {}

    def run(system, case):
        if (system, case) not in cache:
            golden, model = golden_model(system, case)
            inputs, _ = edgeseg.torch_predictor(model).task.preprocess(golden.image)
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            normalize = model.normalize
            if "torchvision" in system:
                model.normalize = _GivenInput(_torchvision_input(golden, model))
            with torch.inference_mode():
                found = model.stages(**tensors)
            model.normalize = normalize
            cache[system, case] = golden, {name: x[0].numpy() for name, x in found.items()}
        return cache[system, case]

    return run


@pytest.mark.parametrize(("system", "case", "taps", "results"), CASES)
def test_every_stage_is_the_original_s(stages, system, case, taps, results):
    golden, found = stages(system, case)
    num_detections = len(golden.arrays[next(iter(results))])
    errors = {"input": golden.relative_error("input", found["input"][None])}
    order = _proposal_order(golden.arrays["proposals"], found["proposals"])
    for name, stage in taps.items():
        array = found[stage]
        if name in ROI_TAPS:
            array = array[order]
        elif name in MASK_TAPS or name in KEYPOINT_TAPS:
            array = array[:num_detections]
        else:
            array = array[None]
        errors[name] = golden.relative_error(name, array)
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def _proposal_order(expected, found):
    """Return the row of each expected proposal; nearly equal scores may swap with the threads."""
    distances = np.abs(expected[:, None] - found[None]).max(axis=-1)
    order = distances.argmin(axis=1)
    assert sorted(order) == list(range(len(expected)))
    assert np.abs(order - np.arange(len(order))).max() <= 2
    return order


@pytest.mark.parametrize(("system", "case", "taps", "results"), CASES)
def test_detections_in_the_network_s_frame_are_the_original_s(stages, system, case, taps, results):
    golden, found = stages(system, case)
    boxes, scores, labels = results
    num_detections = len(golden.arrays[boxes])
    np.testing.assert_allclose(found["boxes"][:num_detections], golden.arrays[boxes], atol=3e-3)
    np.testing.assert_allclose(found["scores"][:num_detections], golden.arrays[scores], atol=2e-5)
    np.testing.assert_array_equal(found["labels"][:num_detections], golden.arrays[labels])
    assert (found["scores"][num_detections:] == 0).all()
    assert (found["boxes"][num_detections:] == 0).all()


@pytest.mark.parametrize("system", ["maskrcnn_torchvision", "maskrcnn_detectron2"])
def test_instances_of_the_picture_are_the_original_s(golden_model, system):
    golden, model = golden_model(system, "dev")
    result = edgeseg.torch_predictor(model)(golden.image)
    rows = match_detections(result, golden, box_px=0.01, score=1e-4)
    different = result.masks[rows] != golden.masks()
    assert different.sum() <= 50, f"{different.sum()} of {different.size} pixels"


def test_keypoints_of_the_picture_are_the_original_s(golden_model):
    golden, model = golden_model("maskrcnn_torchvision", "dev_keypoint")
    result = edgeseg.torch_predictor(model)(golden.image)
    rows = match_detections(result, golden, box_px=0.01, score=1e-4)
    found = result.keypoints[rows]
    np.testing.assert_allclose(found[..., :2], golden.arrays["keypoints"][..., :2], atol=0.01)
    np.testing.assert_allclose(found[..., 2], golden.arrays["keypoints_scores"], atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn",
     "maskrcnn_resnet50_fpn_3x", "maskrcnn_resnet101_fpn_3x", "panoptic_fpn_resnet50_3x"],
)  # fmt: skip
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    with torch.device("meta"):
        model = _meta_model(name)
    table = key_table(name)
    for ours in model.state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


@pytest.mark.parametrize(
    ("system", "case", "name"),
    [("maskrcnn_torchvision", "dev", "maskrcnn_resnet50_fpn"),
     ("maskrcnn_torchvision", "dev_keypoint", "keypointrcnn_resnet50_fpn"),
     ("maskrcnn_detectron2", "dev", "maskrcnn_resnet50_fpn_3x"),
     ("maskrcnn_detectron2", "dev_panoptic", "panoptic_fpn_resnet50_3x")],
)  # fmt: skip
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(system, case, name):
    with torch.device("meta"):
        model = _meta_model(name)
    ours = {
        key_table(name).original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert ours == {key: shape for key, shape, _ in load_case(system, case).state}


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted_as_the_original_counts(name):
    """Frozen norms have buffers, not parameters, in the originals."""
    with torch.device("meta"):
        model = _meta_model(name)
    is_frozen = name.endswith(("_3x", "_fpn"))
    frozen = {
        id(parameter)
        for module_name, module in model.backbone.named_modules()
        for parameter in module.parameters(recurse=False)
        if is_frozen and isinstance(module, torch.nn.BatchNorm2d)
    }
    count = sum(p.numel() for p in model.parameters() if id(p) not in frozen)
    assert count == get_spec(name).num_parameters


def _meta_model(name):
    """The modules without memory or arithmetic; the anchors are computed on the CPU."""
    from dataclasses import replace

    from edgeseg.models.maskrcnn.config import PRESETS
    from edgeseg.models.maskrcnn.model import MaskRCNN

    return MaskRCNN(name, replace(PRESETS[name], image_size=(64, 64)))


def test_a_picture_of_another_size_is_refused():
    model = edgeseg.create_model("maskrcnn_tiny", image_size=64)
    image = torch.zeros(1, 32, 64, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"\(1, 32, 64, 3\) found, expected \(B, 64, 64, 3\)"):
        model(image, torch.tensor([[32, 64]], dtype=torch.int32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (100, 64)}, "image_size 100x64 found, .* use 128x64"),
        ({"image_size": 64, "nms": 0.3}, "options nms found"),
        ({"num_classes": 1}, "num_classes 1 found, expected at least 2"),
        ({"num_classes": 7, "labels": ("a", "b")}, "labels with 2 entries found"),
        ({"min_size": 0}, "min_size 0"),
        ({"num_keypoints": -1}, r"num_keypoints -1 found, expected 0 \(a mask branch\) or more"),
        (
            {"interpolation": "x"},
            "interpolation 'x' found, expected one of linear, pillow_bilinear",
        ),
        ({"rounding": "up"}, "rounding 'up' found, expected one of floor, half_up"),
        ({"channel_order": "gbr"}, "channel_order 'gbr' found, expected one of rgb, bgr"),
        ({"roi_level_rule": "x"}, "roi_level_rule 'x' found, expected one of torchvision, detect"),
        ({"mask_paste": "no"}, "mask_paste 'no' found, expected one of expanded_box, grid_sample"),
        (
            {"anchor_sizes": (8, 16)},
            r"anchor_sizes \(8, 16\) found, expected 5 positive .* P2 to P6",
        ),
        ({"anchor_sizes": (0, 8, 9, 9, 9)}, "anchor_sizes .* found, expected 5 positive sizes"),
        ({"anchor_ratios": ()}, r"anchor_ratios \(\) found, expected positive numbers"),
        ({"box_score_thresh": 2}, "box_score_thresh 2 found, expected 0 to 1"),
        ({"rpn_nms_thresh": -0.1}, "rpn_nms_thresh -0.1 found, expected 0 to 1"),
        ({"rpn_pre_nms_top_n": 5000}, "rpn_pre_nms_top_n 5000 found, expected 1 to 3840: TensorRT"),
        ({"rpn_post_nms_top_n": 0}, "rpn_post_nms_top_n 0 found, expected 1 to 3840"),
        ({"box_candidates": 3841}, "box_candidates 3841 found, expected 1 to 3840: TensorRT sorts"),
        ({"box_detections_per_img": 0}, "box_detections_per_img 0 found, expected 1 to 3840"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("maskrcnn_tiny", **options)


def test_the_configuration_knows_the_rules_of_the_operator():
    assert CHOICES["roi_level_rule"] == LEVEL_RULES, "the operator's module imports torch"


def test_an_unknown_model_gets_the_closest_names():
    with pytest.raises(ValueError, match="maskrcnn_resnet50_fpn"):
        edgeseg.create_model("maskrcnn_resnet50")


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_no_detection_and_the_maximum_come_in_the_same_shapes(score):
    """The bias of the classifier decides: everything is background, or everything is a disc."""
    model = edgeseg.create_model("maskrcnn_tiny", image_size=64, box_detections_per_img=5)
    with torch.no_grad():
        model.box_predictor.cls_score.bias.fill_(-20)
        model.box_predictor.cls_score.bias[1 if score else 0] = 20
    image = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    size = torch.tensor([[64, 64], [40, 64]], dtype=torch.int32)
    with torch.inference_mode():
        for _ in range(2):
            results = model(image, size)
            assert results["boxes"].shape == (2, 5, 4)
            assert results["masks"].shape == (2, 5, 28, 28)
            assert bool((results["scores"] > 0).any()) == bool(score)
            assert (results["boxes"][1, :, 3] <= 40).all()


@pytest.mark.parametrize(
    ("name", "num_classes", "names"),
    [
        ("maskrcnn_resnet50_fpn", 2, ("__background__", "class_1")),
        ("maskrcnn_resnet50_fpn", 3, ("__background__", "class_1", "class_2")),
        ("maskrcnn_resnet50_fpn_3x", 2, ("class_1", "class_2")),
    ],
)
def test_unnamed_classes_are_numbered_as_the_original_counts(name, num_classes, names):
    with torch.device("meta"):
        model = edgeseg.create_model(name, num_classes=num_classes)
    assert model_manifest(model).labels == names
