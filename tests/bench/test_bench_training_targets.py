"""What the small landmark and pose models are trained towards: losses, heat maps, mirror images."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The training scripts import their loop from their own folder."""
    folder = Path(importlib.import_module("training.loop").__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def landmarks(scripts):
    return importlib.import_module("training.landmarks")


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (0.0, 0.0),
        (4.0, 10 * math.log(3)),
        (-4.0, 10 * math.log(3)),
        (30.0, 30 - (10 - 10 * math.log(6))),
    ],
)
def test_the_wing_loss_is_a_logarithm_near_the_point_and_a_line_far_from_it(landmarks, error, loss):
    points = torch.full((2, 3, 2), 50.0)
    assert landmarks.wing_loss(points + error, points).item() == pytest.approx(loss, abs=1e-5)


def test_the_wing_loss_has_no_step_where_the_line_begins(landmarks):
    below, at = (
        landmarks.wing_loss(torch.tensor([error], dtype=torch.float64), torch.zeros(1)).item()
        for error in (10 - 1e-9, 10.0)
    )
    assert at == pytest.approx(below, abs=1e-7)


def test_a_bell_is_one_at_its_point_and_falls_evenly_around_it(landmarks):
    (bell,) = landmarks.gaussians(torch.tensor([[[3.5, 6.5]]]), height=12)[0]
    assert bell[6, 3] == bell.max() == 1
    sigma = landmarks.SIGMA
    assert bell[6, 5].item() == pytest.approx(math.exp(-4 / (2 * sigma**2)))
    assert bell[6, 1] == bell[6, 5] == bell[4, 3] == bell[8, 3]


def test_the_bells_of_a_pose_lie_in_the_same_frame(landmarks):
    hourglass = importlib.import_module("training.hourglass")
    (bell,) = hourglass.gaussians(np.float32([[3.5, 6.5]]), height=12, width=9)
    assert bell.shape == (12, 9)
    assert bell[6, 3] == bell.max() == 1


def test_a_mirror_image_of_a_mirror_image_is_the_face(landmarks):
    mirror = np.array(landmarks.MIRROR_68)
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    in_the_middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    np.testing.assert_array_equal(np.flatnonzero(mirror == np.arange(68)), in_the_middle)
