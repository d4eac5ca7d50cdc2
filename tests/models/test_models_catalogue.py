"""What is listed of every model is what its modules have."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.models import get_spec, list_models, model_manifest

SPECS = {name: get_spec(name) for name in list_models()}
SUPPRESSING = ("densepose", "maskrcnn", "retinaface", "upsnet", "vpsnet")
"""Families whose suppression looks at the scores."""


def look_at_shapes_alone(monkeypatch):
    """Give suppression and RoI-Align, which have no product, the form they have in an export.

    A deformable convolution has the products of an ordinary one.
    """

    def results(*_, dtypes, shapes, **__):
        return [
            torch.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
        ]

    def result(operator, inputs, attributes=None, *, dtype, shape, **__):
        if operator == "edgeseg::DeformConv2d":
            x, _, weight, bias, _ = inputs
            options = {key: attributes[key] for key in ("stride", "padding", "dilation", "groups")}
            return torch.nn.functional.conv2d(x, weight, bias, **options)
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(torch.onnx.ops, "symbolic_multi_out", results)
    monkeypatch.setattr(torch.onnx.ops, "symbolic", result)


@pytest.mark.parametrize("name", SPECS)
def test_multiplications_are_counted(name, monkeypatch):
    spec = SPECS[name]
    if spec.family in SUPPRESSING:
        look_at_shapes_alone(monkeypatch)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = spec.build(name, None, {}).eval().to("meta")
        inputs = model_manifest(model).inputs
        model(*(torch.ones(s.shape, dtype=getattr(torch, s.dtype)) for s in inputs))
    assert counter.get_total_flops() / 2e9 == pytest.approx(spec.gflops, rel=0.02, abs=0.05)


def test_every_licence_says_what_it_is_of():
    for spec in SPECS.values():
        assert "code" in spec.licence, spec.name
        assert "weights" in spec.licence, spec.name


def test_what_finds_joints_is_listed_under_key_points():
    found = {name for name, spec in SPECS.items() if spec.purpose == "keypoints"}
    assert {name for name in SPECS if name.endswith("_pose")} <= found
    assert "keypointrcnn_resnet50_fpn" in found
    assert {name for name, spec in SPECS.items() if spec.family == "hourglass"} <= found
    assert not {name for name in found if "mask" in name}
