"""Parameter names of UPSNet's checkpoints."""

from __future__ import annotations

from edgeseg.models.key_table import KeyTable

_RESNET = "resnet_backbone.res{s+2}.layers.{n}"
_BLOCK = "backbone.stages.{s}.{n}"
UPSNET = KeyTable(
    (
        ("resnet_backbone.conv1.conv1.{p}", "backbone.stem.conv.{p}"),
        ("resnet_backbone.conv1.bn1.{p}", "backbone.stem.norm.{p}"),
        (f"{_RESNET}.conv{{k}}_offset.{{p}}", f"{_BLOCK}.conv{{k}}.conv.offset.{{p}}"),
        (f"{_RESNET}.conv{{k}}.{{p}}", f"{_BLOCK}.conv{{k}}.conv.{{p}}"),
        (f"{_RESNET}.bn{{k}}.{{p}}", f"{_BLOCK}.conv{{k}}.norm.{{p}}"),
        (f"{_RESNET}.downsample.0.{{p}}", f"{_BLOCK}.shortcut.conv.{{p}}"),
        (f"{_RESNET}.downsample.1.{{p}}", f"{_BLOCK}.shortcut.norm.{{p}}"),
        ("fpn.fpn_gap.{p}", "fpn.global_average.{p}"),
        ("fpn.fpn_p{i+2}_1x1.{p}", "fpn.lateral.{i}.conv.{p}"),
        ("fpn.fpn_p{i+2}.{p}", "fpn.output.{i}.conv.{p}"),
        ("rpn.conv_proposal.0.{p}", "rpn.conv.0.conv.{p}"),
        ("rpn.cls_score.{p}", "rpn.objectness.{p}"),
        ("rpn.bbox_pred.{p}", "rpn.deltas.{p}"),
        ("rcnn.fc{i+6}.0.{p}", "box_head.fcs.{i}.{p}"),
        ("rcnn.cls_score.{p}", "box_predictor.cls_score.{p}"),
        ("rcnn.bbox_pred.{p}", "box_predictor.bbox_pred.{p}"),
        ("mask_branch.mask_conv{i+1}.0.{p}", "mask_head.convs.{i}.conv.{p}"),
        ("mask_branch.mask_deconv1.0.{p}", "mask_head.deconv.{p}"),
        ("mask_branch.mask_score.{p}", "mask_head.predictor.{p}"),
        (
            "fcn_head.fcn_subnet.conv.{i}.0.conv_offset.{p}",
            "semantic_head.convs.{i}.offset.{p}",
        ),
        ("fcn_head.fcn_subnet.conv.{i}.0.conv.{p}", "semantic_head.convs.{i}.{p}"),
        ("fcn_head.score.{p}", "semantic_head.predictor.{p}"),
    )
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
