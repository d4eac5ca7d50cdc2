"""edgeseg's own operators: exact in PyTorch, one node each in an exported graph."""

from __future__ import annotations

from edgeseg.ops.correlation import correlation
from edgeseg.ops.deform_conv2d import deform_conv2d
from edgeseg.ops.nms import nms
from edgeseg.ops.pyramid_atlas import pyramid_atlas
from edgeseg.ops.pyramid_roi_align import atlas_roi_align, pyramid_levels, pyramid_roi_align
from edgeseg.ops.warp import warp

__all__ = [
    "atlas_roi_align",
    "correlation",
    "deform_conv2d",
    "nms",
    "pyramid_atlas",
    "pyramid_levels",
    "pyramid_roi_align",
    "warp",
]
