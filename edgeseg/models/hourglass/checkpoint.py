"""Parameter names of the checkpoints of princeton-vl/pytorch_stacked_hourglass."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable

MAX_DEPTH = 6

# The original nests an hourglass in the place `low2` of the next larger one; in the smallest, a
# residual block is there.
_RESIDUALS = (
    *((f"pre.{theirs}", f"stem.residuals.{ours}") for ours, theirs in enumerate((1, 3, 4))),
    *(
        (f"hgs.{{i}}.0{'.low2' * depth}.{theirs}", f"hourglasses.{{i}}{'.inner' * depth}.{ours}")
        for depth in range(MAX_DEPTH)
        for theirs, ours in (("up1", "skip"), ("low1", "entry"), ("low3", "exit"))
    ),
    *(
        (f"hgs.{{i}}.0{'.low2' * depth}", f"hourglasses.{{i}}{'.inner' * depth}")
        for depth in range(1, MAX_DEPTH + 1)
    ),
    ("features.{i}.0", "features.{i}.0"),
)
_RESIDUAL_PARTS = (
    ("bn{k}.{p}", "norm{k}.{p}"),
    ("conv{k}.conv.{p}", "conv{k}.{p}"),
    ("skip_layer.conv.{p}", "shortcut.{p}"),
)

ORIGINAL = KeyTable(
    (
        ("pre.0.conv.{p}", "stem.conv.conv.{p}"),
        ("pre.0.bn.{p}", "stem.conv.norm.{p}"),
        ("features.{i}.1.conv.{p}", "features.{i}.1.conv.{p}"),
        ("features.{i}.1.bn.{p}", "features.{i}.1.norm.{p}"),
        ("outs.{i}.conv.{p}", "heads.{i}.{p}"),
        ("merge_preds.{i}.conv.conv.{p}", "merge_heatmaps.{i}.{p}"),
        ("merge_features.{i}.conv.conv.{p}", "merge_features.{i}.{p}"),
        *(
            (f"{theirs}.{their_part}", f"{ours}.{our_part}")
            for theirs, ours in _RESIDUALS
            for their_part, our_part in _RESIDUAL_PARTS
        ),
    ),
    # Every residual of the original holds this layer; where the width stays, it is never called.
    ignored=(r"\.skip_layer\.conv\.",),
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
