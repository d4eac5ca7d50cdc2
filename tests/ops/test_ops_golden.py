"""The operators in PyTorch against the recorded results of torchvision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeseg.ops import nms, pyramid_levels, pyramid_roi_align

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
def test_one_level_agrees_with_torchvision(name, params, values):
    rois = values["in_rois"]
    stride = round(1 / params["spatial_scale"])
    pictures = rois[:, 0].long()
    pooled = pyramid_roi_align(
        [values["in_input"]],
        rois[None, :, 1:].expand(2, -1, -1),
        strides=[stride],
        output_size=tuple(params["output_size"]),
        sampling_ratio=params["sampling_ratio"],
        aligned=params["aligned"],
    )[pictures, torch.arange(len(rois))]
    torch.testing.assert_close(pooled, values["out_output"], rtol=0, atol=1e-6)


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
def test_pyramid_agrees_with_torchvision(name, params, values):
    features, rois, is_box = pyramid_inputs(values)
    pooled = pyramid_roi_align(
        features,
        rois,
        strides=[4, 8, 16, 32],
        output_size=params["output_size"],
        sampling_ratio=params["sampling_ratio"],
        aligned=params["aligned"],
        canonical_scale=params["canonical_scale"],
        canonical_level=params["canonical_level"],
    )
    torch.testing.assert_close(pooled[is_box], values["out_output"], rtol=0, atol=1e-6)


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
def test_nms_agrees_with_torchvision(name, params, values):
    boxes, scores, groups = values["in_boxes"], values["in_scores"], values.get("in_idxs")
    if name == "batched_negative_coordinates":
        # torchvision separates classes by shifting the boxes, which negative coordinates defeat; edgeseg does not.
        boxes = boxes + groups[:, None] * (boxes.max() + 1)
        groups = None
    indices, valid = nms(
        boxes[None],
        scores[None],
        None if groups is None else groups[None],
        iou_threshold=params["iou_threshold"],
        max_output=max(len(scores), 1),
    )
    assert indices[valid].tolist() == values["out_keep"].tolist()
