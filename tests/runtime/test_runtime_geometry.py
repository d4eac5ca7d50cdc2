"""Sizes, pasting and key points: against the originals' arithmetic, written with torch."""

import math

import numpy as np
import pytest

from edgeseg_runtime.bundle.manifest import Preprocess
from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.picture.geometry import (
    Geometry,
    clip_boxes,
    fit_image,
    fit_image_with_fraction,
    geometry_of,
    kept_scale,
    resized_size,
    scale_boxes_to_source,
    scale_of,
)
from edgeseg_runtime.results.paste import (
    MaskCrop,
    crop_image_aligned,
    keypoints_bicubic_argmax,
    paste_expanded_box,
    paste_grid_sample,
)

torch = pytest.importorskip("torch")
functional = torch.nn.functional

OFFICIAL = {"height": 800, "width": 1344, "resize": "shortest_edge", "min_size": 800}


def preprocess(**changes):
    return Preprocess(**{**OFFICIAL, "max_size": 1333, **changes})


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("source", "changes", "expected"),
    [
        ((1, 1), {}, (800, 800)),
        ((1, 100_000), {}, (1, 1333)),
        ((480, 640), {}, (800, 1066)),
        ((480, 640), {"rounding": "half_up"}, (800, 1067)),
        ((501, 753), {}, (800, 1202)),
        ((1080, 1920), {}, (749, 1333)),
        ((1080, 1920), {"rounding": "half_up"}, (750, 1333)),
        ((640, 480), {}, (800, 600)),  # portrait: shrinks further, to fit 800 rows
        ((640, 480), {"rounding": "half_up"}, (800, 600)),
        ((640, 480), {"resize": "stretch", "min_size": None, "max_size": None}, (800, 1344)),
        ((640, 480), {"resize": "letterbox", "min_size": None, "max_size": None}, (800, 600)),
        ((10, 480), {"resize": "letterbox", "min_size": None, "max_size": None}, (28, 1344)),
        ((480, 640), {"max_size": None}, (800, 1066)),
        ((480, 640), {"rounding": "factor"}, (800, 1067)),
        ((640, 426), {"rounding": "factor"}, (800, 532)),  # 532.5 to even
        ((1080, 1920), {"rounding": "factor"}, (750, 1333)),
        ((1, 100_000), {"rounding": "factor"}, (1, 1333)),
    ],
)
def test_the_resized_size_follows_the_original(source, changes, expected):
    assert resized_size(source, preprocess(**changes)) == expected


@pytest.mark.parametrize("rounding", ["floor", "half_up"])
@pytest.mark.parametrize("resize", ["shortest_edge", "letterbox"])
def test_a_resized_picture_always_fits_and_keeps_its_aspect(resize, rounding):
    rng = np.random.default_rng(0)
    for _ in range(500):
        bound = rng.integers(1, 2000, 2).tolist()
        source = rng.integers(1, 5000, 2).tolist()
        sides = {"min_size": 800, "max_size": 1333} if resize == "shortest_edge" else {}
        rule = Preprocess(
            height=bound[0], width=bound[1], resize=resize, rounding=rounding, **sides
        )
        height, width = resized_size(source, rule)
        assert 1 <= height <= bound[0]
        assert 1 <= width <= bound[1]
        lowest = max((height - 1) / source[0], (width - 1) / source[1])
        highest = min((height + 1) / source[0], (width + 1) / source[1])
        assert lowest <= highest or 1 in {height, width}, "one scale, up to a pixel"


def test_detectron2_sizes_of_many_pictures():
    def original(height, width, short=800, longest=1333):
        scale = short * 1.0 / min(height, width)
        size = (short, scale * width) if height < width else (scale * height, short)
        if max(size) > longest:
            scale = longest * 1.0 / max(size)
            size = (size[0] * scale, size[1] * scale)
        return int(size[0] + 0.5), int(size[1] + 0.5)

    rng = np.random.default_rng(0)
    rule = preprocess(height=1344, width=1344, rounding="half_up")
    for source in rng.integers(1, 4000, (2000, 2)).tolist():
        expected = tuple(max(side, 1) for side in original(*source))
        assert resized_size(source, rule) == expected


