"""UPSNet through a bundle: three graphs, of which two run for as many instances as there are."""

import numpy as np
import pytest
import torch
from golden import load_case
from upsnet_cases import CASE, SMALL, SYSTEM, check_panoptic, golden_options

import edgeseg
import edgeseg_runtime
from edgeseg_runtime.tensorrt.engines import build_bundle

PICTURE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small model that is sure of its classes, and its bundle."""
    torch.manual_seed(1)
    model = edgeseg.create_model("upsnet_resnet50_cityscapes", **SMALL, backbone="small")
    with torch.no_grad():
        model.box_predictor.cls_score.weight.mul_(40)
        model.box_predictor.cls_score.bias[0] = -2
        model.mask_head.predictor.weight.mul_(20)
        model.semantic_head.predictor.bias[11:] = 3  # things everywhere
        for conv in model.semantic_head.convs:
            conv.offset.weight.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("upsnet") / "bundle"
    return model, edgeseg.export_bundle(model, folder, images=[PICTURE], variants=False)


def test_a_bundle_gives_the_segments_and_instances_of_the_model_twice_in_a_row(exported):
    model, bundle = exported
    expected = edgeseg.torch_predictor(model)(PICTURE)
    assert expected.is_thing.sum() > 0
    assert len(expected.instances) == SMALL["box_detections_per_img"]
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        parity = predictor.manifest.parity
        assert parity["is_within_tolerance"]
        assert parity["num_detections"] > SMALL["box_detections_per_img"]
        assert {"free run.contender_masks", "free run.masks"} <= parity["stages"].keys()
        for _ in range(2):
            found = predictor(PICTURE)
            np.testing.assert_array_equal(found.labels, expected.labels)
            assert (found.ids != expected.ids).sum() <= 5
            # Their scores tie at 1, so rows may swap; parity has matched them one by one.
            np.testing.assert_allclose(
                np.sort(found.instances.scores), np.sort(expected.instances.scores), atol=1e-4
            )
            assert sum(mask.sum() for mask in found.instances.masks) > 0


def test_the_weights_of_the_mask_head_are_in_the_bundle_once(exported):
    _, bundle = exported
    manifest = edgeseg_runtime.Manifest.load(bundle)
    assert list(manifest.graphs) == ["detect", "contend", "mask"]
    assert manifest.graphs["contend"].rows.counts == "contender_scores"
    assert manifest.graphs["contend"].weights == manifest.graphs["mask"].weights is not None


def test_tensorrt_rtx_compiles_all_graphs(exported, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    _, bundle = exported
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert all(engine.path.stat().st_size > 10_000 for engine in engines)


@pytest.mark.slow
def test_a_bundle_gives_the_original_s_segments(tmp_path):
    golden = load_case(SYSTEM, CASE)
    model = edgeseg.create_model(
        "upsnet_resnet50_coco", weights=golden.weights(), **golden_options(golden)
    )
    bundle = edgeseg.export_bundle(
        model, tmp_path / "bundle", images=[golden.image], variants=False
    )
    del model
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        check_panoptic(golden, predictor(golden.image), pixels=5)
