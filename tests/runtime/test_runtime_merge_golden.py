"""Mask removal and the making of segments give what UPSNet and VPSNet put out."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg_runtime.tasks.merge import remove_masks, settle_segments

FOLDER = Path(__file__).parents[1] / "golden" / "panoptic_merge"
CASES = json.loads((FOLDER / "case.json").read_text(encoding="utf-8"))
VOID = UNKNOWN = 255
FRAMES = ["upsnet", "vpsnet_f0", "vpsnet_f1", "vpsnet_f2"]


@pytest.fixture(scope="module")
def arrays():
    with np.load(FOLDER / "outputs.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize(
    ("system", "names"),
    [
        ("upsnet", ("pan_mask_logits", "pan_pre_boxes", "pan_pre_labels", "pan_keep")),
        ("vpsnet", ("f1_mask_logits", "f1_det_boxes", "f1_det_labels", "f1_keep")),
    ],
)
def test_the_same_candidates_are_kept(arrays, system, names):
    case = CASES[system]
    logits, boxes, labels, kept = (arrays[f"{system}_{name}"] for name in names)
    found = remove_masks(
        logits, boxes[:, 1:], labels, tuple(case["network_size"]), overlap=case["overlap"]
    )
    assert list(found) == kept.tolist()
    assert len(found) < len(boxes)


@pytest.mark.parametrize("frame", FRAMES)
def test_the_same_segments_are_made(arrays, frame):
    """Class of each pixel, and which pixels are one thing; the originals number things in their order."""
    case = CASES[frame.partition("_")[0]]
    num_stuff = case["num_stuff"]
    if frame == "upsnet":
        names = ("final_pano", "final_sseg", "final_pan_sem", "final_pan_ins")
        labels = arrays["upsnet_final_pano_labels"]
    else:
        names = ("pano", "sseg", "pan_sem", "pan_ins")
        labels = arrays[f"{frame}_det_labels"][arrays[f"{frame}_keep"]]
    channels, semantic, classes, instances = (
        arrays[f"{frame}_{name}"].astype(np.int32) for name in names
    )
    channels = np.where(channels == UNKNOWN, num_stuff + len(labels), channels)
    found = settle_segments(
        channels,
        semantic,
        [num_stuff - 1 + int(label) for label in labels],
        num_stuff=num_stuff,
        stuff_area=case["stuff_area"],
    )
    table = np.array([VOID, *found.labels])
    np.testing.assert_array_equal(table[found.ids], classes)
    is_thing = np.array([False, *(number >= 0 for number in found.instances)])
    np.testing.assert_array_equal(is_thing[found.ids], instances > 0)
    pairs = np.unique(np.stack([found.ids, instances])[:, instances > 0], axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1] > 2
    assert (np.diff(pairs[1][np.argsort(pairs[0])]) > 0).all()
