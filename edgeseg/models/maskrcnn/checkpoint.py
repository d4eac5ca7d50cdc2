"""Parameter names of torchvision's and detectron2's Mask R-CNN checkpoints."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable

_TORCHVISION_SHARED = (
    ("backbone.body.conv1.{p}", "backbone.stem.conv.{p}"),
    ("backbone.body.bn1.{p}", "backbone.stem.norm.{p}"),
    ("backbone.body.layer{s+1}.{n}.conv{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.conv.{p}"),
    ("backbone.body.layer{s+1}.{n}.bn{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.norm.{p}"),
    ("backbone.body.layer{s+1}.{n}.downsample.0.{p}", "backbone.stages.{s}.{n}.shortcut.conv.{p}"),
    ("backbone.body.layer{s+1}.{n}.downsample.1.{p}", "backbone.stages.{s}.{n}.shortcut.norm.{p}"),
    ("rpn.head.cls_logits.{p}", "rpn.objectness.{p}"),
    ("rpn.head.bbox_pred.{p}", "rpn.deltas.{p}"),
    ("roi_heads.box_predictor.cls_score.{p}", "box_predictor.cls_score.{p}"),
    ("roi_heads.box_predictor.bbox_pred.{p}", "box_predictor.bbox_pred.{p}"),
    ("roi_heads.mask_predictor.conv5_mask.{p}", "mask_head.deconv.{p}"),
    ("roi_heads.mask_predictor.mask_fcn_logits.{p}", "mask_head.predictor.{p}"),
)

# The files of the v1 models keep the names from before torchvision wrapped its convolutions;
# its present modules, and so checkpoints of fine-tuned models, have the new ones.
_TORCHVISION_OLD = (
    ("backbone.fpn.inner_blocks.{i}.{p}", "fpn.lateral.{i}.conv.{p}"),
    ("backbone.fpn.layer_blocks.{i}.{p}", "fpn.output.{i}.conv.{p}"),
    ("rpn.head.conv.{p}", "rpn.conv.0.conv.{p}"),
    ("roi_heads.box_head.fc{i+6}.{p}", "box_head.fcs.{i}.{p}"),
    ("roi_heads.mask_head.mask_fcn{i+1}.{p}", "mask_head.convs.{i}.conv.{p}"),
    ("roi_heads.keypoint_head.{i*2}.{p}", "keypoint_head.convs.{i}.conv.{p}"),
    ("roi_heads.keypoint_predictor.kps_score_lowres.{p}", "keypoint_head.deconv.{p}"),
)
_TORCHVISION_NEW = (
    ("backbone.fpn.inner_blocks.{i}.0.{p}", "fpn.lateral.{i}.conv.{p}"),
    ("backbone.fpn.inner_blocks.{i}.1.{p}", "fpn.lateral.{i}.norm.{p}"),
    ("backbone.fpn.layer_blocks.{i}.0.{p}", "fpn.output.{i}.conv.{p}"),
    ("backbone.fpn.layer_blocks.{i}.1.{p}", "fpn.output.{i}.norm.{p}"),
    ("rpn.head.conv.{i}.0.{p}", "rpn.conv.{i}.conv.{p}"),
    ("roi_heads.box_head.{i}.0.{p}", "box_head.convs.{i}.conv.{p}"),
    ("roi_heads.box_head.{i}.1.{p}", "box_head.convs.{i}.norm.{p}"),
    ("roi_heads.box_head.{i+5}.{p}", "box_head.fcs.{i}.{p}"),
    ("roi_heads.mask_head.{i}.0.{p}", "mask_head.convs.{i}.conv.{p}"),
    ("roi_heads.mask_head.{i}.1.{p}", "mask_head.convs.{i}.norm.{p}"),
)

TORCHVISION_V1 = KeyTable((*_TORCHVISION_SHARED, *_TORCHVISION_OLD), aliases=_TORCHVISION_NEW)
TORCHVISION_V2 = KeyTable((*_TORCHVISION_SHARED, *_TORCHVISION_NEW))

DETECTRON2 = KeyTable(
    (
        ("backbone.bottom_up.stem.conv1.norm.{p}", "backbone.stem.norm.{p}"),
        ("backbone.bottom_up.stem.conv1.{p}", "backbone.stem.conv.{p}"),
        (
            "backbone.bottom_up.res{s+2}.{n}.conv{k}.norm.{p}",
            "backbone.stages.{s}.{n}.conv{k}.norm.{p}",
        ),
        ("backbone.bottom_up.res{s+2}.{n}.conv{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.conv.{p}"),
        (
            "backbone.bottom_up.res{s+2}.{n}.shortcut.norm.{p}",
            "backbone.stages.{s}.{n}.shortcut.norm.{p}",
        ),
        (
            "backbone.bottom_up.res{s+2}.{n}.shortcut.{p}",
            "backbone.stages.{s}.{n}.shortcut.conv.{p}",
        ),
        ("backbone.fpn_lateral{i+2}.{p}", "fpn.lateral.{i}.conv.{p}"),
        ("backbone.fpn_output{i+2}.{p}", "fpn.output.{i}.conv.{p}"),
        ("proposal_generator.rpn_head.conv.{p}", "rpn.conv.0.conv.{p}"),
        ("proposal_generator.rpn_head.objectness_logits.{p}", "rpn.objectness.{p}"),
        ("proposal_generator.rpn_head.anchor_deltas.{p}", "rpn.deltas.{p}"),
        ("roi_heads.box_head.fc{i+1}.{p}", "box_head.fcs.{i}.{p}"),
        ("roi_heads.box_predictor.cls_score.{p}", "box_predictor.cls_score.{p}"),
        ("roi_heads.box_predictor.bbox_pred.{p}", "box_predictor.bbox_pred.{p}"),
        ("roi_heads.mask_head.mask_fcn{i+1}.{p}", "mask_head.convs.{i}.conv.{p}"),
        ("roi_heads.mask_head.deconv.{p}", "mask_head.deconv.{p}"),
        ("roi_heads.mask_head.predictor.{p}", "mask_head.predictor.{p}"),
        ("sem_seg_head.p{i+2}.{n*2}.norm.{p}", "semantic_head.levels.{i}.{n}.norm.{p}"),
        ("sem_seg_head.p{i+2}.{n*2}.{p}", "semantic_head.levels.{i}.{n}.conv.{p}"),
        ("sem_seg_head.predictor.{p}", "semantic_head.predictor.{p}"),
    ),
    # Older files store what the model computes (anchors) or what its configuration says (means).
    ignored=(r"anchor_generator\.cell_anchors", r"^pixel_(mean|std)$"),
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
