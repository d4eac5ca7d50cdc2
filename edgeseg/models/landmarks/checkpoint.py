"""Parameter names of the checkpoints of PFLD-pytorch and HRNet-Facial-Landmark-Detection."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable, Rule

_PFLD_PARTS = ((0, "expand.conv"), (1, "expand.norm"), (3, "depthwise.conv"),
               (4, "depthwise.norm"), (6, "project.conv"), (7, "project.norm"))  # fmt: skip


def _pfld_block(original: str, ours: str) -> tuple[Rule, ...]:
    """Return the rules of an inverted residual, a Sequential in the original."""
    return tuple(
        (f"{original}.conv.{index}.{{p}}", f"{ours}.{part}.{{p}}") for index, part in _PFLD_PARTS
    )


PFLD = KeyTable(
    (
        ("conv8.{p}", "whole.{p}"),
        ("conv{i+1}.{p}", "stem.{i}.conv.{p}"),
        ("bn{i+1}.{p}", "stem.{i}.norm.{p}"),
        *_pfld_block("conv3_1", "stages4.0"),
        *_pfld_block("block3_{n+1}", "stages4.{n}"),
        *_pfld_block("conv4_1", "down8"),
        *_pfld_block("conv5_1", "stages8.0"),
        *_pfld_block("block5_{n+1}", "stages8.{n}"),
        *_pfld_block("conv6_1", "narrow"),
        ("conv7.0.{p}", "down16.conv.{p}"),
        ("conv7.1.{p}", "down16.norm.{p}"),
        ("fc.{p}", "coordinates.{p}"),
    ),
    # The original makes this normalisation but never calls it.
    ignored=(r"^bn8\.",),
)

HRNET = KeyTable(
    (
        ("conv{i+1}.{p}", "trunk.hrnet.stem.{i}.conv.{p}"),
        ("bn{i+1}.{p}", "trunk.hrnet.stem.{i}.norm.{p}"),
        ("layer1.{n}.conv{k}.{p}", "trunk.hrnet.bottlenecks.{n}.conv{k}.conv.{p}"),
        ("layer1.{n}.bn{k}.{p}", "trunk.hrnet.bottlenecks.{n}.conv{k}.norm.{p}"),
        ("layer1.{n}.downsample.0.{p}", "trunk.hrnet.bottlenecks.{n}.shortcut.conv.{p}"),
        ("layer1.{n}.downsample.1.{p}", "trunk.hrnet.bottlenecks.{n}.shortcut.norm.{p}"),
        ("transition1.0.0.{p}", "trunk.hrnet.narrow.conv.{p}"),
        ("transition1.0.1.{p}", "trunk.hrnet.narrow.norm.{p}"),
        *(
            (f"transition{s}.{s}.0.{index}.{{p}}", f"trunk.hrnet.spawn.{s - 1}.{part}.{{p}}")
            for s in (1, 2, 3)
            for index, part in enumerate(("conv", "norm"))
        ),
        (
            "stage{s+2}.{m}.branches.{b}.{n}.conv{k}.{p}",
            "trunk.hrnet.stages.{s}.{m}.branches.{b}.{n}.conv{k}.conv.{p}",
        ),
        (
            "stage{s+2}.{m}.branches.{b}.{n}.bn{k}.{p}",
            "trunk.hrnet.stages.{s}.{m}.branches.{b}.{n}.conv{k}.norm.{p}",
        ),
        (
            "stage{s+2}.{m}.fuse_layers.{i}.{j}.0.{p}",
            "trunk.hrnet.stages.{s}.{m}.fuse.{i}.{j}.conv.{p}",
        ),
        (
            "stage{s+2}.{m}.fuse_layers.{i}.{j}.1.{p}",
            "trunk.hrnet.stages.{s}.{m}.fuse.{i}.{j}.norm.{p}",
        ),
        (
            "stage{s+2}.{m}.fuse_layers.{i}.{j}.{k}.0.{p}",
            "trunk.hrnet.stages.{s}.{m}.fuse.{i}.{j}.{k}.conv.{p}",
        ),
        (
            "stage{s+2}.{m}.fuse_layers.{i}.{j}.{k}.1.{p}",
            "trunk.hrnet.stages.{s}.{m}.fuse.{i}.{j}.{k}.norm.{p}",
        ),
        ("head.0.{p}", "trunk.head.0.conv.{p}"),
        ("head.1.{p}", "trunk.head.0.norm.{p}"),
        ("head.3.{p}", "trunk.head.1.{p}"),
    )
)

OWN = KeyTable(())
"""For models that have no original: checkpoints carry our own names."""
