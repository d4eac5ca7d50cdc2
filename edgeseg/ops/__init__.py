"""edgeseg's own operators: exact in PyTorch, one node each in an exported graph."""

from edgeseg.ops.nms import nms
from edgeseg.ops.pyramid_roi_align import pyramid_levels, pyramid_roi_align

__all__ = ["nms", "pyramid_levels", "pyramid_roi_align"]
