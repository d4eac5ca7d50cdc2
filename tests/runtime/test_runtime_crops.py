"""Crops of landmark models: pixel for pixel those that HRNet's and PFLD's own code cuts out."""

import hashlib
import json

import numpy as np
import pytest
from golden import FOLDER, fill

from edgeseg_runtime.bundle.manifest import Preprocess
from edgeseg_runtime.picture.geometry import (
    fit_image,
    fit_image_with_fraction,
    geometry_of,
    scale_points_to_source,
)

CASE = FOLDER / "landmark_crops" / "dev"
DESCRIPTION = json.loads((CASE / "case.json").read_text())
BOXES = DESCRIPTION["boxes_xyxy"]
SIZES = {"hrnet": 256, "pfld": 112, "pfld_camera": 112}


@pytest.fixture(scope="module")
def recorded():
    with np.load(CASE / "outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def picture():
    settings = DESCRIPTION["image"]
    rgb = fill.sample_image(settings["seed"], settings["height"], settings["width"])
    return np.ascontiguousarray(rgb[..., ::-1])


def rule(original, **changes):
    size, margin = SIZES[original], DESCRIPTION["margins"][original]
    options = {
        "height": size,
        "width": size,
        "resize": "square_crop",
        "rounding": original,
        "crop_margin": margin,
    }
    return Preprocess(**{**options, **changes})


def crop(picture, box, preprocess):
    """Return the crop, and where it lies."""
    geometry = geometry_of(picture.shape[:2], preprocess, box and tuple(box))
    return fit_image(picture, geometry, preprocess)[0], geometry


def about_pixels(box):
    """Return the box about PFLD's annotations, which are whole pixels, the last ones included."""
    x1, y1, x2, y2 = (int(corner) for corner in box)
    return x1, y1, x2 + 1, y2 + 1


@pytest.mark.parametrize("name", BOXES)
def test_hrnet_s_crop_is_the_original_s(picture, recorded, name):
    found, _ = crop(picture, BOXES[name], rule("hrnet"))
    rgb = np.ascontiguousarray(found[..., ::-1])
    step = DESCRIPTION["crop_step"]
    np.testing.assert_array_equal(rgb[::step, ::step], recorded[f"hrnet/{name}/crop"])
    digest = DESCRIPTION["crop_sha256"][f"hrnet/{name}/crop"]
    assert hashlib.sha256(rgb).hexdigest() == digest


@pytest.mark.parametrize("name", BOXES)
def test_hrnet_s_points_lie_where_the_original_puts_them(picture, recorded, name):
    """The original cuts them to whole pixels and adds one; ours keep their fraction."""
    _, geometry = crop(picture, BOXES[name], rule("hrnet"))
    in_crop = (recorded[f"hrnet/{name}/map_points"] - 1) * 4
    found = scale_points_to_source(in_crop, geometry)
    np.testing.assert_array_equal(np.trunc(found) + 1, recorded[f"hrnet/{name}/picture_points"])


@pytest.mark.parametrize("name", BOXES)
def test_pfld_s_crop_is_the_original_s(picture, recorded, name):
    found, geometry = crop(picture, about_pixels(BOXES[name]), rule("pfld"))
    left, top, side = recorded[f"pfld/{name}/square"].tolist()
    assert geometry.origin == (left, top)
    assert geometry.step == (side / 112, side / 112)
    step = DESCRIPTION["crop_step"]
    np.testing.assert_array_equal(found[::step, ::step], recorded[f"pfld/{name}/crop"])
    digest = DESCRIPTION["crop_sha256"][f"pfld/{name}/crop"]
    assert hashlib.sha256(np.ascontiguousarray(found)).hexdigest() == digest


@pytest.mark.parametrize("name", BOXES)
def test_the_square_of_pfld_s_camera_script_is_ours(picture, recorded, name):
    _, geometry = crop(picture, BOXES[name], rule("pfld_camera"))
    left, top, side = recorded[f"pfld_camera/{name}/square"].tolist()
    assert geometry.origin == (left, top)
    assert geometry.step == (side / 112, side / 112)


@pytest.mark.parametrize("original", SIZES)
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1, 1), None),
        ((40, 60), None),
        ((600, 3), None),
        ((40, 60), (10.2, 10.2, 10.4, 10.3)),
        ((40, 60), (500.0, 500.0, 540.0, 530.0)),
        ((40, 60), (-1e9, -1e9, 1e9, 1e9)),
    ],
    ids=["pixel", "whole", "narrow", "within a pixel", "outside", "vast"],
)
def test_every_box_gives_a_picture(original, size, box):
    image = np.full((*size, 3), 200, np.uint8)
    image[0, :-1] = 0
    preprocess = rule(original)
    found, geometry = crop(image, box, preprocess)
    assert found.shape == (preprocess.height, preprocess.width, 3)
    assert found.dtype == np.uint8
    if box is not None and box[0] > size[1]:
        assert not found.any(), "there is black outside of the picture"
    whole, fraction = fit_image_with_fraction(image, geometry, preprocess)
    np.testing.assert_array_equal(whole[0], found)
    assert not fraction.any()


def test_the_whole_picture_has_no_margin():
    for original in SIZES:
        geometry = geometry_of((40, 60), rule(original))
        size = SIZES[original]
        assert geometry.step == pytest.approx((60 / size, 60 / size))
        assert geometry.origin == pytest.approx((0, -10))


def test_pfld_s_squares_are_about_whole_pixels():
    box = (100.0, 100.0, 400.0, 400.0)
    sides = {}
    for original in ("pfld", "pfld_camera"):
        preprocess = rule(original, crop_margin=1.2)
        sides[original] = round(geometry_of((600, 800), preprocess, box).step[0] * 112)
    assert sides == {"pfld": 360, "pfld_camera": 361}
    touched = geometry_of((600, 800), rule("pfld"), (100.4, 100.4, 399.6, 399.6))
    assert touched.step == geometry_of((600, 800), rule("pfld"), box).step


def test_pfld_may_stretch_the_square():
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    square = crop(image, (20, 20, 120, 120), rule("pfld", crop_margin=1.0))[0]
    wide = crop(image, (20, 20, 120, 120), rule("pfld", crop_margin=1.0, width=56))[0]
    assert wide.shape == (112, 56, 3)
    assert np.abs(wide[:, 10].astype(int) - square[:, 20:22].mean(1)).mean() < 40
