"""UPSNet's golden case, and a small UPSNet."""

import numpy as np

SYSTEM, CASE = "upsnet", "dev"
SMALL = {
    "image_size": (64, 96),
    "min_size": 64,
    "max_size": 96,
    "backbone_channels": (4, 8, 8, 16),
    "fpn_channels": 8,
    "box_fc_channels": 16,
    "mask_channels": 8,
    "mask_num_convs": 1,
    "semantic_widths": (8, 8),
    "rpn_pre_nms_top_n": 40,
    "rpn_post_nms_top_n": 30,
    "box_candidates": 60,
    "box_detections_per_img": 6,
    "max_contenders": 5,
    "stuff_area": 10,
}


def golden_options(golden):
    """Return what the case has smaller than the official configuration."""
    config = golden.description["config"]
    return {
        "image_size": golden.input_size,
        "min_size": config["short_side"],
        "max_size": config["max_size"],
    }


def check_panoptic(golden, result, *, pixels=0):
    """Fail unless segments and instances are those of the case, all but so many pixels of the map."""
    arrays = golden.arrays
    num_things, num_stuff = 80, golden.description["config"]["num_stuff"]
    semantic = np.array(
        [255, *(_semantic(label, num_things, num_stuff) for label in result.labels)]
    )
    expected, instances = arrays["final_pan_sem"], arrays["final_pan_ins"]
    assert np.count_nonzero(semantic[result.ids] != expected) <= pixels
    rows = []
    for label, id_, area in zip(semantic[1:], result.segment_ids, result.areas, strict=True):
        numbers, counts = np.unique(instances[result.ids == id_], return_counts=True)
        assert area - counts.max() <= pixels
        rows.append([int(label), int(numbers[counts.argmax()]), int(area)])
    rows, theirs = sorted(rows), sorted(arrays["final_segments"][:, :3].tolist())
    assert [row[:2] for row in rows] == [row[:2] for row in theirs]
    assert max(abs(a[2] - b[2]) for a, b in zip(rows, theirs, strict=True)) <= pixels
    _check_instances(golden, result.instances)


def _semantic(label, num_things, num_stuff):
    """Return the original's number of a class: stuff first."""
    return label - 1 + num_stuff if label <= num_things else label - 1 - num_things


def _check_instances(golden, found):
    arrays = golden.arrays
    order = np.argsort(-arrays["final_scores"], kind="stable")
    np.testing.assert_array_equal(found.labels, arrays["final_labels"][order])
    np.testing.assert_allclose(found.scores, arrays["final_scores"][order], atol=1e-4)
    np.testing.assert_allclose(found.boxes, arrays["final_boxes"][order], atol=0.02)
    areas = np.array([mask.sum() for mask in found.masks])
    assert np.abs(areas - arrays["final_mask_areas"][order]).max() <= 3
    shape = golden.description["outputs"]["final_masks"]["shape"]
    row, pixel = np.divmod(arrays["final_masks__index"], shape[1] * shape[2])
    place = np.argsort(order)
    expected = arrays["final_masks__value"].astype(bool)
    masks = np.stack(list(found.masks)).reshape(shape[0], -1)
    assert np.count_nonzero(masks[place[row], pixel] != expected) <= 3
