"""Landmark bundles: the originals' points in ONNX Runtime, any number of boxes, accuracy, TensorRT-RTX."""

import functools

import numpy as np
import pytest
from golden import load_case

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.metrics.landmarks import landmark_scores
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]
TINY = ["landmarks_regression_tiny", "landmarks_heatmap_tiny"]
FACES = open_dataset("shapes", kind="faces", limit=30)


def _golden_bundle(case, name, folder):
    golden = load_case("landmarks", case)
    model = edgeseg.create_model(name, weights=golden.weights())
    box = np.array([golden.description["config"]["box_xyxy"]], np.float32)
    bundle = edgeseg.export_bundle(model, folder / name, images=[golden.image], num_images=1)
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        (result,) = predictor(golden.image, boxes=box)
    return golden.arrays, result


def test_a_bundle_gives_pfld_s_points(tmp_path):
    """cv2.resize on uint8 and the runtime's resampling differ by a grey level at most."""
    arrays, result = _golden_bundle("dev_pfld", "landmarks_regression_pfld", tmp_path)
    np.testing.assert_allclose(result.points, arrays["points"], atol=0.1)
    np.testing.assert_allclose(result.scores, 1)


@pytest.mark.slow
def test_a_bundle_gives_hrnet_s_points(tmp_path):
    """The original cuts them to whole pixels and adds one; ours keep their fraction."""
    arrays, result = _golden_bundle("dev_hrnet_wflw", "landmarks_heatmap_hrnet_w18", tmp_path)
    np.testing.assert_array_equal(np.trunc(result.points) + 1, arrays["preds"])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("num_boxes", [0, 1, 6])
def test_any_number_of_faces_twice_in_a_row(bundle_of, name, num_boxes):
    rng = np.random.default_rng(num_boxes)
    corners = rng.uniform(-40, 250, (num_boxes, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 200, (num_boxes, 2))], axis=1)
    with edgeseg_runtime.load(bundle_of(name), backend="onnxruntime", threads=1) as predictor:
        first, second = (predictor(FACES[0].image, boxes=boxes) for _ in range(2))
    assert len(first) == len(second) == num_boxes
    for one, again in zip(first, second, strict=True):
        assert one.points.shape == (68, 2)
        assert one.scores.shape == (68,)
        np.testing.assert_array_equal(one.points, again.points)


@pytest.mark.parametrize("name", TINY)
def test_without_a_box_the_whole_picture_is_one_face(bundle_of, name):
    image = FACES[0].image
    height, width = image.shape[:2]
    side = max(height, width) / 1.25  # the margin is for boxes
    box = [(width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2]
    with edgeseg_runtime.load(bundle_of(name), backend="onnxruntime", threads=1) as predictor:
        whole = predictor(image)
        (boxed,) = predictor(image, boxes=np.array([box]))
    assert whole.box is None
    np.testing.assert_allclose(whole.points, boxed.points, atol=0.01)


@pytest.fixture(scope="module")
def errors_of(bundle_of):
    """Name of a tiny model -> the largest difference between torch and bundle, and the accuracy."""

    @functools.cache
    def measure(name):
        reference = edgeseg.torch_predictor(edgeseg.create_model(name, weights="shapes"))
        differences, found, labels = [], [], []
        with edgeseg_runtime.load(bundle_of(name), backend="onnxruntime", threads=1) as predictor:
            for sample in FACES:
                boxes = np.array([face["bbox"] for face in sample.annotations])
                boxes[:, 2:] += boxes[:, :2]
                expected = reference(sample.image, boxes=boxes)
                results = predictor(sample.image, boxes=boxes)
                found += [result.points for result in results]
                labels += [face["points_68"] for face in sample.annotations]
                differences += [
                    np.abs(a.points - b.points).max()
                    for a, b in zip(expected, results, strict=True)
                ]
        return max(differences), landmark_scores(np.stack(found), np.array(labels))

    return measure


@pytest.mark.parametrize("name", TINY)
def test_torch_and_onnx_runtime_place_the_same_points(errors_of, name):
    difference, _ = errors_of(name)
    assert difference < 0.01


def test_heat_maps_are_more_accurate_than_regression(errors_of):
    """What the literature says of the two ways; the other half, their cost, is in the catalogue."""
    errors = {name: errors_of(name)[1]["NME"] for name in TINY}
    assert 0.02 < errors["landmarks_heatmap_tiny"] < 0.06
    assert errors["landmarks_heatmap_tiny"] < errors["landmarks_regression_tiny"] < 0.12


@pytest.mark.parametrize("name", TINY)
def test_the_tiny_models_compile_for_every_target(bundle_of, name, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle_of(name), flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == sorted(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "landmarks_regression_pfld",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("landmarks_heatmap_hrnet_w18", "landmarks_heatmap_hourglass")
        ),
    ],
)
def test_the_large_models_compile_at_their_size(tmp_path, name):
    pytest.importorskip("tensorrt_rtx")
    bundle = edgeseg.export_bundle(edgeseg.create_model(name), tmp_path / name, num_images=1)
    (engine,) = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert engine.size_bytes > 1_000_000