def test_the_picture_lies_top_left_and_the_rest_is_padding():
    rule = preprocess(height=80, width=100, min_size=80, max_size=None, pad_value=(1, 2, 3))
    image = np.full((40, 30, 3), 200, np.uint8)
    geometry = geometry_of((40, 30), rule)
    canvas = fit_image(image, geometry, rule)
    assert geometry == Geometry.at_top_left(source=(40, 30), resized=(80, 60), network=(80, 100))
    assert canvas.shape == (1, 80, 100, 3)
    assert (canvas[0, :80, :60] == 200).all()
    assert (canvas[0, :, 60:] == (1, 2, 3)).all()


def test_a_view_gives_the_same_input_as_its_copy():
    rule = preprocess(height=80, width=100, min_size=80, max_size=None)
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)[::-1, ::2, ::-1]
    geometry = geometry_of(image.shape[:2], rule)
    np.testing.assert_array_equal(
        fit_image(image, geometry, rule), fit_image(image.copy(), geometry, rule)
    )


def test_boxes_survive_the_round_trip():
    geometry = Geometry.at_top_left(source=(501, 753), resized=(319, 480), network=(320, 480))
    boxes = np.random.default_rng(0).uniform(0, 500, (50, 4)).astype(np.float32)
    ratio = np.float32([480 / 753, 319 / 501, 480 / 753, 319 / 501])
    np.testing.assert_allclose(scale_boxes_to_source(boxes * ratio, geometry), boxes, rtol=1e-6)
    assert scale_boxes_to_source(boxes[:0], geometry).shape == (0, 4)


def test_clipped_boxes_stay_inside():
    boxes = np.float32([[-5, -5, 900, 900], [3, 4, 5, 6]])
    np.testing.assert_array_equal(clip_boxes(boxes, (50, 70)), [[0, 0, 70, 50], [3, 4, 5, 6]])


# ---------------------------------------------------------------- masks


def expanded_box_of_torchvision(mask, box, size):
    """The rule of torchvision's roi_heads.py, one mask at a time."""
    scale = (mask.shape[0] + 2) / mask.shape[0]
    box = torch.from_numpy(box)
    half, centre = (box[2:] - box[:2]) * 0.5, (box[2:] + box[:2]) * 0.5
    half = half * scale
    x0, y0, x1, y1 = torch.cat([centre - half, centre + half]).to(torch.int64).tolist()
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    padded = functional.pad(torch.from_numpy(mask)[None, None], (1, 1, 1, 1))
    resized = functional.interpolate(padded, size=(height, width), mode="bilinear")[0, 0]
    result = torch.zeros(size)
    left, right = max(x0, 0), min(x1 + 1, size[1])
    top, bottom = max(y0, 0), min(y1 + 1, size[0])
    if left < right and top < bottom:
        result[top:bottom, left:right] = resized[top - y0 : bottom - y0, left - x0 : right - x0]
    return result.numpy()


def grid_sample_of_detectron2(mask, box, size):
    """The rule of detectron2's mask_ops.py, over the whole picture."""
    rows = (torch.arange(size[0]) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    columns = (torch.arange(size[1]) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack(
        [columns[None, :].expand(*size), rows[:, None].expand(*size)], dim=-1
    ).float()
    sampled = functional.grid_sample(
        torch.from_numpy(mask)[None, None], grid[None], align_corners=False
    )
    return sampled[0, 0].numpy()


RULES = [
    pytest.param(paste_expanded_box, expanded_box_of_torchvision, id="expanded_box"),
    pytest.param(paste_grid_sample, grid_sample_of_detectron2, id="grid_sample"),
]


def whole(crop: MaskCrop, size):
    mask = np.zeros(size, np.bool_)
    height, width = crop.bits.shape
    mask[crop.top : crop.top + height, crop.left : crop.left + width] = crop.bits
    return mask


@pytest.mark.parametrize(("paste", "original"), RULES)
@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 40, 30],
        [0, 0, 5.5, 5.5],
        [34.5, 24.5, 40, 30],
        [-20, -20, 60, 50],
        [12.2, 0, 12.9, 30],
        [100, 100, 110, 110],
        [-30, 3, -10, 9],
    ],
    ids=["whole", "corner", "other corner", "beyond", "thin", "outside", "left of it"],
)
def test_a_mask_at_the_border(paste, original, box):
    mask = np.random.default_rng(3).random((28, 28), dtype=np.float32)
    box = np.float32(box)
    crop = paste(mask, box, (30, 40), threshold=0.5)
    np.testing.assert_array_equal(whole(crop, (30, 40)), original(mask, box, (30, 40)) >= 0.5)


