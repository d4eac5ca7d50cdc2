"""What the engines cannot exceed, and so no configuration may ask for."""

from __future__ import annotations

MAX_TOP_K = 3840
"""TensorRT sorts no more."""
