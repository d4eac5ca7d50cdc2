"""edgeseg's own operators: exact in PyTorch, one node each in an exported graph."""

from __future__ import annotations

from edgeseg.ops.deform_conv2d import deform_conv2d
from edgeseg.ops.nms import nms
from edgeseg.ops.pyramid_roi_align import pyramid_levels, pyramid_roi_align

__all__ = ["deform_conv2d", "nms", "pyramid_levels", "pyramid_roi_align"]
