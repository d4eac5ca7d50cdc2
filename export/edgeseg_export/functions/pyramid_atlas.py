"""The body of `edgeseg::PyramidAtlas`: the levels of a pyramid, joined to one map."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import FunctionProto, helper

from edgeseg.ops.pyramid_atlas import join_levels
from edgeseg_export.functions.body import OPSET, Body


def pyramid_atlas_function(name: str, level_sizes: Sequence[tuple[int, int]]) -> FunctionProto:
    """Return the function for levels of these heights and widths, which does what `edgeseg.ops.pyramid_atlas` does."""
    body = Body()
    features = [f"features_{level}" for level in range(len(level_sizes))]

    def pad(value: str, axis: int, count: int) -> str:
        pads = [0] * 8
        pads[4 + axis] = count
        return body.op("Pad", value, body.ints(*pads))

    atlas = join_levels(
        features,
        level_sizes,
        concat=lambda first, second, axis: body.op("Concat", first, second, axis=axis),
        pad=pad,
    )
    body.output("atlas", atlas)
    return helper.make_function(
        "edgeseg", name, features, ["atlas"], body.nodes, [helper.make_opsetid("", OPSET)]
    )
