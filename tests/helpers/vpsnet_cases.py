"""The golden clip of VPSNet: its pictures, and each frame's arrays under the names of a single one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from golden import fill, load_case

CASE = "dev"


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
