"""Parameter names of Spotter's checkpoints."""

from __future__ import annotations

from edgeseg.models.key_table import KeyTable

OWN = KeyTable(())
"""There is no original: checkpoints carry the names of our modules."""
