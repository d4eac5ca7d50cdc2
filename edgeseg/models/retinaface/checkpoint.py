"""Parameter names of the RetinaFace checkpoints of Pytorch_Retinaface."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable

# Convolution and normalisation of a block are numbers of a Sequential in the original.
_SHARED = (
    ("fpn.output{i+1}.0.{p}", "pyramid.lateral.{i}.conv.{p}"),
    ("fpn.output{i+1}.1.{p}", "pyramid.lateral.{i}.norm.{p}"),
    ("fpn.merge{i+1}.0.{p}", "pyramid.merge.{i}.conv.{p}"),
    ("fpn.merge{i+1}.1.{p}", "pyramid.merge.{i}.norm.{p}"),
    ("ssh{i+1}.conv3X3.0.{p}", "context.{i}.wide3.conv.{p}"),
    ("ssh{i+1}.conv3X3.1.{p}", "context.{i}.wide3.norm.{p}"),
    ("ssh{i+1}.conv5X5_1.0.{p}", "context.{i}.shared.conv.{p}"),
    ("ssh{i+1}.conv5X5_1.1.{p}", "context.{i}.shared.norm.{p}"),
    ("ssh{i+1}.conv5X5_2.0.{p}", "context.{i}.wide5.conv.{p}"),
    ("ssh{i+1}.conv5X5_2.1.{p}", "context.{i}.wide5.norm.{p}"),
    ("ssh{i+1}.conv7X7_2.0.{p}", "context.{i}.wide7.0.conv.{p}"),
    ("ssh{i+1}.conv7X7_2.1.{p}", "context.{i}.wide7.0.norm.{p}"),
    ("ssh{i+1}.conv7x7_3.0.{p}", "context.{i}.wide7.1.conv.{p}"),  # a small x, as in the original
    ("ssh{i+1}.conv7x7_3.1.{p}", "context.{i}.wide7.1.norm.{p}"),
    ("ClassHead.{i}.conv1x1.{p}", "class_heads.{i}.{p}"),
    ("BboxHead.{i}.conv1x1.{p}", "box_heads.{i}.{p}"),
    ("LandmarkHead.{i}.conv1x1.{p}", "landmark_heads.{i}.{p}"),
)

MOBILENET = KeyTable(
    (
        ("body.stage1.0.0.{p}", "backbone.stem.conv.{p}"),
        ("body.stage1.0.1.{p}", "backbone.stem.norm.{p}"),
        ("body.stage1.{n+1}.0.{p}", "backbone.stages.0.{n}.depthwise.conv.{p}"),
        ("body.stage1.{n+1}.1.{p}", "backbone.stages.0.{n}.depthwise.norm.{p}"),
        ("body.stage1.{n+1}.3.{p}", "backbone.stages.0.{n}.pointwise.conv.{p}"),
        ("body.stage1.{n+1}.4.{p}", "backbone.stages.0.{n}.pointwise.norm.{p}"),
        ("body.stage{s+1}.{n}.0.{p}", "backbone.stages.{s}.{n}.depthwise.conv.{p}"),
        ("body.stage{s+1}.{n}.1.{p}", "backbone.stages.{s}.{n}.depthwise.norm.{p}"),
        ("body.stage{s+1}.{n}.3.{p}", "backbone.stages.{s}.{n}.pointwise.conv.{p}"),
        ("body.stage{s+1}.{n}.4.{p}", "backbone.stages.{s}.{n}.pointwise.norm.{p}"),
        *_SHARED,
    )
)

RESNET = KeyTable(
    (
        ("body.conv1.{p}", "backbone.stem.conv.{p}"),
        ("body.bn1.{p}", "backbone.stem.norm.{p}"),
        ("body.layer{s+1}.{n}.conv{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.conv.{p}"),
        ("body.layer{s+1}.{n}.bn{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.norm.{p}"),
        ("body.layer{s+1}.{n}.downsample.0.{p}", "backbone.stages.{s}.{n}.shortcut.conv.{p}"),
        ("body.layer{s+1}.{n}.downsample.1.{p}", "backbone.stages.{s}.{n}.shortcut.norm.{p}"),
        *_SHARED,
    )
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
