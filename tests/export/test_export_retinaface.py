"""RetinaFace bundles: the original's faces in ONNX Runtime, any number of them, TensorRT-RTX."""

import numpy as np
import pytest
from golden import load_case
from retinaface_cases import tied_model

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]


@pytest.fixture(scope="module")
def model():
    return edgeseg.create_model("retinaface_tiny", weights="shapes")


@pytest.fixture(scope="module")
def bundle(bundle_of):
    """The bundle of retinaface_tiny with its shipped weights."""
    return bundle_of("retinaface_tiny")


@pytest.fixture(scope="module")
def pictures():
    return [sample.image for sample in open_dataset("shapes", kind="faces", limit=3)]


def faces_of(folder, *images):
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        return [predictor(image) for image in images]


def test_a_bundle_gives_the_original_s_faces(tmp_path):
    """Twice: nothing is left over from the picture before."""
    golden = load_case("retinaface", "dev")
    model = edgeseg.create_model(
        "retinaface_mobilenet025", weights=golden.weights(), image_size=golden.input_size
    )
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", images=[golden.image])
    parity = Manifest.load(folder).parity
    assert (parity["num_detections"], parity["num_unmatched"]) == (41, 0)
    expected = golden.arrays["dets"]
    for result in faces_of(folder, golden.image, golden.image):
        assert len(result) == len(expected)
        np.testing.assert_allclose(result.boxes, expected[:, :4], atol=1e-3)
        np.testing.assert_allclose(result.scores, expected[:, 4], atol=1e-5)
        np.testing.assert_allclose(result.landmarks.reshape(-1, 10), expected[:, 5:], atol=1e-3)


def test_the_bundle_finds_what_the_model_finds(model, bundle, pictures):
    predictor = edgeseg.torch_predictor(model)
    for found, image in zip(faces_of(bundle, *pictures), pictures, strict=True):
        expected = predictor(image)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
        np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=0.01)
        np.testing.assert_allclose(found.gender, expected.gender, atol=1e-4)
        np.testing.assert_allclose(found.mesh, expected.mesh, atol=0.01)
        assert found.mesh.shape == (len(found), 169, 3)


def test_the_bundle_says_what_it_holds(bundle):
    manifest = Manifest.load(bundle)
    assert [(s.name, s.dtype, s.shape) for s in manifest.outputs] == [
        ("boxes", "float32", (1, 20, 4)),
        ("scores", "float32", (1, 20)),
        ("labels", "int32", (1, 20)),
        ("landmarks", "float32", (1, 20, 5, 2)),
        ("gender", "float32", (1, 20)),
        ("mesh", "float32", (1, 20, 169, 3)),
    ]
    assert manifest.labels == ("__background__", "face")
    assert manifest.keypoint_names[2] == "nose"
    assert manifest.preprocess.pad_value == (104, 117, 123)
    assert manifest.parity["is_within_tolerance"] is True
    assert 0 < manifest.parity["stages"]["mesh"] < 1e-4


def test_exact_ties_fall_in_the_bundle_as_in_the_model(tmp_path):
    model = tied_model()
    blank = np.zeros((64, 96, 3), np.uint8)
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", images=[blank])
    (found,) = faces_of(folder, blank)
    expected = edgeseg.torch_predictor(model)(blank)
    assert len(found) == len(expected) == 12
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "most"),
    [({"keep_top_k": 1}, 1), ({"nms_threshold": 1.0}, 20)],
    ids=["one", "maximum"],
)
def test_no_face_and_the_maximum_in_turn_twice(tmp_path, pictures, options, most):
    model = edgeseg.create_model(
        "retinaface_tiny", weights="shapes", confidence_threshold=0.5, **options
    )
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", num_images=1)
    blank = np.full_like(pictures[0], 90)
    results = faces_of(folder, blank, pictures[0], blank, pictures[0])
    assert [len(result) for result in results] == [0, most, 0, most]
    for result in results:
        assert result.landmarks.shape == (len(result), 5, 2)
        assert result.gender.shape == (len(result),)
        assert result.mesh.shape == (len(result), 169, 3)


@pytest.mark.slow
def test_a_free_batch_axis_gives_each_picture_its_own_faces(model, pictures, tmp_path):
    import onnxruntime

    folder = edgeseg.export_bundle(model, tmp_path / "free", dynamic_batch=True, num_images=1)
    session = onnxruntime.InferenceSession(
        (folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    task = edgeseg.torch_predictor(model).task
    inputs = [task.preprocess(image)[0]["image"] for image in pictures]
    together = session.run(None, {"image": np.concatenate(inputs)})
    for row, image in enumerate(inputs):
        for batch, alone in zip(together, session.run(None, {"image": image}), strict=True):
            np.testing.assert_allclose(batch[row], alone[0], atol=1e-3)


def test_the_tiny_model_compiles_for_every_target(bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == sorted(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size"),
    [("retinaface_mobilenet025", 640),
     pytest.param("retinaface_resnet50", 840, marks=pytest.mark.exhaustive),
     pytest.param("retinaface_resnet50", (300, 236), marks=pytest.mark.exhaustive)],
    ids=["mobilenet025", "resnet50", "resnet50-odd-maps"],
)  # fmt: skip
def test_the_reference_models_compile(tmp_path, name, image_size):
    pytest.importorskip("tensorrt_rtx")
    model = edgeseg.create_model(name, image_size=image_size)
    folder = edgeseg.export_bundle(model, tmp_path / name, num_images=1)
    del model
    (engine,) = build_bundle(folder, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert engine.path.stat().st_size > 100_000
