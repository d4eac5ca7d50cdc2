"""The pictures that `edgeseg export` calibrates on."""

import numpy as np

import edgeseg
from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco
from edgeseg_bench.pictures import calibration_pictures


def assert_are_those_of(pictures, split):
    expected = [sample.image for sample in ShapesDataset(split, limit=2)]
    assert len(pictures) == 2
    for picture, image in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(picture, image)


def test_calibration_takes_the_training_split(tmp_path, caplog):
    for split in ("train", "val"):
        write_coco(ShapesDataset(split, limit=3), tmp_path)
    model = edgeseg.create_model("maskrcnn_tiny")
    assert_are_those_of(calibration_pictures(f"coco:{tmp_path}", 2, model), "train")
    assert_are_those_of(calibration_pictures("shapes", 2, model), "train")
    assert_are_those_of(calibration_pictures(f"coco:{tmp_path}:val", 2, model), "val")
    assert caplog.messages == []


def test_calibration_on_what_accuracy_is_measured_on_is_said(tmp_path, caplog):
    write_coco(ShapesDataset("val", limit=3), tmp_path)
    model = edgeseg.create_model("maskrcnn_tiny")
    assert_are_those_of(calibration_pictures(f"coco:{tmp_path}", 2, model), "val")
    (message,) = caplog.messages
    assert message.startswith(f"coco:{tmp_path} has no training split (No split 'train' in ")
    assert message.endswith(f"coco:{tmp_path.name}:val is used: measure accuracy on other pictures")
