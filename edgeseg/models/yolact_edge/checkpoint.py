"""Parameter names of the original's checkpoints (haotian-liu/yolact_edge)."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable
from edgeseg.models.yolact import checkpoint as yolact

# The original's second list of blocks is our second stage, and so on: its first entry is the stem.
_MOBILENET = (
    ("backbone.layers.0.0.{p}", "backbone.stem.conv.{p}"),
    ("backbone.layers.0.1.{p}", "backbone.stem.norm.{p}"),
    ("backbone.layers.1.{n}.conv.0.0.{p}", "backbone.stages.0.{n}.depthwise.conv.{p}"),
    ("backbone.layers.1.{n}.conv.0.1.{p}", "backbone.stages.0.{n}.depthwise.norm.{p}"),
    ("backbone.layers.1.{n}.conv.1.{p}", "backbone.stages.0.{n}.project.conv.{p}"),
    ("backbone.layers.1.{n}.conv.2.{p}", "backbone.stages.0.{n}.project.norm.{p}"),
    ("backbone.layers.{s+1}.{n}.conv.0.0.{p}", "backbone.stages.{s}.{n}.expand.conv.{p}"),
    ("backbone.layers.{s+1}.{n}.conv.0.1.{p}", "backbone.stages.{s}.{n}.expand.norm.{p}"),
    ("backbone.layers.{s+1}.{n}.conv.1.0.{p}", "backbone.stages.{s}.{n}.depthwise.conv.{p}"),
    ("backbone.layers.{s+1}.{n}.conv.1.1.{p}", "backbone.stages.{s}.{n}.depthwise.norm.{p}"),
    ("backbone.layers.{s+1}.{n}.conv.2.{p}", "backbone.stages.{s}.{n}.project.conv.{p}"),
    ("backbone.layers.{s+1}.{n}.conv.3.{p}", "backbone.stages.{s}.{n}.project.norm.{p}"),
)

# Lists run from coarse to fine, ours from fine to coarse.
_PYRAMID = (
    *(
        rule
        for level in range(3)
        for rule in (
            (f"fpn_phase_1.lat_layers.{2 - level}.{{p}}", f"fpn.lateral.{level}.conv.{{p}}"),
            (f"fpn_phase_2.pred_layers.{2 - level}.{{p}}", f"fpn.output.{level}.conv.{{p}}"),
        )
    ),
    ("fpn_phase_2.downsample_layers.{i}.{p}", "fpn.downsample.{i}.conv.{p}"),
)

_HEADS = tuple(
    (theirs, ours) for theirs, ours in yolact.NECK_AND_HEADS if not theirs.startswith("fpn.")
)
_FPN_OF_YOLACT = tuple(
    (theirs, ours) for theirs, ours in yolact.NECK_AND_HEADS if theirs.startswith("fpn.")
)

_FLOW = (
    ("flow_net_pre_convs.convs.0.0.{p}", "partial.reduce.conv.{p}"),
    ("flow_net.conv{s+1}.{n}.0.{p}", "partial.flow_net.levels.{s}.{n}.conv.{p}"),
    *(
        (f"flow_net.pred{level}.{theirs}.{{p}}", f"partial.flow_net.{head}.{ours}.{{p}}")
        for level, head in ((3, "coarse"), (2, "fine"))
        for theirs, ours in (("conv", "flow"), ("scale", "scale"), ("bias", "bias"))
    ),
    ("flow_net.upfeat3.{p}", "partial.flow_net.up_feature.{p}"),
    ("flow_net.upflow3.{p}", "partial.flow_net.up_flow.{p}"),
    ("spa.refine_convs.{i}.0.{p}", "partial.spa.{i}.conv.{p}"),
)

_IGNORED = (
    *yolact.IGNORED,
    r"^flow_net\.(pred1|upfeat2|upflow2)\.",  # a flow that nothing uses
    r"^backbone\.layers\.[78]\.",  # MobileNetV2 behind its last map (a ResNet has four lists)
    r"^partial_backbone\.",  # the original's copy of the backbone, made when it loads a file
)

RESNET = KeyTable(
    (*yolact.RESNET_BACKBONE, *_PYRAMID, *_HEADS, *_FLOW), aliases=_FPN_OF_YOLACT, ignored=_IGNORED
)
MOBILENET = KeyTable(
    (*_MOBILENET, *_PYRAMID, *_HEADS, *_FLOW), aliases=_FPN_OF_YOLACT, ignored=_IGNORED
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
