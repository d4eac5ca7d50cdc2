"""The golden cases of YOLACT and YolactEdge under the names that instances have."""

from dataclasses import replace

import numpy as np
from golden import fill, load_case

NAMES = {
    "dev": "yolact_resnet50",
    "dev_plus": "yolact_plus_resnet50",
    "dev_darknet53": "yolact_darknet53",
}
"""Case of YOLACT -> model."""

SUPPRESSIONS = {"fast": "det", "fast_cross_class": "cc", "traditional": "trad"}
"""Option ``nms`` -> prefix of its arrays."""

SMALL_VIDEO = {
    "backbone": "small",
    "backbone_channels": (4, 8, 8, 16),
    "fpn_channels": 16,
    "head_channels": 16,
    "proto_channels": 16,
    "flow_channels": 8,
    "flow_widths": (8, 8, 8),
    "num_classes": 4,
    "image_size": 96,
    "nms_top_k": 5,
    "max_num_detections": 5,
}
"""Options of a model of videos of a few channels."""


def load_instances(case, system="yolact"):
    """Return a case whose final boxes, scores, labels and masks have the names of other families."""
    return _with_results(load_case(system, case))


def load_clip(case):
    """Return the pictures and the cases of a clip's frames; of each case its weights are the clip's."""
    clip = load_case("yolact_edge", case)
    settings = clip.description["image"]
    frames = settings["frames"]
    size = np.array([settings["height"], settings["width"]])
    step = np.array([frames["dy"], frames["dx"]])
    first = np.array([frames["y0"], frames["x0"]])
    whole = _whole_picture(frames["picture"])
    pictures, cases = [], []
    for number in range(frames["count"]):
        top, left = first + number * step
        bottom, right = first + number * step + size
        pictures.append(np.ascontiguousarray(whole[top:bottom, left:right]))
        prefix = f"f{number}_"
        cases.append(
            _with_results(
                replace(
                    clip,
                    arrays=_of_frame(clip.arrays, prefix),
                    description=clip.description
                    | {"outputs": _of_frame(clip.description["outputs"], prefix)},
                )
            )
        )
    return pictures, cases


def _whole_picture(text):
    """The picture (BGR) that "big = fill.sample_image(seed, height, width)" describes."""
    numbers = text.partition("sample_image(")[2].rstrip(")").split(",")
    return fill.sample_image(*map(int, numbers))[..., ::-1]


def _of_frame(mapping, prefix):
    return {
        key.removeprefix(prefix): value for key, value in mapping.items() if key.startswith(prefix)
    }


def _with_results(golden):
    names = {
        "boxes": "final_box",
        "scores": "det_score",
        "labels": "det_class",
        "masks_bits": "final_mask_bits",
    }
    final = {name: golden.arrays[theirs] for name, theirs in names.items()}
    return replace(golden, arrays=golden.arrays | final)
