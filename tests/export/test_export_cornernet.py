"""CornerNet bundles: the originals' detections in ONNX Runtime, any number of them, TensorRT-RTX."""

import numpy as np
import pytest
from cornernet_cases import NAMES, golden_model, match, small_model

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]
KINDS = ["corners", "triplets"]

SHOWN = [("cornernet", "dev_squeeze"), ("centernet_triplet", "dev")]
"""One case of corners and one of triplets; the others go the same way, with larger networks."""


@pytest.fixture(scope="module")
def picture():
    (sample,) = open_dataset("shapes", split="val", limit=1)
    return sample.image


def results_of(folder, *images):
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        return [predictor(image) for image in images]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "case"),
    [pytest.param(*name, marks=() if name in SHOWN else pytest.mark.exhaustive) for name in NAMES],
)
def test_a_bundle_gives_the_original_s_detections(tmp_path, system, case):
    """Twice: nothing is left over from the picture before."""
    golden, model = golden_model(system, case)
    folder = edgeseg.export_bundle(model, tmp_path / case, images=[golden.image])
    assert Manifest.load(folder).parity["num_unmatched"] == 0
    for result in results_of(folder, golden.image, golden.image):
        final = golden.arrays["final"]
        match(result.boxes, result.labels, result.scores, final, box=0.01, score=1e-4)


@pytest.fixture(scope="module", params=KINDS)
def small(request, tmp_path_factory, picture):
    """A small model of each kind and its bundle."""
    bounds = {"top_k": 100, "max_pairs": 1000, "max_detections": 30}  # those of the originals
    model = small_model(request.param, **bounds, embedding_threshold=9.0)
    for head, module in model.heads.items():
        if head.endswith("_heatmap"):  # random maps are nearly flat
            module.predictor.weight.data.mul_(100)
    folder = tmp_path_factory.mktemp("small") / request.param
    return model, edgeseg.export_bundle(model, folder, images=[picture])


def test_the_bundle_finds_what_the_model_finds(small, picture):
    model, folder = small
    expected = edgeseg.torch_predictor(model)(picture)
    assert len(expected) == 30
    rows = np.concatenate(
        [expected.boxes, expected.scores[:, None], expected.labels[:, None]], axis=1
    )
    for found in results_of(folder, picture, picture):
        match(found.boxes, found.labels, found.scores, rows, box=0.01, score=1e-4)


@pytest.mark.parametrize(
    ("logit", "max_detections", "count"),
    [(-200.0, 15, 0), (20.0, 1, 1), (20.0, 15, 15)],
    ids=["none", "one", "maximum"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_detection_one_and_the_maximum_twice_in_a_row(
    tmp_path, picture, kind, logit, max_detections, count
):
    model = small_model(kind, mirror_test=count != 1, max_detections=max_detections)
    for head, module in model.heads.items():
        module.predictor.weight.data.zero_()
        module.predictor.bias.data.fill_(logit if "heatmap" in head else 0.0)
    # Every place is a corner of equal score: which of them come first is the engine's affair.
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", num_images=1, allow_mismatch=True)
    first, second = results_of(folder, picture, picture)
    for result in (first, second):
        assert len(result) <= count
        assert result.boxes.shape == (len(result), 4)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    if kind == "corners":  # a centre in the middle of a box is a matter of chance
        assert (len(first) > 0) == (count > 0)


def test_a_model_of_each_kind_compiles_for_every_target(small, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    _, folder = small
    engines = build_bundle(folder, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert sorted(target for engine in engines for target in engine.key.targets) == sorted(TARGETS)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "image_size"),
    [("cornernet_squeeze", 511), ("centernet_triplet_hourglass52", 127)],
)
def test_the_reference_models_compile(tmp_path, name, image_size):
    """Small where the size changes nothing but the time: see benchmarks/compile_models.py."""
    pytest.importorskip("tensorrt_rtx")
    model = edgeseg.create_model(name, image_size=image_size)
    folder = edgeseg.export_bundle(model, tmp_path / name, num_images=1, allow_mismatch=True)
    del model
    (engine,) = build_bundle(folder, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path)
    assert engine.path.stat().st_size > 100_000
