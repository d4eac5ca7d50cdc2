"""Resizes about a centre and about a box: the originals' pixels, and the way there and back."""

import cv2
import numpy as np
import pytest

from edgeseg_runtime.bundle.manifest import Preprocess
from edgeseg_runtime.picture.geometry import (
    fit_image,
    fit_image_with_fraction,
    geometry_of,
    scale_boxes_to_network,
    scale_boxes_to_source,
    scale_points_to_network,
    scale_points_to_source,
)

RULES = {
    "shortest_edge": {"min_size": 96},
    "letterbox": {},
    "stretch": {},
    "original": {},
    "affine": {},
    "center": {},
    "center_odd": {},
    "square_crop": {"rounding": "none"},
    "square_crop truncated": {"rounding": "truncate"},
}
WHOLE = [name for name in RULES if not name.startswith("square_crop")]
CROPS = [name for name in RULES if name.startswith("square_crop")]


def rule(name, height=96, width=128, **changes):
    resize = name.split()[0]
    return Preprocess(height=height, width=width, resize=resize, **{**RULES[name], **changes})


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_box(rng, height, width):
    x1, y1 = rng.uniform(-0.2, 0.8, 2) * (width, height)
    return x1, y1, x1 + rng.uniform(1, width), y1 + rng.uniform(1, height)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", RULES)
def test_boxes_and_points_survive_the_way_there_and_back(name):
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 3000, 2).tolist()
        preprocess = rule(name, *rng.integers(1, 600, 2).tolist())
        box = random_box(rng, height, width) if name in CROPS else None
        geometry = geometry_of((height, width), preprocess, box)
        points = rng.uniform(-0.5, 1.5, (7, 5, 2)) * (width, height)
        there = scale_points_to_network(points, geometry)
        back = scale_points_to_source(there, geometry)
        tolerance = 1e-5 * (np.abs(points).max() + max(geometry.step) * np.abs(there).max())
        np.testing.assert_allclose(back, points, rtol=0, atol=tolerance)
        boxes = points[:, :2].reshape(7, 4)
        in_network = scale_boxes_to_network(boxes, geometry)
        np.testing.assert_array_equal(in_network, there[:, :2].reshape(7, 4))
        np.testing.assert_array_equal(
            scale_boxes_to_source(in_network, geometry), back[:, :2].reshape(7, 4)
        )
        np.testing.assert_allclose(there, points * geometry.scale + geometry.shift, rtol=1e-4)
    assert scale_boxes_to_source(np.zeros((0, 4), np.float32), geometry).shape == (0, 4)
    assert scale_boxes_to_network(np.zeros((0, 4)), geometry).shape == (0, 4)


@pytest.mark.parametrize("name", RULES)
def test_a_thing_lies_where_the_geometry_says(name):
    rng = np.random.default_rng(1)
    for _ in range(30):
        height, width = rng.integers(60, 300, 2).tolist()
        image = np.zeros((height, width, 3), np.uint8)
        x, y = (int(rng.integers(20, side - 20)) for side in (width, height))
        cv2.circle(image, (x, y), 8, (255, 255, 255), cv2.FILLED)
        preprocess = rule(name, 192, 256)
        box = (x - 30, y - 40, x + 36, y + 28) if name in CROPS else None
        geometry = geometry_of((height, width), preprocess, box)
        whole, fraction = fit_image_with_fraction(image, geometry, preprocess)
        levels = whole[0, ..., 0] + fraction[0, ..., 0] / 256
        found = np.array([levels.sum(0) @ np.arange(256), levels.sum(1) @ np.arange(192)])
        centre = scale_points_to_source(np.float32(found / levels.sum() + 0.5), geometry)
        is_cut = name == "affine" and not np.allclose(levels[[0, -1]], 0)
        # CenterNet maps indices, not corners; truncated corners shift by up to a pixel.
        slack = {"affine": 0.5 * max(*geometry.step, 1) + 0.1, "square_crop truncated": 1.1}
        if not is_cut:
            assert np.abs(centre - (x + 0.5, y + 0.5)).max() <= slack.get(name, 0.5), name


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 3), (300, 400)])
def test_any_size_of_picture_fits(name, size):
    preprocess = rule(name, pad_value=(1, 2, 3))
    geometry = geometry_of(size, preprocess)
    image = np.full((*size, 3), (1, 2, 3), np.uint8)
    assert (fit_image(image, geometry, preprocess) == (1, 2, 3)).all()
    whole, fraction = fit_image_with_fraction(image, geometry, preprocess)
    assert whole.shape == fraction.shape == (1, 96, 128, 3)
    is_picture = fraction.any(axis=-1) | (whole == (1, 2, 3)).all(axis=-1)
    assert is_picture.all()
    assert all(resized >= 0 for resized in geometry.resized)


