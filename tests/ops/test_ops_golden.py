"""The operators, in PyTorch and as ONNX, against the recorded results of torchvision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeseg.ops import deform_conv2d, nms, pyramid_levels, pyramid_roi_align
from edgeseg.ops.nms import largest_kept_iou

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(system):
    folder = GOLDEN / system / "dev"
    arrays = np.load(folder / "outputs.npz")
    for name, case in json.loads((folder / "case.json").read_text())["cases"].items():
        prefix = f"{name}__"
        values = {
            key.removeprefix(prefix): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith(prefix)
        }
        yield pytest.param(name, case["params"], values, id=name)


ROI_CASES = list(cases("roi_align"))
SINGLE_CASES = [case for case in ROI_CASES if case.values[1]["op"] == "roi_align"]
PYRAMID_CASES = [case for case in ROI_CASES if case.values[1]["op"] == "MultiScaleRoIAlign"]


@pytest.mark.parametrize(("name", "params", "values"), SINGLE_CASES)
def test_one_level_agrees_with_torchvision(name, params, values, pool_onnx):
    rois = values["in_rois"]
    stride = round(1 / params["spatial_scale"])
    row = (rois[:, 0].long(), torch.arange(len(rois)))
    features, boxes = values["in_input"], rois[None, :, 1:].repeat(2, 1, 1)
    settings = {
        "strides": [stride],
        "output_size": tuple(params["output_size"]),
        "sampling_ratio": params["sampling_ratio"],
        "aligned": params["aligned"],
    }
    pooled = pyramid_roi_align([features], boxes, **settings)
    torch.testing.assert_close(pooled[row], values["out_output"], rtol=0, atol=1e-6)
    pooled = pool_onnx([features], boxes, **node_attributes(settings))
    torch.testing.assert_close(
        torch.from_numpy(pooled)[row], values["out_output"], rtol=0, atol=2e-5
    )


def node_attributes(settings):
    defaults = {"level_rule": "torchvision", "canonical_scale": 224.0, "canonical_level": 4}
    height_width = np.broadcast_to(settings["output_size"], 2).tolist()
    return {
        **defaults,
        **settings,
        "output_size": height_width,
        "sampling_ratio": max(settings["sampling_ratio"], 0),
        "aligned": int(settings["aligned"]),
    }


def pyramid_inputs(values):
    maps = PYRAMID_CASES[0].values[2]
    features = [maps[f"in_feat{level}"] for level in range(4)]
    count = max(len(values["in_boxes0"]), len(values["in_boxes1"]))
    rois = torch.zeros(2, count, 4)
    for picture in range(2):
        boxes = values[f"in_boxes{picture}"]
        rois[picture, : len(boxes)] = boxes
    is_box = torch.arange(count) < torch.tensor([[len(values[f"in_boxes{i}"])] for i in range(2)])
    return features, rois, is_box


@pytest.mark.parametrize(("name", "params", "values"), PYRAMID_CASES)
def test_pyramid_agrees_with_torchvision(name, params, values, pool_onnx):
    features, rois, is_box = pyramid_inputs(values)
    settings = {
        "strides": [4, 8, 16, 32],
        "output_size": params["output_size"],
        "sampling_ratio": params["sampling_ratio"],
        "aligned": params["aligned"],
        "canonical_scale": float(params["canonical_scale"]),
        "canonical_level": params["canonical_level"],
    }
    pooled = pyramid_roi_align(features, rois, **settings)
    torch.testing.assert_close(pooled[is_box], values["out_output"], rtol=0, atol=1e-6)
    pooled = pool_onnx(features, rois, **node_attributes(settings))
    torch.testing.assert_close(
        torch.from_numpy(pooled)[is_box], values["out_output"], rtol=0, atol=3e-5
    )


@pytest.mark.parametrize("rule", ["torchvision", "detectron2"])
@pytest.mark.parametrize(("name", "params", "values"), PYRAMID_CASES)
def test_levels_agree_with_the_original(name, params, values, rule):
    _, rois, is_box = pyramid_inputs(values)
    levels = pyramid_levels(
        rois[is_box],
        strides=[4, 8, 16, 32],
        level_rule=rule,
        canonical_scale=params["canonical_scale"],
        canonical_level=params["canonical_level"],
    )
    expected = values["out_level" if rule == "torchvision" else "out_level_detectron2_rule"]
    assert levels.tolist() == expected.tolist()


@pytest.mark.parametrize(("name", "params", "values"), list(cases("nms")))
def test_nms_agrees_with_torchvision(name, params, values, run_onnx):
    boxes, scores, groups = values["in_boxes"], values["in_scores"], values.get("in_idxs")
    if name == "batched_negative_coordinates":
        # torchvision separates classes by shifting the boxes, which negative coordinates defeat; edgeseg does not.
        boxes = boxes + groups[:, None] * (boxes.max() + 1)
        groups = None
    inputs = [boxes[None], scores[None], *([] if groups is None else [groups[None]])]
    settings = {"iou_threshold": params["iou_threshold"], "max_output": max(len(scores), 1)}
    indices, valid = nms(*inputs, **settings)
    assert indices[valid].tolist() == values["out_keep"].tolist()
    if len(scores):  # an exported graph has no empty axis
        settings["iou_threshold"] = largest_kept_iou(settings["iou_threshold"])
        indices, valid = run_onnx("Nms", inputs, score_threshold=-np.inf, **settings)
        assert indices[valid].tolist() == values["out_keep"].tolist()


@pytest.mark.parametrize(("name", "params", "values"), list(cases("deform_conv2d")))
def test_deform_conv2d_agrees_with_torchvision(name, params, values, run_onnx):
    pairs = {key: tuple(params[key]) for key in ("stride", "padding", "dilation")}
    names = ("input", "offset", "weight", "bias", "mask")
    x, offset, weight, bias, mask = inputs = [values.get(f"in_{key}") for key in names]
    result = deform_conv2d(x, offset, weight, bias, mask=mask, **pairs)
    torch.testing.assert_close(result, values["out_output"], rtol=0, atol=1e-5)
    groups = {key: params[key] for key in ("groups", "offset_groups")}
    (result,) = run_onnx("DeformConv2d", inputs, **pairs, **groups)
    torch.testing.assert_close(torch.from_numpy(result), values["out_output"], rtol=0, atol=1e-5)
