"""The atlas of a pyramid: every level where the layout says, the same map in PyTorch and ONNX."""

import numpy as np
import pytest
import torch
from onnx import helper
from torch.testing import assert_close

from edgeseg.ops import atlas_roi_align, pyramid_atlas
from edgeseg.ops.pyramid_atlas import atlas_layout
from edgeseg_export.functions import add_functions

SIZES = {
    "one level": [(5, 3)],
    "exact halves": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "odd sizes": [(13, 9), (7, 5), (4, 3)],
    "coarse ones wider than the finest": [(3, 9), (2, 5), (1, 3), (1, 2)],
    "one cell": [(2, 1), (1, 1)],
}


def levels_of(sizes, pictures=2):
    rng = np.random.default_rng(0)
    return [
        torch.from_numpy(rng.normal(size=(pictures, 3, *size)).astype(np.float32)) for size in sizes
    ]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_level_lies_where_the_layout_says(sizes):
    levels, layout = levels_of(sizes), atlas_layout(sizes)
    atlas = pyramid_atlas(levels)
    assert atlas.shape == (2, 3, layout.height, layout.width)
    taken = torch.zeros(layout.height, layout.width, dtype=torch.int64)
    for level, (height, width), (x, y) in zip(levels, sizes, layout.corners, strict=True):
        window = (..., slice(y, y + height), slice(x, x + width))
        assert_close(atlas[window], level, rtol=0, atol=0)
        taken[window] += 1
    assert taken.max() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_node_makes_the_same_atlas(run_model, sizes, dtype):
    levels = levels_of(sizes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = [f"level_{index}" for index in range(len(levels))]
    graph = helper.make_graph(
        [helper.make_node("PyramidAtlas", names, ["atlas"], domain="edgeseg")],
        "graph",
        [
            helper.make_tensor_value_info(name, kind, ["B", *level.shape[1:]])
            for name, level in zip(names, levels, strict=True)
        ],
        [helper.make_tensor_value_info("atlas", kind, ["B", 3, "H", "W"])],
    )
    model = add_functions(
        helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)],
            ir_version=10,
        )
    )
    size = "x".join(map(str, sizes[0]))
    assert [body.name for body in model.functions] == [f"PyramidAtlas_3x{size}"]
    (atlas,) = run_model(model, [level.numpy().astype(dtype) for level in levels])
    np.testing.assert_array_equal(atlas, pyramid_atlas(levels).numpy().astype(dtype))


def test_a_pyramid_without_levels_is_refused():
    with pytest.raises(ValueError, match="no feature maps, expected one for each level"):
        pyramid_atlas([])


def test_an_atlas_of_other_levels_is_refused():
    atlas = pyramid_atlas(levels_of(SIZES["exact halves"]))
    with pytest.raises(
        ValueError, match=r"shape \(2, 3, 24, 24\), expected \(B, C, 24, 32\), which levels"
    ):
        atlas_roi_align(
            atlas,
            torch.zeros(2, 1, 4),
            level_sizes=[(16, 32), (8, 16), (4, 8), (2, 4)],
            strides=[4, 8, 16, 32],
            output_size=7,
            sampling_ratio=2,
            aligned=False,
        )