@pytest.mark.parametrize("name", WHOLE)
def test_what_shows_the_whole_picture_takes_no_box(name):
    with pytest.raises(ValueError, match="shows the whole picture; it takes no box"):
        geometry_of((9, 9), rule(name), (0, 0, 4, 4))


# ---------------------------------------------------------------- the top left


def test_an_original_picture_is_not_touched_unless_it_is_too_large():
    preprocess = rule("original", pad_value=(9, 9, 9))
    image = picture(40, 70)
    geometry = geometry_of((40, 70), preprocess)
    canvas = fit_image(image, geometry, preprocess)[0]
    np.testing.assert_array_equal(canvas[:40, :70], image)
    assert (canvas[40:] == 9).all()
    assert (canvas[:, 70:] == 9).all()
    assert geometry_of((400, 256), preprocess).resized == (96, 61)


# ---------------------------------------------------------------- about the centre


@pytest.mark.parametrize("size", [(96, 128), (40, 71), (95, 127), (1, 1)])
def test_a_centred_picture_keeps_every_pixel(size):
    preprocess = rule("center")
    image = picture(*size)
    geometry = geometry_of(size, preprocess)
    canvas = fit_image(image, geometry, preprocess)[0]
    top, left = 48 - size[0] // 2, 64 - size[1] // 2
    np.testing.assert_array_equal(canvas[top : top + size[0], left : left + size[1]], image)
    canvas[top : top + size[0], left : left + size[1]] = 0
    assert not canvas.any()
    _, fraction = fit_image_with_fraction(image, geometry, preprocess)
    assert not fraction.any()


@pytest.mark.parametrize(
    ("size", "kept"), [((63, 127), (62, 126)), ((62, 126), (62, 126)), ((40, 71), (40, 71))]
)
def test_a_picture_as_large_as_an_odd_input_loses_the_last_row_and_column(size, kept):
    preprocess = rule("center_odd", 63, 127)
    image = np.maximum(picture(*size), 1)
    canvas = fit_image(image, geometry_of(size, preprocess), preprocess)[0]
    top, left = 31 - size[0] // 2, 63 - size[1] // 2
    region = canvas[top : top + kept[0], left : left + kept[1]]
    np.testing.assert_array_equal(region, image[: kept[0], : kept[1]])
    assert np.count_nonzero(canvas.any(axis=2)) == kept[0] * kept[1]


def test_a_centred_picture_that_is_too_large_is_shrunk_to_fit():
    geometry = geometry_of((480, 320), rule("center"))
    corners = scale_points_to_network(np.array([[0, 0], [320, 480]]), geometry)
    np.testing.assert_allclose(corners, [[32, 0], [96, 96]], atol=1e-4)


