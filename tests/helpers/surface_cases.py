"""Surfaces against a recorded case of the original: parts, coordinates, confidences, quantised form."""

import numpy as np

DIFFERENT_PIXELS = 3
"""Of all persons: where two logits are equal but for their last bit."""
NAMES = {
    "sigma_2": "sigma_2",
    "kappa_u": "kappa_u",
    "kappa_v": "kappa_v",
    "fine_confidence": "fine_segm_confidence",
    "coarse_confidence": "coarse_segm_confidence",
}


def check_surfaces(golden, surfaces):
    """Fail unless the first surfaces of a picture are the original's."""
    boxes = golden.arrays["densepose_boxes_xywh"][: len(surfaces)]
    np.testing.assert_array_equal([surface.box_xywh for surface in surfaces], boxes)
    parts = np.concatenate([surface.parts.ravel() for surface in surfaces])
    is_same = parts == golden.arrays["densepose_labels"][: parts.size]
    assert np.count_nonzero(~is_same) <= DIFFERENT_PIXELS
    assert len(np.unique(parts)) > 10
    uv = np.stack([np.concatenate([getattr(s, k).ravel() for s in surfaces]) for k in "uv"])
    total = golden.arrays["densepose_labels"].size
    index, value = (golden.arrays[f"densepose_uv__{part}"] for part in ("index", "value"))
    row, column = np.divmod(index, total)
    is_ours = column < parts.size
    is_ours[is_ours] = is_same[column[is_ours]]
    assert is_ours.sum() > 1000
    np.testing.assert_allclose(uv[row[is_ours], column[is_ours]], value[is_ours], atol=1e-4)
    for name in surfaces[0].confidences:
        found = np.concatenate([surface.confidences[name].ravel() for surface in surfaces])
        stored = f"densepose_result_{NAMES[name]}"
        index, value = (golden.arrays[f"{stored}__{part}"] for part in ("index", "value"))
        is_ours = index < parts.size
        is_ours[is_ours] = is_same[index[is_ours]]
        assert is_ours.sum() > 100, name
        np.testing.assert_allclose(found[index[is_ours]], value[is_ours], atol=1e-4, err_msg=name)
    for index, surface in enumerate(surfaces[:2]):
        expected = golden.arrays[f"densepose_iuv_uint8_{index}"].astype(int)
        difference = np.abs(surface.iuv() - expected)
        assert np.count_nonzero(difference[0]) <= DIFFERENT_PIXELS
        is_part = difference[0] == 0
        assert difference[1:, is_part].max(initial=0) <= 1  # truncated: a last bit may be a step
        assert np.count_nonzero(difference[1:, is_part]) <= 0.001 * is_part.sum()


SMALL = {
    "image_size": (64, 96),
    "backbone": "small",
    "backbone_channels": (8, 16, 24, 32),
    "fpn_channels": 32,
    "rpn_pre_nms_top_n": 60,
    "rpn_post_nms_top_n": 40,
    "box_num_fcs": 1,
    "box_fc_channels": 32,
    "box_detections_per_img": 20,
    "box_candidates": 40,
    "decoder_channels": 64,
    "surface_convs": 2,
    "surface_channels": 64,
    "max_surfaces": 6,
}
"""Options that make a DensePose of any configuration small enough for a test."""
EVERY_CONFIDENCE = {"uv_confidence": "indep_aniso", "segm_confidence": True}
HEADS = {
    "decoder": {},
    "DeepLab": {"head": "deeplab", **EVERY_CONFIDENCE},
    "legacy": {"decoder": False, "surface_pool": 14, "coarse_channels": 15},
}


def small_densepose(**options):
    """Return a model with random weights that finds many persons in any picture."""
    import torch

    import edgeseg

    torch.manual_seed(0)
    return edgeseg.create_model("densepose_resnet50_fpn", **{**SMALL, **options})
