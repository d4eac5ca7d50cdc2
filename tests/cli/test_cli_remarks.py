"""What an export says in its last lines."""

from dataclasses import replace

import pytest
import torch

from edgeseg.cli.export import remarks
from edgeseg.models import get_spec

PARITY = {"num_detections": 1, "max_abs": {"boxes": 0.0}, "is_within_tolerance": True}


def _remarks(config=None, **provenance):
    spec = get_spec("centernet_tiny")
    with torch.device("meta"):
        manifest = spec.manifest(spec.build(spec.name, None, config or {}))
    return list(remarks(replace(manifest, parity=PARITY, provenance=provenance)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, []),
        ({"labels": ("cat", "dog")}, []),
        ({"num_classes": 1}, ["the class class_1 has no name: give --labels a,b,c, a file or coco:DIR"]),
        ({"num_classes": 3}, ["the classes class_1 to class_3 have no names: give --labels a,b,c, a file or coco:DIR"]),
    ],
)  # fmt: skip
def test_classes_without_names_are_said(config, expected):
    assert _remarks(config) == expected


def test_the_part_of_a_checkpoint_that_was_taken_is_said():
    assert _remarks(weights="c.pth", weights_key="", weights_others=[]) == []
    assert _remarks(weights="c.pth", weights_key="model", weights_others=[]) == [
        "the weights are those of 'model' in c.pth"
    ]
    assert _remarks(weights="c.pth", weights_key="model_ema.module", weights_others=["model"]) == [
        "the weights are those of 'model_ema.module' in c.pth",
        "these are averaged weights; 'model' would have fitted as well: choose with --weights-key model",
    ]


def _lowered(ap, **options):
    agreement = {"ap": ap, "num_pictures": 4}
    lowered = {"agreement_with_fp32": agreement, "calibration": "mse", "num_calibration": 100}
    spec = get_spec("centernet_tiny")
    with torch.device("meta"):
        manifest = spec.manifest(spec.build(spec.name, None, {}))
    parity = PARITY | {"precision": lowered | options}
    return list(remarks(replace(manifest, parity=parity, precision="int8")))


def test_a_low_agreement_is_said_with_what_to_try():
    assert _lowered({"bbox": 0.95, "segm": None}) == []
    assert _lowered({"bbox": None}) == []
    (remark,) = _lowered({"bbox": 0.99, "segm": 0.91})
    assert remark == (
        "int8 agrees with fp32 to 0.910 only, less than 0.95, on 4 pictures. Try --precision auto, which "
        "leaves in float32 what loses most; edgeseg compare, which names the nodes that lose it"
    )
    (remark,) = _lowered({"bbox": 0.9}, calibration="minmax", num_calibration=20)
    assert "more pictures than 20 to calibrate on" in remark
    assert "--calibration-method mse" in remark
