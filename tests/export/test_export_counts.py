"""No detection, one and as many as there may be, twice in a row, of every family."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from edited_weights import write_edited
from small_models import SEVERAL, counted

import edgeseg
import edgeseg_runtime

PICTURE = (
    np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8).repeat(10, 0).repeat(10, 1)
)
"""Coloured squares, so that boxes lie everywhere."""
SHIPPED = {"maskrcnn": 30, "yolact": 30, "retinaface": 20, "centernet": 50}
"""Family whose tiny model will do as it is shipped -> its largest number of detections."""


@dataclass(frozen=True)
class Family:
    """How a small model of a family is made, and what decides how much it finds.

    Attributes:
        bias: of the classifier, a pattern of its name.
        none, all: what changes it so that nothing, or everything, is found.
        parts: what a result has beside boxes and scores -> its shape behind the rows; None stands for the picture's.
        least: how many are found at least where everything may be; None for the largest number.
    """

    bias: str
    none: Callable
    all: Callable
    parts: dict = field(default_factory=dict)
    least: int | None = None


def wins(number, num_classes):
    """Return what lets a class win everywhere."""

    def edit(bias):
        bias.reshape(-1, num_classes)[:, number] += 50

    return edit


def is_set(value):
    return lambda bias: bias.fill(value)


FLAT = {"none": is_set(-200), "all": is_set(20)}
FAMILIES = {
    "maskrcnn": Family(r"box_predictor\.cls_score\.bias$", wins(0, 7), wins(1, 7), {"masks": None}),
    "yolact": Family(r"head\.classes\.bias$", wins(0, 7), wins(1, 7), {"masks": None}),
    "yolact ++": Family(
        r"head\.classes\.bias$", wins(0, 7), wins(1, 7), {"masks": None, "mask_scores": ()}
    ),
    "retinaface": Family(
        r"class_heads\.\d\.bias$", wins(0, 2), wins(1, 2),
        {"landmarks": (5, 2), "gender": (), "mesh": (169, 3)},
    ),
    "cornernet": Family(r"heatmap\.predictor\.bias$", **FLAT, least=1),
    # A centre in the middle of a box is a matter of chance.
    "triplets": Family(r"heatmap\.predictor\.bias$", **FLAT, least=0),
    "centernet": Family(r"heatmap\.predictor\.bias$", **FLAT),
    "centernet pose": Family(
        r"heatmap\.predictor\.bias$", **FLAT, parts={"keypoints": (17, 3)}
    ),
}  # fmt: skip


@pytest.fixture
def bundle(bundle_of, small_bundle, tmp_path):
    """Name of a family, and the largest number of detections -> a bundle."""

    def export(name, most):
        if name in SHIPPED and most > 1:
            return bundle_of(f"{name}_tiny")
        if most > 1:
            return small_bundle(name)[1]
        return edgeseg.export_bundle(
            counted(name, most), tmp_path / "bundle", images=[PICTURE], allow_mismatch=True
        )

    return export


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("maskrcnn", 1),  # its two stages are one graph then
        *((name, SHIPPED.get(name, SEVERAL)) for name in FAMILIES),
        *(
            pytest.param(name, 1, marks=pytest.mark.exhaustive)
            for name in FAMILIES
            if name != "maskrcnn"
        ),
    ],
)
def test_none_and_the_most_twice_in_a_row(bundle, tmp_path, name, most):
    family, exported = FAMILIES[name], bundle(name, most)
    for count, edit in ((0, family.none), (most, family.all)):
        folder = write_edited(exported, tmp_path / str(count), family.bias, edit)
        with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
            first, second = (predictor(PICTURE) for _ in range(2))
        for result in (first, second):
            check(result, family)
            least = count if family.least is None else min(count, family.least)
            assert least <= len(result) <= count
        np.testing.assert_array_equal(first.boxes, second.boxes)


def check(result, family):
    rows = len(result)
    assert result.boxes.shape == (rows, 4)
    assert np.isfinite(result.boxes).all()
    for part, shape in family.parts.items():
        array = getattr(result, part)
        assert array.shape == (rows, *(PICTURE.shape[:2] if shape is None else shape))
        assert np.isfinite(array).all()
