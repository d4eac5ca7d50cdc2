"""The tasks give the originals' inputs, and their results from the originals' network outputs."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_model import instance_manifest, instance_outputs, task_manifest
from golden import load_case as load_golden

from edgeseg_runtime.bundle.manifest import Preprocess, TensorSpec
from edgeseg_runtime.picture.geometry import fit_image, geometry_of, scale_boxes_to_source
from edgeseg_runtime.tasks import create_task

GOLDEN = Path(__file__).parents[1] / "golden"

TORCHVISION = {
    "preprocess": {"max_size": 480},
    "mask_paste": "expanded_box",
}
DETECTRON2 = {
    "preprocess": {"max_size": 480, "interpolation": "pillow_bilinear", "rounding": "half_up"},
    "mask_paste": "grid_sample",
    "drop_empty_boxes": True,
}
RAW_NAMES = {  # before the last step: boxes, scores, labels
    "maskrcnn_torchvision": ("det_boxes_resized", "scores", "labels"),
    "maskrcnn_detectron2": ("raw_boxes", "raw_scores", "raw_classes"),
}


def load_case(system):
    folder = GOLDEN / system / "dev"
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    case = json.loads((folder / "case.json").read_text("utf-8"))
    picture = fill.sample_image(**case["image"])
    with np.load(folder / "outputs.npz") as stored:
        return picture[..., ::-1], dict(stored)


def task(options):
    return create_task(instance_manifest(size=(320, 480), rows=100, cells=28, **options))


def sampled(array, arrays, name):
    return array.ravel()[arrays[f"{name}__index"]], arrays[f"{name}__value"]


def network_input(canvas_HW3, resized, mean, std):
    """Return the padded (3, H, W) float input, zero where there is no picture."""
    height, width = resized
    result = np.zeros(canvas_HW3.shape, np.float32)
    result[:height, :width] = (canvas_HW3[:height, :width] - np.float32(mean)) / np.float32(std)
    return result.transpose(2, 0, 1)


def test_torchvision_input_is_met_up_to_the_rounding_of_uint8():
    picture, arrays = load_case("maskrcnn_torchvision")
    inputs, geometry = task(TORCHVISION).preprocess(picture)
    np.testing.assert_array_equal(inputs["image_size"], arrays["resized_size"])
    mean, std = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255
    rgb = inputs["image"][0, ..., ::-1]
    found, expected = sampled(network_input(rgb, geometry.resized, mean, std), arrays, "input")
    assert np.abs(found - expected).max() < 0.75 / (0.224 * 255)
    assert np.abs(found - expected).mean() < 0.25 / (0.224 * 255)


def test_detectron2_input_is_met_exactly():
    picture, arrays = load_case("maskrcnn_detectron2")
    inputs, geometry = task(DETECTRON2).preprocess(picture)
    np.testing.assert_array_equal(inputs["image_size"], arrays["resized_size"])
    height, width = geometry.resized
    canvas = inputs["image"][0]
    np.testing.assert_array_equal(*sampled(canvas[:height, :width], arrays, "resized_bgr"))
    tensor = network_input(canvas, geometry.resized, [103.53, 116.28, 123.675], [1, 1, 1])
    np.testing.assert_array_equal(*sampled(tensor, arrays, "input"))


@pytest.mark.parametrize(
    ("system", "options"),
    [("maskrcnn_torchvision", TORCHVISION), ("maskrcnn_detectron2", DETECTRON2)],
)
def test_instances_are_those_of_the_original(system, options):
    """The mask maps are stored sampled; cells that are not stored are set to 0, then to 1.

    Pasting is monotonous, so that the original's mask lies between the two results, and equals
    them where only stored cells play a part.
    """
    picture, arrays = load_case(system)
    instance_task = task(options)
    _, geometry = instance_task.preprocess(picture)
    boxes, scores, labels = (arrays[name] for name in RAW_NAMES[system])
    bounds = []
    for unknown in (0.0, 1.0):
        maps = np.full((100, 28, 28), unknown, np.float32)
        maps.ravel()[arrays["mask_probs__index"]] = arrays["mask_probs__value"]
        outputs = instance_outputs(boxes=boxes, scores=scores, labels=labels, masks=maps)
        result = instance_task.postprocess(outputs, geometry)
        np.testing.assert_array_equal(result.boxes, arrays["boxes"])
        np.testing.assert_array_equal(result.scores, arrays["scores"])
        np.testing.assert_array_equal(result.labels, arrays["labels"])
        bounds.append(result.masks)
    low, high = bounds
    expected = np.unpackbits(arrays["masks_bits"], count=low.size).reshape(low.shape).astype(bool)
    assert (low & ~expected).sum() + (expected & ~high).sum() <= 5
    assert low.sum() > 50_000, "many pixels must be decided by stored cells"
    assert (~high).sum() > 10 * low.sum()


# ---------------------------------------------------------------- Stacked Hourglass


def test_stacked_hourglass_sees_the_same_crop_and_places_the_same_joints():
    golden = load_golden("hourglass", "dev")
    config, arrays = golden.description["config"], golden.arrays
    x, y = config["center_xy"]
    half = config["scale"] * config["pixels_per_scale"] / 1.25 / 2
    image = TensorSpec(name="image", dtype="uint8", shape=(1, 256, 256, 3))
    fraction = TensorSpec(name="image_fraction", dtype="uint8", shape=(1, 256, 256, 3))
    manifest = task_manifest(
        "keypoints",
        {"keypoints": (16, 3)},
        size=(256, 256),
        inputs=(image, fraction),
        preprocess={"rounding": "truncate"},
        postprocess={"point_rounding": "truncate"},
    )
    pose = create_task(manifest)
    box = (x - half, y - half, x + half, y + half)
    inputs, geometry = pose.preprocess(golden.image, box)
    crop = inputs["image"][0] + inputs["image_fraction"][0] / 256
    found, expected = sampled(np.ascontiguousarray(crop[..., ::-1]), arrays, "crop_image")
    assert np.abs(found - expected).max() <= 1 / 256
    result = pose.postprocess({"keypoints": arrays["crop_joints"]}, geometry)
    np.testing.assert_array_equal(result.keypoints[..., :2], arrays["joints"])
    np.testing.assert_array_equal(result.keypoints[..., 2], arrays["scores"])


# ---------------------------------------------------------------- CenterNet


@pytest.mark.parametrize("case", ["dev", "dev_dla34", "dev_dlav0", "dev_multi_pose"])
def test_centernet_sees_the_same_picture_and_places_the_same_boxes(case):
    golden = load_golden("centernet_points", case)
    config, arrays = golden.description["config"], golden.arrays
    preprocess = Preprocess(
        height=config["input_h"],
        width=config["input_w"],
        resize="center" if config["keep_res"] else "affine",
    )
    geometry = geometry_of(golden.image.shape[:2], preprocess)
    canvas = fit_image(golden.image, geometry, preprocess)[0]
    tensor = (canvas / 255 - config["mean"]) / config["std"]
    found, expected = sampled(tensor.transpose(2, 0, 1).copy(), arrays, "input")
    is_exact = config["keep_res"] or cv2.__version__.startswith("5")
    # Older versions of OpenCV round positions to 1/32 of a pixel: up to 3 grey levels.
    assert np.abs(found - expected).max() <= (1e-5 if is_exact else 3.5 / 255 / 0.27)
    boxes = scale_boxes_to_source(arrays["decoded"][:, :4] * np.float32(4), geometry)
    order = [np.lexsort(array[:, :4].round(2).T) for array in (boxes, arrays["final"])]
    np.testing.assert_allclose(boxes[order[0]], arrays["final"][order[1], :4], atol=1e-3)


# ---------------------------------------------------------------- YOLACT


@pytest.mark.parametrize("case", ["dev", "dev_plus", "dev_darknet53"])
def test_yolact_gets_the_same_whole_pixels(case):
    golden = load_golden("yolact", case)
    manifest = task_manifest(
        "instances",
        {"boxes": (100, 4), "scores": (100,), "labels": (100,)},
        size=(550, 550),
        preprocess={"resize": "stretch", "rounding": "floor"},
        postprocess={"box_rounding": "truncate"},
    )
    yolact = create_task(manifest)
    _, geometry = yolact.preprocess(golden.image)
    boxes, scores, labels = (golden.arrays[f"det_{name}"] for name in ("box", "score", "class"))
    outputs = instance_outputs(boxes=boxes * 550, scores=scores, labels=labels)
    result = yolact.postprocess(outputs, geometry)
    np.testing.assert_array_equal(result.boxes, golden.arrays["final_box"])