@pytest.mark.parametrize(("paste", "original"), RULES)
@pytest.mark.parametrize("seed", range(40))
def test_a_pasted_mask_is_that_of_the_original(paste, original, seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 300, 2).tolist())
    cells = int(rng.choice([1, 7, 14, 28]))
    mask = rng.random((cells, cells), dtype=np.float32)
    corners = np.sort(rng.uniform(-20, 320, (2, 2)), axis=0)
    box = np.float32([*corners[0], *(corners[1] + 0.01)])
    found = whole(paste(mask, box, size, threshold=0.5), size)
    expected = original(mask, box, size) >= 0.5
    assert (found != expected).sum() <= max(2, 1e-5 * expected.size)


@pytest.mark.parametrize("paste", [paste_expanded_box, paste_grid_sample])
@pytest.mark.parametrize("box", [[1e30, 0, 2e30, 9], [-3e38, -3e38, 3e38, 3e38], [5, 5, 5, 5]])
def test_an_absurd_box_costs_no_more_than_the_picture(paste, box):
    with np.errstate(over="ignore", invalid="ignore"):
        crop = paste(np.ones((28, 28), np.float32), np.float32(box), (30, 40), threshold=0.5)
    assert crop.bits.size <= 30 * 40


@pytest.mark.parametrize("seed", range(20))
def test_a_mask_over_the_input_is_enlarged_from_what_the_picture_covers(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((20, 32), dtype=np.float32)
    geometry = Geometry.at_top_left(source=(75, 100), resized=(60, 80), network=(80, 128))
    covered = torch.from_numpy(mask[:15, :20])[None, None]  # 60 / 80 and 80 / 128 of the map
    expected = functional.interpolate(covered, size=(75, 100), mode="bilinear")[0, 0].numpy()
    crop = crop_image_aligned(mask, geometry, threshold=0.5)
    assert (whole(crop, (75, 100)) != (expected > 0.5)).sum() <= 2


@pytest.mark.parametrize("seed", range(40))
def test_a_mask_over_the_input_is_that_of_yolact(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 400, 2).tolist())
    cells = int(rng.choice([1, 14, 34, 138]))
    mask = np.zeros((cells, cells), np.float32)
    (top, left), (bottom, right) = np.sort(rng.integers(0, cells + 1, (2, 2)), axis=0)
    mask[top:bottom, left:right] = rng.random((bottom - top, right - left), dtype=np.float32)
    stretched = torch.from_numpy(mask)[None, None]
    expected = functional.interpolate(stretched, size, mode="bilinear", align_corners=False)
    geometry = Geometry.at_top_left(source=size, resized=(550, 550), network=(550, 550))
    crop = crop_image_aligned(mask, geometry, threshold=0.5)
    is_different = whole(crop, size) != (expected[0, 0] > 0.5).numpy()
    assert is_different.sum() <= max(2, 1e-5 * is_different.size)
    above = np.argwhere(mask > 0.5)
    if len(above):
        extent = (above.max(axis=0) - above.min(axis=0) + 4) / cells * size + 3
        assert (crop.bits.shape <= extent).all(), "only where it can be set"
    else:
        assert crop.bits.size == 0


def test_a_mask_over_the_input_of_a_centred_picture():
    geometry = Geometry(source=(40, 60), network=(64, 64), step=(1.0, 1.0), origin=(-2.0, -12.0))
    mask = np.zeros((16, 16), np.float32)
    mask[6:10, 2:5] = 1.0  # network rows 24..40, columns 8..20
    found = whole(crop_image_aligned(mask, geometry, threshold=0.5), (40, 60))
    expected = np.zeros((40, 60), np.bool_)
    expected[12:28, 6:18] = True
    assert (found != expected).sum() <= 4  # the corners are rounded
    mask[:] = 1.0
    assert whole(crop_image_aligned(mask, geometry, threshold=0.5), (40, 60)).all()


