"""What engines and layers cannot exceed, and so no configuration may ask for; imports no torch."""

from __future__ import annotations

MAX_TOP_K = 3840
"""TensorRT sorts no more."""

SCORER_CHANNELS = (1, 8, 16, 32, 64, 128)
SCORER_MIN_SIZE = 2 ** len(SCORER_CHANNELS) - 1
"""Side of the smallest mask of which the unpadded convolutions of a `MaskScorer` leave a pixel."""
