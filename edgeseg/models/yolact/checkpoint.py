"""Parameter names of the original's checkpoints (dbolya/yolact)."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable

RESNET_BACKBONE = (
    ("backbone.conv1.{p}", "backbone.stem.conv.{p}"),
    ("backbone.bn1.{p}", "backbone.stem.norm.{p}"),
    ("backbone.layers.{s}.{n}.conv{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.conv.{p}"),
    (
        "backbone.layers.{s}.{n}.conv2.conv_offset_mask.{p}",
        "backbone.stages.{s}.{n}.conv2.conv.conv_offset_mask.{p}",
    ),
    ("backbone.layers.{s}.{n}.bn{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.norm.{p}"),
    ("backbone.layers.{s}.{n}.downsample.0.{p}", "backbone.stages.{s}.{n}.shortcut.conv.{p}"),
    ("backbone.layers.{s}.{n}.downsample.1.{p}", "backbone.stages.{s}.{n}.shortcut.norm.{p}"),
)

_DARKNET = (
    ("backbone._preconv.0.{p}", "backbone.stem.conv.{p}"),
    ("backbone._preconv.1.{p}", "backbone.stem.norm.{p}"),
    ("backbone.layers.{s}.{n}.0.{p}", "backbone.stages.{s}.{n}.conv.{p}"),
    ("backbone.layers.{s}.{n}.1.{p}", "backbone.stages.{s}.{n}.norm.{p}"),
    ("backbone.layers.{s}.{n}.conv{k}.0.{p}", "backbone.stages.{s}.{n}.conv{k}.conv.{p}"),
    ("backbone.layers.{s}.{n}.conv{k}.1.{p}", "backbone.stages.{s}.{n}.conv{k}.norm.{p}"),
)

# The original's lists of the pyramid run from coarse to fine, ours from fine to coarse.
NECK_AND_HEADS = (
    *(
        rule
        for level in range(3)
        for rule in (
            (f"fpn.lat_layers.{2 - level}.{{p}}", f"fpn.lateral.{level}.conv.{{p}}"),
            (f"fpn.pred_layers.{2 - level}.{{p}}", f"fpn.output.{level}.conv.{{p}}"),
        )
    ),
    ("fpn.downsample_layers.{i}.{p}", "fpn.downsample.{i}.conv.{p}"),
    ("proto_net.8.{p}", "prototypes.refine.conv.{p}"),
    ("proto_net.10.{p}", "prototypes.output.conv.{p}"),
    ("proto_net.{i*2}.{p}", "prototypes.convs.{i}.conv.{p}"),
    ("prediction_layers.0.upfeature.0.{p}", "head.hidden.conv.{p}"),
    ("prediction_layers.0.bbox_layer.{p}", "head.boxes.{p}"),
    ("prediction_layers.0.conf_layer.{p}", "head.classes.{p}"),
    ("prediction_layers.0.mask_layer.{p}", "head.coefficients.{p}"),
    ("maskiou_net.maskiou_net.{i*2}.{p}", "mask_scorer.convs.{i}.{p}"),
)

IGNORED = (
    r"^semantic_seg_conv\.",  # only training uses it
    # What the original's loader drops of old files (yolact.py, load_weights).
    r"^backbone\.layer(?!s\.)",
    r"^fpn\.downsample_layers\.([2-9]|\d\d+)\.",
)

RESNET = KeyTable((*RESNET_BACKBONE, *NECK_AND_HEADS), ignored=IGNORED)
DARKNET = KeyTable((*_DARKNET, *NECK_AND_HEADS), ignored=IGNORED)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
