"""CenterNet bundles: the original's detections in ONNX Runtime, any number of them, TensorRT-RTX."""

import numpy as np
import pytest
from centernet_cases import NAMES, golden_model, match

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]


@pytest.fixture(scope="module")
def model():
    return edgeseg.create_model("centernet_tiny", weights="shapes")


@pytest.fixture(scope="module")
def bundle(bundle_of):
    """The bundle of centernet_tiny with its shipped weights."""
    return bundle_of("centernet_tiny")


@pytest.fixture(scope="module")
def picture():
    (sample,) = open_dataset("shapes", split="val", limit=1)
    return sample.image


def results_of(folder, *images):
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        return [predictor(image) for image in images]


@pytest.mark.slow
@pytest.mark.parametrize("case", NAMES)
def test_a_bundle_gives_the_original_s_detections(tmp_path, case):
    """Twice: nothing is left over from the picture before."""
    golden, model = golden_model(case)
    folder = edgeseg.export_bundle(model, tmp_path / case, images=[golden.image])
    assert Manifest.load(folder).parity["num_unmatched"] == 0
    final = golden.arrays["final"]
    for result in results_of(folder, golden.image, golden.image):
        rows = match(result.boxes, result.labels, result.scores, final, box=0.01, score=1e-4)
        if model.config.kind == "pose":
            joints = result.keypoints[rows, :, :2].reshape(100, 34)
            np.testing.assert_allclose(joints, final[:, 5:39], rtol=0, atol=0.01)


def test_the_bundle_finds_what_the_model_finds(model, bundle):
    predictor = edgeseg.torch_predictor(model)
    pictures = [sample.image for sample in open_dataset("shapes", split="val", limit=3)]
    for found, image in zip(results_of(bundle, *pictures), pictures, strict=True):
        expected = predictor(image)
        sure = expected.scores > 0.1  # below, scores are dense enough to change places
        assert sure.any()
        np.testing.assert_allclose(found.boxes[: sure.sum()], expected.boxes[sure], atol=0.01)
        np.testing.assert_allclose(found.scores[: sure.sum()], expected.scores[sure], atol=1e-4)
        np.testing.assert_array_equal(found.labels[: sure.sum()], expected.labels[sure])


def test_the_bundle_says_what_it_holds(bundle):
    manifest = Manifest.load(bundle)
    assert [(s.name, s.dtype, s.shape) for s in manifest.outputs] == [
        ("boxes", "float32", (1, 50, 4)),
        ("scores", "float32", (1, 50)),
        ("labels", "int32", (1, 50)),
    ]
    assert manifest.labels[0] == "disc"
    assert manifest.category_ids == (1, 2, 3, 4, 5, 6)
    assert manifest.preprocess.resize == "affine"
    assert manifest.parity["is_within_tolerance"] is True


@pytest.mark.parametrize(
    ("logit", "max_detections", "count", "keep_res"),
    [(-200.0, 50, 0, False), (20.0, 1, 1, True), (20.0, 50, 50, False)],
    ids=["none", "one", "maximum"],
)
@pytest.mark.parametrize("kind", ["detection", "pose"])
def test_no_detection_one_and_the_maximum_twice_in_a_row(
    tmp_path, picture, kind, logit, max_detections, count, keep_res
):
    model = edgeseg.create_model(
        "centernet_tiny",
        weights="shapes" if kind == "detection" else None,
        kind=kind,
        image_size=128,
        max_detections=max_detections,
        keep_res=keep_res,
    )
    head = model.heads["heatmap"].predictor
    head.weight.data.zero_()
    head.bias.data.fill_(logit)
    # Every place is a centre of equal score: which of them come first is the engine's affair.
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", num_images=1, allow_mismatch=True)
    for result in results_of(folder, picture, picture):
        assert len(result) == count
        assert result.boxes.shape == (count, 4)
        if kind == "pose":
            assert result.keypoints.shape == (count, 17, 3)
            assert np.isfinite(result.keypoints).all()


def test_a_person_model_s_joints_come_through_a_free_batch_axis(tmp_path, picture):
    """A deformable trunk of random weights; the pose decoder keeps the batch axis free, too."""
    model = edgeseg.create_model("centernet_resnet18_dcn", kind="pose", image_size=64)
    folder = edgeseg.export_bundle(
        model, tmp_path / "bundle", dynamic_batch=True, images=[picture], allow_mismatch=True
    )
    assert Manifest.load(folder).outputs[3].shape == (-1, 100, 17, 3)
    (result,) = results_of(folder, picture)
    assert result.keypoints.shape == (len(result), 17, 3)
    assert np.isfinite(result.keypoints).all()


def test_the_tiny_model_compiles_for_every_target(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == sorted(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("centernet_resnet18_dcn", 512),
        ("centernet_dla34_pose", 256),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (
                ("centernet_dla34", 512),
                ("centernet_resnet101_dcn", 256),
                ("centernet_dlav0_34", 256),
                ("centernet_hourglass104", 128),
            )
        ),
    ],
)
def test_the_reference_models_compile(tmp_path, name, image_size):
    """Small where the size changes nothing but the time: see benchmarks/compile_models.py."""
    pytest.importorskip("tensorrt_rtx")
    model = edgeseg.create_model(name, image_size=image_size)
    folder = edgeseg.export_bundle(model, tmp_path / name, num_images=1, allow_mismatch=True)
    del model
    targets = ["sm75"] if name == "centernet_dla34_pose" else ["sm86"]
    (engine,) = build_bundle(folder, flavour="tensorrt_rtx", targets=targets, out=tmp_path)
    assert engine.path.stat().st_size > 100_000
