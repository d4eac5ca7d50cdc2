"""Parameter names of the original's checkpoints (mcahny/vps), which hold FlowNet2, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeseg.models.checkpoint import KeyTable

_DETECTOR = (
    ("backbone.conv1.{p}", "backbone.stem.conv.{p}"),
    ("backbone.bn1.{p}", "backbone.stem.norm.{p}"),
    ("backbone.layer{s+1}.{n}.conv{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.conv.{p}"),
    ("backbone.layer{s+1}.{n}.bn{k}.{p}", "backbone.stages.{s}.{n}.conv{k}.norm.{p}"),
    ("backbone.layer{s+1}.{n}.downsample.0.{p}", "backbone.stages.{s}.{n}.shortcut.conv.{p}"),
    ("backbone.layer{s+1}.{n}.downsample.1.{p}", "backbone.stages.{s}.{n}.shortcut.norm.{p}"),
    ("neck.lateral_convs.{i}.conv.{p}", "fpn.lateral.{i}.conv.{p}"),
    ("neck.fpn_convs.{i}.conv.{p}", "fpn.output.{i}.conv.{p}"),
    ("rpn_head.rpn_conv.{p}", "rpn.conv.0.conv.{p}"),
    ("rpn_head.rpn_cls.{p}", "rpn.objectness.{p}"),
    ("rpn_head.rpn_reg.{p}", "rpn.deltas.{p}"),
    ("bbox_head.fc_cls.{p}", "box_predictor.cls_score.{p}"),
    ("bbox_head.fc_reg.{p}", "box_predictor.bbox_pred.{p}"),
    ("bbox_head.shared_fcs.{i}.{p}", "box_head.fcs.{i}.{p}"),
    ("track_head.fcs.{i}.{p}", "track_head.fcs.{i}.{p}"),
    ("mask_head.convs.{i}.conv.{p}", "mask_head.convs.{i}.conv.{p}"),
    ("mask_head.upsample.{p}", "mask_head.deconv.{p}"),
    ("mask_head.conv_logits.{p}", "mask_head.predictor.{p}"),
)

_FUSE = (
    ("extra_neck.liteflownet.flow_estimator.convs.{i}.0.{p}", "fuse.correct.hidden.{i}.conv.{p}"),
    ("extra_neck.liteflownet.flow_estimator.convs.3.{p}", "fuse.correct.predict.{p}"),
    *(
        (f"extra_neck.tcea_fusion.{theirs}.{{p}}", f"fuse.attention.{ours}.conv.{{p}}")
        for theirs, ours in (
            ("tAtt_1", "embed_map"),
            ("tAtt_2", "embed_centre"),
            ("fea_fusion", "join"),
            ("sAtt_1", "narrow"),
            ("sAtt_2", "pooled.0"),
            ("sAtt_3", "pooled.1"),
            ("sAtt_4", "logits"),
            ("sAtt_add_1", "add.0"),
            ("sAtt_add_2", "add.1"),
        )
    ),
    ("extra_neck.refine.conv.{p}", "fuse.refine.conv.{p}"),
)

_SEMANTIC = (
    ("panopticFPN.deform_convs.0.{i*3}.conv_offset.{p}", "semantic_head.convs.{i}.offset.{p}"),
    ("panopticFPN.deform_convs.0.{i*3}.conv.{p}", "semantic_head.convs.{i}.{p}"),
    *(
        (f"panopticFPN.deform_convs.0.{3 * layer + 1}.{{p}}", f"semantic_head.norms.{layer}.{{p}}")
        for layer in range(3)
    ),
    ("panopticFPN.conv_pred.conv.{p}", "semantic_head.predictor.{p}"),
)

_COARSE = {
    f"conv{level + 4}{theirs}": f"levels.{level}.{ours}"
    for level in range(3)
    for theirs, ours in (("", 0), ("_1", 1))
}
"""Convolutions of FlowNet2's networks from stride 16 on."""
_PAIRS = {
    f"conv{level}{theirs}": f"conv{level}.{ours}"
    for level in range(1, 4)
    for theirs, ours in (("", 0), ("_1", 1))
}
"""Where a network has two of a level before that."""
_LADDER = {"conv1": "conv1", "conv2": "conv2"}


def _flow_rules(
    theirs: str, ours: str, convs: Mapping[str, str], finest: int
) -> Iterator[tuple[str, str]]:
    """Return the rules of one of FlowNet2's networks.

    Args:
        theirs: its name in the original.
        ours: in our module.
        convs: its convolutions.
        finest: log2 of the stride of its result.
    """
    theirs, ours = f"flownet2.{theirs}", f"flow_net.{ours}"
    for name, renamed in convs.items():
        yield f"{theirs}.{name}.0.{{p}}", f"{ours}.{renamed}.conv.{{p}}"
    coarsest = 6 if finest else 2
    for number, level in enumerate(range(coarsest, finest - 1, -1)):
        yield f"{theirs}.predict_flow{level}.{{p}}", f"{ours}.refine.predict.{number}.{{p}}"
    for number, level in enumerate(range(coarsest - 1, finest - 1, -1)):
        refine = f"{ours}.refine"
        yield f"{theirs}.deconv{level}.0.{{p}}", f"{refine}.enlarge.{number}.deconv.{{p}}"
        yield f"{theirs}.inter_conv{level}.0.{{p}}", f"{refine}.between.{number}.conv.{{p}}"
        yield (
            f"{theirs}.upsampled_flow{level + 1}_to_{level}.{{p}}",
            f"{refine}.enlarge_flow.{number}.{{p}}",
        )


_S = {**_LADDER, "conv3": "conv3.0", "conv3_1": "conv3.1", **_COARSE}
_FLOWNET2 = (
    *_flow_rules(
        "flownetc",
        "c",
        {**_LADDER, "conv3": "conv3", "conv_redir": "redirect", "conv3_1": "join", **_COARSE},
        2,
    ),
    *_flow_rules("flownets_1", "s.0", _S, 2),
    *_flow_rules("flownets_2", "s.1", _S, 2),
    *_flow_rules("flownets_d", "sd", {"conv0": "conv0", **_PAIRS, **_COARSE}, 2),
    *_flow_rules("flownetfusion", "fusion", {"conv0": "conv0", **_PAIRS}, 0),
)

FUSETRACK = KeyTable((*_DETECTOR, *_FUSE, *_SEMANTIC, *_FLOWNET2))

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