@pytest.mark.parametrize("size", [(300, 260), (240, 300), (64, 64), (333, 180)])
def test_an_affine_picture_is_that_of_the_original(size):
    preprocess = rule("affine", 192, 256)
    image = picture(*size)
    geometry = geometry_of(size, preprocess)
    ratio = 256 / max(size)
    matrix = np.array([[ratio, 0, 128 - ratio * size[1] / 2], [0, ratio, 96 - ratio * size[0] / 2]])
    expected = cv2.warpAffine(image, matrix, (256, 192), flags=cv2.INTER_LINEAR)
    found = fit_image(image, geometry, preprocess)[0]
    np.testing.assert_array_equal(found, expected)
    whole, fraction = fit_image_with_fraction(image, geometry, preprocess)
    # Older versions of OpenCV round positions to 1/32 of a pixel.
    assert np.abs(whole + fraction / 256 - expected).max() < 8


def test_centernet_scales_back_as_the_original():
    geometry = geometry_of((240, 301), rule("affine", 192, 256))
    points = np.random.default_rng(0).uniform(0, 64, (50, 2)).astype(np.float32)  # stride 4
    expected = (points - (32, 24)) * 301 / 64 + (150.5, 120)
    found = scale_points_to_source(points * np.float32(4), geometry)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- about a box


def matrix_of_stacked_hourglass(centre, scale, size):
    """Return source from network, (3, 3): the inverse of utils/img.py, `get_transform`."""
    side = 200 * scale
    matrix = np.eye(3)
    matrix[:2, :2] *= size / side
    matrix[0, 2] = size * (-centre[0] / side + 0.5)
    matrix[1, 2] = size * (-centre[1] / side + 0.5)
    return np.linalg.inv(matrix)


def box_of_person(centre, scale, dtype=np.float64):
    """Return the box that a margin of 1.25 makes the square of 200 * scale pixels."""
    corners = [value + sign * 80 * scale for sign in (-1, 1) for value in centre]
    return tuple(np.array(corners, dtype).tolist())


def crop_of_stacked_hourglass(image, inverse, size):
    """Cut whole pixels into a black buffer of doubles, then resize: utils/img.py, `crop`."""
    x1, y1 = np.dot(inverse, [0, 0, 1])[:2].astype(int)
    x2, y2 = np.dot(inverse, [size, size, 1])[:2].astype(int)
    buffer = np.zeros((y2 - y1, x2 - x1, 3))
    height, width = image.shape[:2]
    rows = slice(max(0, -y1), max(0, min(y2, height) - y1))
    columns = slice(max(0, -x1), max(0, min(x2, width) - x1))
    part = image[max(0, y1) : max(0, min(height, y2)), max(0, x1) : max(0, min(width, x2))]
    buffer[rows, columns] = part
    return cv2.resize(buffer, (size, size))


@pytest.mark.parametrize("seed", range(30))
def test_a_truncated_crop_is_that_of_stacked_hourglass(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 200, 2).tolist()
    image = picture(height, width, seed)
    preprocess = rule("square_crop truncated", 64, 64)
    centre = np.round(rng.uniform(-0.1, 1.1, 2) * (width, height), 3).tolist()
    scale = round(rng.uniform(0.02, 1.5), 6)
    if seed == 0:
        centre, scale = [-400.0, -390.0], 0.125  # nothing but black
    geometry = geometry_of((height, width), preprocess, box_of_person(centre, scale))
    inverse = matrix_of_stacked_hourglass(centre, scale, 64)
    assert (*geometry.step, *geometry.origin) == (
        inverse[0, 0],
        inverse[1, 1],
        inverse[0, 2],
        inverse[1, 2],
    ), "bit for bit: truncation depends on it"
    expected = crop_of_stacked_hourglass(image, inverse, 64)
    whole, fraction = fit_image_with_fraction(image, geometry, preprocess)
    assert np.abs(whole[0] + fraction[0] / 256 - expected).max() <= 1 / 256
    assert np.abs(fit_image(image, geometry, preprocess)[0] - expected).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("parts", [80, 100, 10**3, 10**6])
