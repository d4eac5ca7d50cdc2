"""DensePose through a bundle: the stage of surfaces runs for the best persons, however many there are."""

import numpy as np
import pytest
from golden import load_case, match_detections
from surface_cases import HEADS, SMALL, check_surfaces, small_densepose

import edgeseg
import edgeseg_runtime
from edgeseg_runtime.tensorrt.engines import build_bundle

PICTURE = np.random.default_rng(0).integers(0, 255, (90, 140, 3), dtype=np.uint8)
LARGER = pytest.mark.exhaustive


@pytest.fixture(
    scope="module", params=["DeepLab", *(pytest.param(h, marks=LARGER) for h in ("decoder", "legacy"))]
)  # fmt: skip
def exported(request, tmp_path_factory):
    """A small model, and its bundle for one orientation."""
    model = small_densepose(**HEADS[request.param])
    folder = tmp_path_factory.mktemp("densepose") / "bundle"
    return model, edgeseg.export_bundle(model, folder, num_images=1, variants=False)


@pytest.mark.slow
def test_surfaces_of_a_bundle_are_those_of_the_model_twice_in_a_row(exported):
    model, bundle = exported
    expected = edgeseg.torch_predictor(model)(PICTURE)
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        for _ in range(2):
            found = predictor(PICTURE)
            assert len(found) == len(expected) == SMALL["box_detections_per_img"]
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
            assert found.num_without_surface == len(found) - SMALL["max_surfaces"]
            for ours, theirs in zip(found.surfaces, expected.surfaces, strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    is_same = ours.parts == theirs.parts
                    assert np.count_nonzero(~is_same) <= 2
                    np.testing.assert_allclose(ours.u[is_same], theirs.u[is_same], atol=1e-4)
                    assert ours.confidences.keys() == theirs.confidences.keys()


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0, 1])
def test_as_many_surfaces_as_persons_above_the_threshold(exported, wanted):
    model, bundle = exported
    scores = edgeseg.torch_predictor(model)(PICTURE).scores
    threshold = 1.0 if wanted == 0 else float(scores[:2].mean())
    with edgeseg_runtime.load(
        bundle, backend="onnxruntime", score_threshold=threshold
    ) as predictor:
        for _ in range(2):
            found = predictor(PICTURE)
            assert len(found) == wanted
            assert [surface is not None for surface in found.surfaces] == [True] * wanted


@pytest.mark.slow
def test_tensorrt_rtx_compiles_both_graphs_for_every_bucket(exported, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    _, bundle = exported
    targets = ["sm86", "sm89", "sm120"]
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=targets, out=tmp_path)
    assert len({engine.key.onnx_sha256 for engine in engines}) == 2
    assert all(engine.path.stat().st_size > 10_000 for engine in engines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "suffix"),
    [("dev_legacy", "_legacy"), *(pytest.param(*p, marks=LARGER) for p in (("dev", ""), ("dev_wc2m", "_wc2m")))],
)  # fmt: skip
def test_a_bundle_gives_the_original_s_surfaces(tmp_path, case, suffix):
    golden = load_case("densepose", case)
    model = edgeseg.create_model(
        f"densepose_resnet50_fpn{suffix}",
        weights=golden.weights(),
        image_size=golden.input_size,
        max_surfaces=6,
    )
    bundle = edgeseg.export_bundle(
        model, tmp_path / "bundle", images=[golden.image], variants=False
    )
    del model
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        result = predictor(golden.image)
    assert match_detections(result, golden, box_px=0.01, score=2e-5) == list(range(len(result)))
    surfaces = [surface for surface in result.surfaces if surface is not None]
    assert len(surfaces) >= 4
    check_surfaces(golden, surfaces)
