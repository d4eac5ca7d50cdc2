"""A small Panoptic FPN, exported: the bundle's segments are those of the PyTorch model."""

import numpy as np
import pytest
import torch

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.tensorrt.engines import build_bundle

STUFF = ("sky", "ground", "water")


@pytest.fixture(scope="module")
def model():
    """Return the trained detector with a semantic head that is not."""
    torch.manual_seed(0)
    options = {"stuff_labels": STUFF, "semantic_channels": 32, "stuff_area": 60}
    panoptic = edgeseg.create_model("maskrcnn_tiny", image_size=(128, 160), **options)
    detector = edgeseg.create_model("maskrcnn_tiny", weights="shapes")
    missing, unexpected = panoptic.load_state_dict(detector.state_dict(), strict=False)
    assert all(name.startswith("semantic_head.") for name in missing)
    assert unexpected == []
    return panoptic


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("panoptic") / "bundle"
    return edgeseg.export_bundle(model, folder, num_images=2, variants=False)


def test_a_bundle_gives_the_segments_of_the_model(model, bundle):
    reference = edgeseg.torch_predictor(model)
    kinds = set()
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        assert predictor.manifest.parity["num_detections"] > 0
        for sample in open_dataset("shapes", kind="panoptic", limit=6):
            if sample.height > sample.width:
                continue  # the bundle has one orientation, the reference both
            expected, found = reference(sample.image), predictor(sample.image)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
            assert (found.ids != expected.ids).sum() <= 10
            kinds |= set(found.is_thing.tolist())
    assert kinds == {True, False}


def test_the_masks_of_found_things_alone(bundle):
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        assert predictor.manifest.task == "panoptic"
        assert predictor.manifest.graphs["mask"].rows is not None
        empty = predictor(np.zeros((128, 160, 3), np.uint8))
        assert not empty.is_thing.any()


@pytest.mark.exhaustive  # instances show both orientations in test_export_variants.py
def test_both_orientations(model, tmp_path):
    bundle = edgeseg.export_bundle(model, tmp_path / "both", num_images=2)
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        assert list(predictor.manifest.variants) == ["portrait"]
        tall = predictor(np.zeros((160, 128, 3), np.uint8))
        assert tall.ids.shape == (160, 128)


def test_engines_are_compiled_ahead(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert all(engine.path.stat().st_size > 10_000 for engine in engines)


@pytest.mark.parametrize(
    ("precision", "agreement"),
    [("int8", 0.5), pytest.param("fp16", 0.95, marks=pytest.mark.exhaustive)],
)
def test_precisions_are_compared_by_their_segments(model, tmp_path, precision, agreement):
    samples = open_dataset("shapes", kind="panoptic", limit=4)
    folder = edgeseg.export_bundle(
        model,
        tmp_path / precision,
        precision=precision,
        calibration=[sample.image for sample in samples],
        variants=False,
        num_images=2,
    )
    with edgeseg_runtime.load(folder, backend="onnxruntime") as predictor:
        found = predictor.manifest.parity["precision"]["agreement_with_fp32"]
        assert len(predictor(samples[0].image)) > 0
    assert agreement < found["ap"]["pq"] <= 1
