"""Names what a comparison of two exports has found to be wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from onnx import helper

from edgeseg_bench.metrics.agreement import Agreement
from edgeseg_export.sessions import Graphs
from edgeseg_export.taps import OWN_DOMAIN, WEIGHTED, TapDifference
from edgeseg_runtime.bundle.manifest import Manifest

MANY = 0.5
"""Share of the convolutions from which on it is the weights that differ, and not one node."""
CLIPPED_SHARE = 0.01
"""Of a value's elements, from which on its range is too small."""
EDGE_SHARE = 0.9
"""Of a node's own error, from which on it is one of the picture's edge."""
FEW_CHANNELS = 0.5
"""Share of lost channels up to which the others are sound."""
SAME_SHAPE = 0.999
"""Cosine from which on two values differ in size only."""
LOW_AP, SOUND_AP = 0.9, 0.95


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong.

    Attributes:
        kind: one word or two, for programs.
        where: node, option or output.
        text: what was found.
        remedy: what to do.
    """

    kind: str
    where: str
    text: str
    remedy: str


def findings(
    manifests: tuple[Manifest, Manifest],
    graphs: tuple[Graphs, Graphs],
    taps: Sequence[TapDifference],
    agreement: Agreement,
    *,
    agreement_of_reversed_colours: float | None = None,
) -> tuple[Finding, ...]:
    """Return what is wrong with a candidate, the likeliest cause first.

    Args:
        manifests: of the reference and the candidate.
        graphs: of both.
        taps: nodes that were compared, in the graph's order.
        agreement: of the results.
        agreement_of_reversed_colours: of the candidate on pictures whose colours are in reverse order, with
            the reference's results; None if that was not tried.
    """
    return (
        *_of_options(*manifests),
        *_of_operators(*graphs),
        *_of_colours(agreement.lowest, agreement_of_reversed_colours),
        *_of_nodes(taps),
        *_of_results(agreement),
    )


def _of_options(reference: Manifest, candidate: Manifest) -> Iterator[Finding]:
    for part in ("preprocess", "postprocess"):
        one, other = (_options(getattr(each, part)) for each in (reference, candidate))
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                yield Finding(
                    kind=part,
                    where=name,
                    text=f"{part} {name} is {other.get(name)!r}, the reference's {one.get(name)!r}",
                    remedy=f"export both with the same {name}",
                )


def _options(part: Any) -> dict[str, Any]:
    if isinstance(part, Mapping):
        return dict(part)
    return {field.name: getattr(part, field.name) for field in fields(part)}


def _of_operators(reference: Graphs, candidate: Graphs) -> Iterator[Finding]:
    """Yield edgeseg's operators that have other attributes, such as the threshold of suppression."""
    for graph in reference.keys() & candidate.keys():
        others = {node.name: node for node in candidate[graph].graph.node}
        for node in reference[graph].graph.node:
            other = others.get(node.name)
            if node.domain != OWN_DOMAIN or other is None:
                continue
            one, two = (
                {item.name: helper.get_attribute_value(item) for item in each.attribute}
                for each in (node, other)
            )
            for name in sorted(one.keys() | two.keys()):
                if one.get(name) != two.get(name):
                    yield Finding(
                        kind="operator",
                        where=node.name,
                        text=f"{name} of {node.name} is {two.get(name)}, the reference's {one.get(name)}",
                        remedy=f"export both with the same {name}",
                    )


def _of_colours(found: float | None, of_reversed: float | None) -> Iterator[Finding]:
    if found is None or of_reversed is None or not (found < LOW_AP < of_reversed):
        return
    yield Finding(
        kind="colour order",
        where="image",
        text=f"pictures with red and blue exchanged agree to {of_reversed:.3f} instead of {found:.3f}",
        remedy="give the model's colours in the order that its first layer was trained with",
    )


def _of_nodes(taps: Sequence[TapDifference]) -> Iterator[Finding]:
    weighted = [tap for tap in taps if tap.operator in WEIGHTED]
    bad = [tap for tap in taps if tap.is_bad or tap.lost_channels]
    floats = [tap for tap in weighted if tap.is_bad and tap.precision != "int8"]
    if len(weighted) > 2 and len(floats) > MANY * len(weighted):
        yield Finding(
            kind="weights",
            where=floats[0].name,
            text=f"{len(floats)} of {len(weighted)} nodes with weights compute something else",
            remedy="export the candidate from the reference's checkpoint: these are other weights",
        )
        return
    for tap in bad:
        yield _of_node(tap)


def _of_node(tap: TapDifference) -> Finding:
    """Return what is wrong with a node whose own result is spoilt."""
    in_int8 = tap.precision == "int8"
    if in_int8 and tap.clipped > CLIPPED_SHARE:
        return Finding(
            kind="saturated",
            where=tap.name,
            text=f"{tap.clipped:.1%} of {tap.name} are beyond its int8 range",
            remedy="calibrate on pictures like these, or with --calibration-method minmax",
        )
    if tap.edge_error > EDGE_SHARE:
        return Finding(
            kind="padding",
            where=tap.name,
            text=f"{tap.edge_error:.0%} of the error of {tap.name} lie on the edge of its map",
            remedy="check how its input is padded: by how much, on which sides, with what",
        )
    if 0 < tap.lost_channels <= FEW_CHANNELS:
        remedy = (
            "export anew, which equalises channels, or leave its module in float32 with --precision auto"
            if in_int8
            else "check the weights and the bias of this channel"
        )
        return Finding(
            kind="channel",
            where=tap.name,
            text=(
                f"{tap.lost_channels:.1%} of the channels of {tap.name} are lost, the worst is "
                f"{tap.worst_channel} ({tap.worst_channel_snr_db:.1f} dB)"
            ),
            remedy=remedy,
        )
    if tap.own_cosine > SAME_SHAPE:
        return Finding(
            kind="scale",
            where=tap.name,
            text=f"{tap.name} has the reference's values times {tap.own_gain:.3g}",
            remedy="check its scale: that of its int8 value, of its weights or of a normalisation",
        )
    return Finding(
        kind="node",
        where=tap.name,
        text=f"{tap.name} spoils its own result ({tap.own_snr_db:.1f} dB)",
        remedy="leave its module in float32 with --precision auto"
        if in_int8
        else "check its weights",
    )


def _of_results(agreement: Agreement) -> Iterator[Finding]:
    num_found = agreement.num_matched + agreement.num_label_flips
    if agreement.num_label_flips > num_found / 2:
        yield Finding(
            kind="classes",
            where="labels",
            text=f"{agreement.num_label_flips} of {num_found} detections have another label",
            remedy="check the order of the classes: in the last layer's rows and in the labels",
        )
    boxes, masks = (agreement.ap.get(kind) for kind in ("bbox", "segm"))
    if boxes is not None and masks is not None and masks < LOW_AP and boxes > SOUND_AP:
        yield Finding(
            kind="masks",
            where="masks",
            text=f"boxes agree to {boxes:.3f}, masks to {masks:.3f}",
            remedy="check where masks are placed: offset, stride, resampling and threshold",
        )
