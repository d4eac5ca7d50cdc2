"""YOLACT bundles: the original's instances in ONNX Runtime, no detection and the maximum, TensorRT-RTX."""

import numpy as np
import pytest
from golden import match_detections
from yolact_cases import NAMES, load_instances

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]
PICTURE = open_dataset("shapes", limit=1)[0].image


@pytest.fixture(scope="module")
def tiny_model():
    return edgeseg.create_model("yolact_tiny", weights="shapes")


@pytest.fixture(scope="module")
def tiny_bundle(bundle_of):
    """The bundle of yolact_tiny with its shipped weights."""
    return bundle_of("yolact_tiny")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "dev_plus" else pytest.mark.exhaustive)
        for case in NAMES
    ],
)
def test_a_bundle_gives_the_original_s_results(tmp_path, case):
    """And TensorRT-RTX compiles it."""
    golden = load_instances(case)
    model = edgeseg.create_model(NAMES[case], weights=golden.weights())
    bundle = edgeseg.export_bundle(model, tmp_path / case, images=[golden.image])
    del model
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        result = predictor(golden.image)
    rows = match_detections(result, golden, box_px=1, score=1e-4)
    assert (result.boxes[rows] != golden.arrays["boxes"]).sum() <= 2
    different = result.masks[rows] != golden.masks()
    assert different.sum() <= 50, f"{different.sum()} of {different.size} pixels"
    if result.mask_scores is not None:
        expected = golden.arrays["final_mask_score"]
        np.testing.assert_allclose(result.mask_scores[rows], expected, atol=1e-4)
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm75", "sm86"], out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == ["sm75", "sm86"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["yolact_resnet101", "yolact_plus_resnet101"])
def test_the_other_official_models_compile_at_their_size(tmp_path, name):
    pytest.importorskip("tensorrt_rtx")
    bundle = edgeseg.export_bundle(edgeseg.create_model(name), tmp_path / name, num_images=1)
    (engine,) = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert engine.size_bytes > 100_000_000


def test_the_tiny_model_compiles_for_every_target(tiny_bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(tiny_bundle, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == sorted(TARGETS)


@pytest.mark.parametrize("nms", ["fast_cross_class", "traditional"])
def test_the_other_suppressions_are_the_same_in_the_bundle(tmp_path, nms):
    model = edgeseg.create_model("yolact_tiny", weights="shapes", nms=nms)
    bundle = edgeseg.export_bundle(model, tmp_path / nms, images=[PICTURE])
    parity = Manifest.load(bundle).parity
    assert parity["num_detections"] > 0
    assert parity["num_unmatched"] == 0


def test_the_masks_are_a_convolution(tiny_bundle):
    """TensorRT-RTX has no float32 matrix product for Turing."""
    import onnx

    graph = onnx.load(tiny_bundle / "model.onnx").graph
    assert not {node.op_type for node in graph.node} & {"MatMul", "Gemm", "Einsum"}


def test_a_free_batch_axis_gives_each_picture_its_own_result(tiny_model, tmp_path):
    import onnxruntime

    bundle = edgeseg.export_bundle(
        tiny_model, tmp_path / "free", dynamic_batch=True, images=[PICTURE]
    )
    manifest = Manifest.load(bundle)
    session = onnxruntime.InferenceSession(
        (bundle / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        inputs = [
            predictor.task.preprocess(image)[0] for image in (PICTURE, PICTURE[:, ::-1].copy())
        ]
        alone = [predictor.backend.run(each) for each in inputs]
    together = session.run(
        [spec.name for spec in manifest.outputs],
        {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]},
    )
    for spec, batch in zip(manifest.outputs, together, strict=True):
        for row, single in zip(batch, alone, strict=True):
            np.testing.assert_allclose(row, single[spec.name][0], atol=1e-3)


@pytest.mark.parametrize(("winner", "count"), [(0, 0), (1, 30)], ids=["none", "maximum"])
def test_no_detection_and_the_maximum_twice_in_a_row(tmp_path, winner, count):
    model = edgeseg.create_model("yolact_tiny", weights="shapes", nms_thresh=1.0)
    model.head.classes.bias.data.reshape(-1, 7)[:, winner] += 50
    bundle = edgeseg.export_bundle(model, tmp_path / "bundle", images=[PICTURE])
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        for _ in range(2):
            result = predictor(PICTURE)
            assert len(result) == count
            assert result.masks.shape == (count, *PICTURE.shape[:2])


def test_a_single_detection_twice_in_a_row(tmp_path):
    model = edgeseg.create_model("yolact_tiny", weights="shapes", max_num_detections=1)
    bundle = edgeseg.export_bundle(model, tmp_path / "bundle", images=[PICTURE])
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        assert [len(predictor(PICTURE)) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("winner", "most"), [(0, 30), (1, 1), (1, 30)], ids=["none", "one", "maximum"]
)
def test_yolact_plus_plus_scores_no_mask_one_and_the_maximum_twice_in_a_row(tmp_path, winner, most):
    model = edgeseg.create_model(
        "yolact_tiny", use_maskiou=True, image_size=256, nms_thresh=1.0, max_num_detections=most
    )
    model.head.classes.bias.data.reshape(-1, 7)[:, winner] += 50
    # All scores are equal: which priors come first is the engine's affair.
    bundle = edgeseg.export_bundle(
        model, tmp_path / "bundle", images=[PICTURE], allow_mismatch=True
    )
    count = most if winner else 0
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        for _ in range(2):
            result = predictor(PICTURE)
            assert len(result) == count
            assert result.masks.shape == (count, *PICTURE.shape[:2])
            assert result.mask_scores.shape == (count,)
