"""Small models of videos through a bundle: every frame, and both graphs compiled."""

import numpy as np
import pytest
from small_models import CLIP

import edgeseg
import edgeseg_runtime
from edgeseg_runtime.tensorrt.engines import build_bundle

MAX_DIFFERENT = 10
"""Pixels of a frame where two values are as good as equal."""


@pytest.fixture(params=["yolact_edge", "vpsnet"])
def exported(request, small_bundle):
    """A model of random weights, and its bundle."""
    return small_bundle(request.param)


def test_every_frame_of_a_bundle_is_the_model_s(exported):
    model, folder = exported
    with (
        edgeseg.torch_predictor(model).session() as reference,
        edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor,
        predictor.session() as session,
    ):
        assert predictor.manifest.parity["is_within_tolerance"]
        for frame in CLIP:
            expected, found = reference(frame), session(frame)
            assert len(found) == len(expected)
            check(found, expected)


def check(found, expected):
    if isinstance(found, edgeseg_runtime.Panoptic):
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert (found.ids != expected.ids).sum() <= MAX_DIFFERENT
        return
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.masks != expected.masks).sum() <= MAX_DIFFERENT


def test_tensorrt_rtx_compiles_both_graphs(exported, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    _, folder = exported
    engines = build_bundle(folder, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert len(engines) == len(edgeseg_runtime.Manifest.load(folder).graphs) == 2