def test_corners_and_joints_are_cut_to_the_pixels_of_stacked_hourglass(parts, dtype):
    """Scales in 1/parts: many of the corners lie on whole pixels, where the last bit decides."""
    rng = np.random.default_rng(parts)
    preprocess = rule("square_crop truncated", 256, 256)
    for _ in range(400):
        scale = int(rng.integers(0.3 * parts, 4 * parts)) / parts
        x, y = rng.integers(20, 400, 2).tolist()
        centre = (float(x), round(y + 12 * scale, 3))  # MPII's centres were moved by the scale
        geometry = geometry_of((400, 400), preprocess, box_of_person(centre, scale, dtype))
        inverse = matrix_of_stacked_hourglass(centre, scale, 256)
        points = np.array([[0, 0], [256, 256], *rng.integers(1, 256, (16, 2))], np.float32)
        expected = [np.dot(inverse, [x, y, 1])[:2].astype(int) for x, y in points.tolist()]
        found = scale_points_to_source(points, geometry, truncates=True)
        np.testing.assert_array_equal(found, expected)


def test_points_are_truncated_toward_zero():
    geometry = geometry_of(
        (99, 99), rule("square_crop truncated", 64, 64), box_of_person((5.5, 5.0), 0.444)
    )
    points = np.random.default_rng(0).uniform(0, 64, (200, 2)).astype(np.float32)
    inverse = matrix_of_stacked_hourglass((5.5, 5.0), 0.444, 64)
    expected = [np.dot(inverse, [x, y, 1])[:2].astype(int) for x, y in points.tolist()]
    found = scale_points_to_source(points, geometry, truncates=True)
    np.testing.assert_array_equal(found, expected)
    assert (found < 0).any()


def test_an_exact_crop_begins_between_two_pixels():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :] = np.arange(40, dtype=np.uint8)[:, None] * 4
    preprocess = rule("square_crop", 16, 16, crop_margin=1.0)
    geometry = geometry_of((40, 40), preprocess, (10.3, 8.6, 26.3, 24.6))
    whole, fraction = fit_image_with_fraction(image, geometry, preprocess)
    expected = (np.arange(16) + 10.3) * 4
    np.testing.assert_allclose((whole + fraction / 256)[0, 5, :, 1], expected, atol=1 / 256)


def test_a_crop_margin_enlarges_the_square():
    for margin in (1.0, 1.5):
        geometry = geometry_of(
            (90, 90), rule("square_crop", crop_margin=margin), (10.0, 20.0, 50.0, 40.0)
        )
        corners = scale_points_to_source(np.float32([[0, 0], [128, 96]]), geometry)
        half = 20 * margin
        expected = [[30 - half, 30 - half], [30 + half, 30 + half]]
        np.testing.assert_allclose(corners, expected, atol=1e-4)


def test_without_a_box_the_square_holds_the_whole_picture():
    geometry = geometry_of((50, 80), rule("square_crop"))
    corners = scale_points_to_source(np.float32([[0, 0], [128, 96]]), geometry)
    np.testing.assert_allclose(corners, [[0, -15], [80, 65]], atol=1e-4)


@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize(
    "box", [(0, 0, 1e-6, 1e-6), (0, 0, 1e-3, 1e-3), (-1e9, -1e9, 1e9, 1e9), (1e9, 0, 1e9 + 9, 9)]
)
def test_an_absurd_box_costs_no_more_than_the_input(name, box):
    preprocess = rule(name, pad_value=(7, 7, 7))
    geometry = geometry_of((50, 80), preprocess, box)
    found = fit_image(picture(50, 80), geometry, preprocess)
    assert found.shape == (1, 96, 128, 3)
    if box[2] > 1e8:
        assert (found == 7).mean() > 0.99


def test_a_view_gives_the_same_crop_as_its_copy():
    image = picture(90, 120)[::-1, ::2, ::-1]
    for name in ("affine", "square_crop"):
        preprocess = rule(name)
        geometry = geometry_of(image.shape[:2], preprocess)
        np.testing.assert_array_equal(
            fit_image(image, geometry, preprocess), fit_image(image.copy(), geometry, preprocess)
        )