@pytest.mark.parametrize("seed", range(10))
def test_key_points_are_those_of_the_original(seed):
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.normal(size=(1, 5, 14, 14)).astype(np.float32))
    heatmaps = functional.interpolate(small, size=56, mode="bilinear")[0].numpy()
    box = np.sort(rng.uniform(0, 200, (2, 2)), axis=0).ravel().astype(np.float32)
    if seed == 0:
        box[2:] = box[:2]  # a box without extent counts as one pixel
    width, height = np.maximum(box[2:] - box[:2], np.float32(1)).tolist()
    size = math.ceil(height), math.ceil(width)
    enlarged = functional.interpolate(torch.from_numpy(heatmaps)[None], size=size, mode="bicubic")
    for (x, y, score), values in zip(
        keypoints_bicubic_argmax(heatmaps, box), enlarged[0].numpy(), strict=True
    ):
        row, column = divmod(int(values.argmax()), size[1])
        assert x == pytest.approx((column + 0.5) * width / size[1] + box[0], abs=1e-3)
        assert y == pytest.approx((row + 0.5) * height / size[0] + box[1], abs=1e-3)
        assert score == pytest.approx(values.max(), abs=1e-4)


@pytest.mark.parametrize(
    ("rounding", "expected"), [("half_up", (1333, 750)), ("floor", (1333, 749))]
)
def test_a_portrait_keeps_the_original_s_scale_in_an_input_of_its_own(rounding, expected):
    """detectron2 rounds the size, torchvision cuts it."""
    rule = {"resize": "shortest_edge", "min_size": 800, "max_size": 1333, "rounding": rounding}
    landscape = Preprocess(height=800, width=1344, **rule)
    portrait = Preprocess(height=1344, width=800, **rule)
    size = 1280, 720
    assert resized_size(size, portrait) == expected
    assert resized_size(size, landscape) == (800, 450)
    assert scale_of(size, portrait) > scale_of(size, landscape)
    assert kept_scale(size, portrait) == 1
    assert kept_scale(size, landscape) == pytest.approx(0.6, abs=0.01)


# ---------------------------------------------------------------- by a factor


@pytest.mark.parametrize("source", [(27, 40), (53, 31), (33, 100), (64, 96)])
def test_pixels_lie_as_the_factor_says_whatever_the_rounded_size(source):
    """UPSNet: source position = (i + 0.5) / scale - 0.5; with the ratio of the sizes values would differ."""
    rule = preprocess(height=64, width=96, min_size=64, max_size=96, rounding="factor")
    geometry = geometry_of(source, rule)
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    whole, fraction = fit_image_with_fraction(image, geometry, rule)
    found = whole[0].astype(np.float64) + fraction[0] / 256.0
    height, width = geometry.resized
    scale = geometry.scale[0]
    expected = image.astype(np.float64)
    for axis, size in enumerate((height, width)):
        position = np.clip((np.arange(size) + 0.5) / scale - 0.5, 0, source[axis] - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, source[axis] - 1)
        weight = (position - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        expected = expected.take(low, axis) * (1 - weight) + expected.take(high, axis) * weight
    np.testing.assert_allclose(found[:height, :width], expected, atol=1 / 128)
    assert not found[height:].any()
    assert not found[:, width:].any()


def test_sizes_are_rounded_as_the_product_is():
    """Geometry keeps the step, which is the factor's inverse: the way back must not change a tie."""
    rule = preprocess(rounding="factor")
    for height in range(2, 1400, 7):
        for width in range(height % 5 + 1, 1400, 11):
            scale = 800 / min(height, width)
            if round(scale * max(height, width)) > 1333:
                scale = 1333 / max(height, width)
            if round(scale * height) > 800:
                scale = 800 / height
            expected = round(height * scale), round(width * scale)
            if min(expected) > 0:
                assert geometry_of((height, width), rule).resized == expected, (height, width)


def test_the_rounding_by_a_factor_belongs_to_the_shorter_side():
    with pytest.raises(ManifestError, match="shortest_edge, linear with rounding factor"):
        Preprocess(height=64, width=64, resize="letterbox", rounding="factor")
