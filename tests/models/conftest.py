"""Golden models, built once a session."""

import functools

import pytest
from golden import load_case

import edgeseg

NAMES = {
    ("densepose", "dev"): "densepose_resnet50_fpn",
    ("densepose", "dev_legacy"): "densepose_resnet50_fpn_legacy",
    ("densepose", "dev_wc2m"): "densepose_resnet50_fpn_wc2m",
    ("maskrcnn_torchvision", "dev"): "maskrcnn_resnet50_fpn",
    ("maskrcnn_torchvision", "dev_keypoint"): "keypointrcnn_resnet50_fpn",
    ("maskrcnn_detectron2", "dev"): "maskrcnn_resnet50_fpn_3x",
    ("maskrcnn_detectron2", "dev_panoptic"): "panoptic_fpn_resnet50_3x",
}

OPTIONS = {"densepose": {"max_surfaces": 6}}
"""A surface depends on its own box alone, and is the most costly part."""


@pytest.fixture(scope="session")
def golden_model():
    """(system, case) -> the case and the model with its weights."""

    @functools.cache
    def build(system, case):
        golden = load_case(system, case)
        model = edgeseg.create_model(
            NAMES[system, case],
            weights=golden.weights(),
            image_size=golden.input_size,
            **OPTIONS.get(system, {}),
        )
        return golden, model

    return build
