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
