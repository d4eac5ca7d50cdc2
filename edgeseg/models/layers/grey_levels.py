"""Means and standard deviations that several families normalise pictures by; imports no torch."""

from __future__ import annotations

COCO_MEAN_BGR = (0.40789654 * 255, 0.44719302 * 255, 0.47026115 * 255)
COCO_STD_BGR = (0.28863828 * 255, 0.27408164 * 255, 0.27809835 * 255)
"""Grey levels of blue, green, red in the training and evaluation of CornerNet and both CenterNets."""
