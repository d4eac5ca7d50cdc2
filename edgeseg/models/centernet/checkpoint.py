"""Parameter names of the checkpoints of xingyizhou/CenterNet."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable
from edgeseg.models.layers import hourglass_keys
from edgeseg.models.layers.hourglass_keys import RESIDUAL_PARTS as _RESIDUAL_PARTS
from edgeseg.models.layers.hourglass_keys import inside as _rules

HEADS = {
    "hm": "heatmap",
    "wh": "size",
    "reg": "offset",
    "hps": "joints",
    "hm_hp": "joint_heatmap",
    "hp_offset": "joint_offset",
}
"""The original's name of a head -> ours."""

_HEADS = tuple(
    rule
    for theirs, ours in HEADS.items()
    for rule in (
        (f"{theirs}.0.{{p}}", f"heads.{ours}.conv.conv.{{p}}"),
        (f"{theirs}.2.{{p}}", f"heads.{ours}.predictor.{{p}}"),
    )
)
_DEFORMABLE_PARTS = (
    ("{p}", "conv.{p}"),
    ("conv_offset_mask.{p}", "conv.conv_offset_mask.{p}"),
)

RESNET = KeyTable(
    (
        ("conv1.{p}", "backbone.stem.conv.{p}"),
        ("bn1.{p}", "backbone.stem.norm.{p}"),
        *_rules("layer{s+1}.{n}", "backbone.stages.{s}.{n}", _RESIDUAL_PARTS),
        ("layer{s+1}.{n}.downsample.0.{p}", "backbone.stages.{s}.{n}.shortcut.conv.{p}"),
        ("layer{s+1}.{n}.downsample.1.{p}", "backbone.stages.{s}.{n}.shortcut.norm.{p}"),
        *(
            rule
            for stage in range(3)
            for rule in (
                *_rules(f"deconv_layers.{6 * stage}", f"neck.ups.{stage}.conv", _DEFORMABLE_PARTS),
                (f"deconv_layers.{6 * stage + 1}.{{p}}", f"neck.ups.{stage}.conv.norm.{{p}}"),
                (f"deconv_layers.{6 * stage + 3}.{{p}}", f"neck.ups.{stage}.deconv.{{p}}"),
                (f"deconv_layers.{6 * stage + 4}.{{p}}", f"neck.ups.{stage}.norm.{{p}}"),
            )
        ),
        *_HEADS,
    )
)

_TREE_PARTS = (
    *_rules("tree{a+1}", "blocks.{a}", _RESIDUAL_PARTS),
    ("root.conv.{p}", "root.conv.{p}"),
    ("root.bn.{p}", "root.norm.{p}"),
    ("project.0.{p}", "project.conv.{p}"),
    ("project.1.{p}", "project.norm.{p}"),
)
_DLA = (
    ("base.base_layer.0.{p}", "backbone.stem.0.conv.{p}"),
    ("base.base_layer.1.{p}", "backbone.stem.0.norm.{p}"),
    ("base.level0.0.{p}", "backbone.stem.1.conv.{p}"),
    ("base.level0.1.{p}", "backbone.stem.1.norm.{p}"),
    ("base.level1.0.{p}", "backbone.stem.2.conv.{p}"),
    ("base.level1.1.{p}", "backbone.stem.2.norm.{p}"),
    *_rules("base.level{l+2}", "backbone.levels.{l}", _TREE_PARTS),
    *_rules("base.level{l+2}.tree{t+1}", "backbone.levels.{l}.trees.{t}", _TREE_PARTS),
    *_HEADS,
)
_UPS = (("dla_up.ida_{i}", "neck.steps.{i}"), ("ida_up", "neck.final"))
_NODES = (("proj_{n+1}", "projections.{n}"), ("node_{n+1}", "nodes.{n}"))
# The classifier, and two projections that the original makes and never calls.
_DLA_UNUSED = (r"^base\.fc\.", r"^base\.level[34]\.project\.")

DLA = KeyTable(
    (
        *_DLA,
        *((f"{theirs}.up_{{n+1}}.{{p}}", f"{ours}.ups.{{n}}.{{p}}") for theirs, ours in _UPS),
        *(
            rule
            for theirs, ours in _UPS
            for their_node, our_node in _NODES
            for rule in (
                *_rules(f"{theirs}.{their_node}.conv", f"{ours}.{our_node}", _DEFORMABLE_PARTS),
                (f"{theirs}.{their_node}.actf.0.{{p}}", f"{ours}.{our_node}.norm.{{p}}"),
            )
        ),
    ),
    ignored=_DLA_UNUSED,
)

DLA_V0 = KeyTable(
    (
        *_DLA,
        ("dla_up.ida_{i}.up_{n+1}.{p}", "neck.steps.{i}.ups.{n}.{p}"),
        *(
            rule
            for theirs, ours in _NODES
            for rule in (
                (f"dla_up.ida_{{i}}.{theirs}.0.{{p}}", f"neck.steps.{{i}}.{ours}.conv.{{p}}"),
                (f"dla_up.ida_{{i}}.{theirs}.1.{{p}}", f"neck.steps.{{i}}.{ours}.norm.{{p}}"),
            )
        ),
    ),
    ignored=_DLA_UNUSED,
)

HOURGLASS = KeyTable(
    (
        *hourglass_keys.trunk(),
        *(
            rule
            for theirs, ours in HEADS.items()
            for rule in (
                (f"{theirs}.1.0.conv.{{p}}", f"heads.{ours}.conv.conv.{{p}}"),
                (f"{theirs}.1.1.{{p}}", f"heads.{ours}.predictor.{{p}}"),
            )
        ),
    ),
    # The heads of the first hourglass serve in training only.
    ignored=(rf"^({'|'.join(HEADS)})\.0\.",),
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
