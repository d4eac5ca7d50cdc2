"""Parameter names of the hourglass trunk in the checkpoints of CornerNet and of both CenterNets; imports no torch."""

from __future__ import annotations

from edgeseg.models.key_table import Rule

RESIDUAL_PARTS: tuple[Rule, ...] = (
    ("conv{k}.{p}", "conv{k}.conv.{p}"),
    ("bn{k}.{p}", "conv{k}.norm.{p}"),
)
SKIP_PARTS: tuple[Rule, ...] = (
    *RESIDUAL_PARTS,
    ("skip.0.{p}", "shortcut.conv.{p}"),
    ("skip.1.{p}", "shortcut.norm.{p}"),
)
FIRE_PARTS: tuple[Rule, ...] = (
    ("conv1.{p}", "squeeze.conv.{p}"),
    ("bn1.{p}", "squeeze.norm.{p}"),
    ("conv_1x1.{p}", "expand_1x1.{p}"),
    ("conv_3x3.{p}", "expand_3x3.{p}"),
    ("bn2.{p}", "norm.{p}"),
)


def inside(theirs: str, ours: str, parts: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Return rules for the parts of a module."""
    return tuple((f"{theirs}.{a}", f"{ours}.{b}") for a, b in parts)


def convolution(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Return rules for the originals' "convolution": conv and bn."""
    return (
        (f"{theirs}.conv.{{p}}", f"{ours}.conv.{{p}}"),
        (f"{theirs}.bn.{{p}}", f"{ours}.norm.{{p}}"),
    )


def trunk(
    *,
    order: int = 5,
    stem_blocks: int = 1,
    parts: tuple[Rule, ...] = SKIP_PARTS,
    hourglasses: str = "kps",
    prefix: str = "",
) -> tuple[Rule, ...]:
    """Return the rules of a whole trunk.

    Args:
        order: hourglasses inside one another.
        stem_blocks: residual blocks of the stem.
        parts: of the blocks that the hourglasses are made of.
        hourglasses: what the original calls them.
        prefix: in front of all of the original's names.
    """
    kps = f"{prefix}{hourglasses}"
    return (
        *convolution(f"{prefix}pre.0", "backbone.stem.0"),
        *(
            rule
            for block in range(1, stem_blocks + 1)
            for rule in inside(f"{prefix}pre.{block}", f"backbone.stem.{block}", SKIP_PARTS)
        ),
        *(
            rule
            for depth in range(order)
            for theirs, ours in (("up1", "skip"), ("low1", "entry"), ("low3", "exit"))
            for rule in inside(
                f"{kps}.{{i}}{'.low2' * depth}.{theirs}.{{n}}",
                f"backbone.hourglasses.{{i}}{'.inner' * depth}.{ours}.{{n}}",
                parts,
            )
        ),
        *(
            (
                f"{kps}.{{i}}{'.low2' * depth}.up2.{{p}}",
                f"backbone.hourglasses.{{i}}{'.inner' * depth}.up.{{p}}",
            )
            for depth in range(order)
        ),
        *inside(
            f"{kps}.{{i}}{'.low2' * order}.{{n}}",
            f"backbone.hourglasses.{{i}}{'.inner' * order}.{{n}}",
            parts,
        ),
        *convolution(f"{prefix}cnvs.{{i}}", "backbone.features.{i}"),
        (f"{prefix}inters_.0.0.{{p}}", "backbone.merge_input.conv.{p}"),
        (f"{prefix}inters_.0.1.{{p}}", "backbone.merge_input.norm.{p}"),
        (f"{prefix}cnvs_.0.0.{{p}}", "backbone.merge_features.conv.{p}"),
        (f"{prefix}cnvs_.0.1.{{p}}", "backbone.merge_features.norm.{p}"),
        *inside(f"{prefix}inters.0", "backbone.between", SKIP_PARTS),
    )
