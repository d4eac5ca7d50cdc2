"""The second picture that carries what uint8 loses."""

import numpy as np
import pytest
from fake_model import instance_manifest

from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.tasks import create_task


def test_padding_has_neither_grey_level_nor_fraction():
    task = create_task(instance_manifest(size=(64, 64), takes_fraction=True))
    image = np.random.default_rng(0).integers(1, 256, (30, 50, 3), dtype=np.uint8)
    inputs, geometry = task.preprocess(image)
    assert set(inputs) == {"image", "image_size", "image_fraction"}
    height, width = geometry.resized
    for name in ("image", "image_fraction"):
        assert inputs[name].shape == (1, 64, 64, 3)
        assert inputs[name][0, :height, :width].any()
        assert not inputs[name][0, height:].any()
        assert not inputs[name][0, :, width:].any()


def test_a_model_that_does_not_take_it_gets_a_rounded_picture():
    manifest = instance_manifest(size=(64, 64))
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    rounded = create_task(manifest).preprocess(image)[0]["image"].astype(float)
    exact = create_task(instance_manifest(size=(64, 64), takes_fraction=True)).preprocess(image)[0]
    difference = np.abs(rounded - exact["image"] - exact["image_fraction"] / 256)
    assert 0 < difference.max() < 1  # OpenCV also rounds its coefficients


def test_a_rounding_interpolation_has_no_fraction():
    manifest = instance_manifest(
        takes_fraction=True, preprocess={"interpolation": "pillow_bilinear"}
    )
    with pytest.raises(ManifestError, match="image_fraction with pillow_bilinear"):
        create_task(manifest)
