"""The golden clip of VPSNet: its pictures, and each frame's arrays under the names of a single one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from golden import fill, load_case

CASE = "dev"

SMALL = {
    "backbone": "small",
    "backbone_channels": (8, 8, 8, 16),
    "fpn_channels": 16,
    "flow_net": "small",
    "flow_widths": (8, 8, 16),
    "correction_widths": (8, 8, 8),
    "semantic_channels": (32, 32, 32),
    "rpn_pre_nms_top_n": 60,
    "rpn_post_nms_top_n": 40,
    "box_fc_channels": 16,
    "embedding_channels": 16,
    "mask_num_convs": 1,
    "mask_channels": 16,
    "max_detections": 10,
    "image_size": (64, 128),
}
"""Options of a model of a few channels."""


def load_clip():
    """Return the pictures (BGR) of the frames and a case for each; the weights of each are the clip's."""
    clip = load_case("vpsnet", CASE)
    settings = clip.description["image"]
    corners = np.array(settings["frames"])
    height, width = settings["height"], settings["width"]
    down, right = corners.max(axis=0)
    whole = fill.sample_image(settings["seed"], height + int(down), width + int(right))
    pictures, cases = [], []
    for number, (y, x) in enumerate(corners):
        pictures.append(np.ascontiguousarray(whole[y : y + height, x : x + width, ::-1]))
        prefix = f"f{number}_"
        outputs = _of_frame(clip.description["outputs"], prefix)
        cases.append(
            replace(
                clip,
                arrays=_of_frame(clip.arrays, prefix),
                description=clip.description | {"outputs": outputs},
            )
        )
    return pictures, cases


def _of_frame(mapping, prefix):
    return {
        key.removeprefix(prefix): value for key, value in mapping.items() if key.startswith(prefix)
    }
