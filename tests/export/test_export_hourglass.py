"""Stacked Hourglass bundles: the original's joints in ONNX Runtime, any number of persons, TensorRT-RTX."""

import numpy as np
import pytest
from golden import load_case

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import detect
from edgeseg_bench.metrics.keypoints import pckh
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]
GOLDEN_BOX = np.array([[62, 52, 278, 268]], np.float32)


@pytest.fixture(scope="module")
def bundle(bundle_of):
    """The bundle of hourglass_tiny with its shipped weights."""
    return bundle_of("hourglass_tiny")


@pytest.mark.slow
def test_a_bundle_gives_the_original_s_joints(tmp_path):
    golden = load_case("hourglass", "dev")
    model = edgeseg.create_model("hourglass_stack2", weights=golden.weights())
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", images=[golden.image])
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        result = predictor(golden.image, boxes=GOLDEN_BOX)
    np.testing.assert_array_equal(result.keypoints[..., :2], golden.arrays["joints"])
    np.testing.assert_allclose(result.keypoints[..., 2], golden.arrays["scores"], atol=1e-5)


@pytest.mark.parametrize("num_persons", [0, 1, 7])
def test_any_number_of_persons_twice_in_a_row(bundle, num_persons):
    picture = load_case("hourglass", "dev").image
    rng = np.random.default_rng(num_persons)
    corners = rng.uniform(-40, 300, (num_persons, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 300, (num_persons, 2))], axis=1)
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        first, second = (predictor(picture, boxes=boxes.astype(np.float32)) for _ in range(2))
    assert first.keypoints.shape == (num_persons, 16, 3)
    assert first.scores.shape == (num_persons,)
    np.testing.assert_array_equal(first.keypoints, second.keypoints)


def test_torch_and_onnx_runtime_place_the_same_joints(bundle):
    picture = load_case("hourglass", "dev").image
    boxes = np.array([[62, 52, 278, 268], [-50, 10, 90, 200]], np.float32)
    reference = edgeseg.torch_predictor(edgeseg.create_model("hourglass_tiny", weights="shapes"))
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        found = predictor(picture, boxes=boxes).keypoints
    expected = reference(picture, boxes=boxes).keypoints
    is_same = np.abs(found[..., :2] - expected[..., :2]).max(axis=-1) < 0.01
    assert is_same.mean() > 0.95  # a joint without evidence may have two equal peaks
    np.testing.assert_allclose(found[..., 2], expected[..., 2], atol=1e-4)


def test_without_a_box_the_whole_picture_is_one_person(bundle):
    picture = load_case("hourglass", "dev").image
    height, width = picture.shape[:2]
    side = max(height, width) / 1.25  # the margin is for boxes
    box = [(width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2]
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        whole = predictor(picture)
        boxed = predictor(picture, boxes=np.array([box], np.float32))
    assert whole.keypoints.shape == (1, 16, 3)
    np.testing.assert_allclose(whole.keypoints, boxed.keypoints, atol=0.01)


def test_the_tiny_model_meets_its_bars_on_unseen_persons(bundle):
    dataset = open_dataset("shapes", split="val", kind="person_keypoints", limit=50)
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        results = [row for sample in dataset for row in detect(predictor, sample)]
    scores = pckh(dataset.coco(), results)
    assert 0.5 < scores["PCKh"] < 0.9
    assert 0.5 < scores["head"] < 1.0


def test_the_tiny_model_compiles_for_every_target(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == sorted(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["hourglass_stack2", pytest.param("hourglass_stack8", marks=pytest.mark.exhaustive)],
)
def test_the_official_models_compile_at_their_size(tmp_path, name):
    pytest.importorskip("tensorrt_rtx")
    model = edgeseg.create_model(name)
    folder = edgeseg.export_bundle(model, tmp_path / name, num_images=1)
    (engine,) = build_bundle(folder, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert engine.size_bytes > 10_000_000
