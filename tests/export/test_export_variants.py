"""Stages and variants: several graphs of one model in one bundle."""

import dataclasses

import numpy as np
import onnx
import pytest
from golden import load_case, match_detections

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_export.onnx_model import model_from_proto
from edgeseg_export.weights import share_weights
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.manifest import Manifest

SIZE = 128, 192


@pytest.fixture(scope="module")
def model():
    return edgeseg.create_model("maskrcnn_tiny", weights="shapes", image_size=SIZE)


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants") / "both"
    return edgeseg.export_bundle(model, folder, num_images=2)


@pytest.fixture(scope="module")
def picture():
    """A picture that is wider than high."""
    return next(s.image for s in open_dataset("shapes", limit=20) if s.width > 1.2 * s.height)


def test_a_bundle_holds_both_orientations_and_their_weights_once(bundle):
    manifest = Manifest.load(bundle)
    shapes = {
        name: (variant.preprocess.height, variant.preprocess.width)
        for name, variant in manifest.variants.items()
    }
    assert shapes == {"portrait": (192, 128)}
    assert sorted(file.name for file in bundle.iterdir()) == [
        "detect.onnx",
        "manifest.json",
        "mask.onnx",
        "portrait.detect.onnx",
        "portrait.mask.onnx",
        "weights.safetensors",
    ]
    own, portrait = (
        onnx.load_from_string(read_graph(bundle, view, "detect")) for view in manifest.views
    )
    weights = sum(len(t.raw_data) for t in own.graph.initializer)
    assert (bundle / "detect.onnx").stat().st_size < weights / 2
    names = {t.name for t in own.graph.initializer} & {t.name for t in portrait.graph.initializer}
    assert len(names) > 50
    onnx.checker.check_model(own, full_check=True)


@pytest.mark.parametrize("turns", [0, 1], ids=["landscape", "portrait"])
def test_a_picture_takes_the_shape_that_shrinks_it_least(model, bundle, picture, turns):
    turned = np.ascontiguousarray(np.rot90(picture, turns))
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        found = predictor(turned)
        scale = predictor.kept_scale(turned.shape[:2])
    expected = edgeseg.torch_predictor(model)(turned)
    assert scale == 1
    assert len(found) == len(expected) > 2
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    assert (found.masks != expected.masks).mean() < 1e-5


def test_without_variants_a_portrait_is_shrunk_and_that_is_counted(model, picture, tmp_path):
    folder = edgeseg.export_bundle(model, tmp_path / "one", num_images=1, variants=False)
    assert Manifest.load(folder).variants == {}
    portrait = np.ascontiguousarray(np.rot90(picture))
    with edgeseg_runtime.load(folder, backend="onnxruntime") as predictor:
        assert predictor.kept_scale(portrait.shape[:2]) < 0.8
        assert predictor.kept_scale(picture.shape[:2]) == 1


def test_one_graph_finds_what_the_stages_find(model, bundle, picture, tmp_path):
    folder = edgeseg.export_bundle(
        model, tmp_path / "one", num_images=1, stages=False, variants=False
    )
    assert set(Manifest.load(folder).graphs) == {"main"}
    found = []
    for each in (bundle, folder):
        with edgeseg_runtime.load(each, backend="onnxruntime") as predictor:
            found.append(predictor(picture))
    np.testing.assert_array_equal(found[0].boxes, found[1].boxes)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)
    assert (found[0].masks != found[1].masks).mean() < 1e-6


@pytest.mark.parametrize("num_rows", [0, 1, None])
def test_a_stage_runs_for_as_many_rows_as_are_above_the_threshold(bundle, picture, num_rows):
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        scores = predictor(picture).scores
    threshold = {0: 1.0, 1: float(scores[:2].mean())}.get(num_rows)
    options = {} if threshold is None else {"score_threshold": threshold}
    ran = []

    class Counter(edgeseg_runtime.Probe):
        def ran(self, graph, inputs, outputs, rows):
            ran.append((graph, rows))

    with edgeseg_runtime.load(bundle, backend="onnxruntime", **options) as predictor:
        session = predictor.session(probe=Counter())
        results = [session(picture) for _ in range(2)]
    count = len(scores) if num_rows is None else num_rows
    assert ran == [("detect", None), ("mask", count)] * 2
    assert [len(result) for result in results] == [count] * 2
    assert all(result.masks.shape == (count, *picture.shape[:2]) for result in results)


def test_a_threshold_below_that_of_the_export_means_nothing(bundle):
    for threshold in (-0.1, 1.5):
        with pytest.raises(
            ValueError, match=r"score_threshold is .*; expected a number from the 0"
        ):
            edgeseg_runtime.load(bundle, score_threshold=threshold)


def test_a_video_model_has_no_single_graph():
    from edgeseg.models import model_manifest
    from edgeseg_export.graph import in_one_graph

    manifest = model_manifest(edgeseg.create_model("maskrcnn_tiny"))
    detect = dataclasses.replace(manifest.graphs["detect"], writes={"atlas": "memory"})
    reads = dataclasses.replace(
        manifest.graphs["mask"],
        takes={"boxes": "detect.boxes", "labels": "detect.labels"},
        reads={"atlas": "memory"},
    )
    video = dataclasses.replace(manifest, graphs={"detect": detect, "mask": reads})
    with pytest.raises(ValueError, match="the graphs of a video model run in different frames"):
        in_one_graph(video)


def test_only_what_is_the_same_everywhere_is_shared():
    def graph(**tensors):
        values = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
        return model_from_proto(
            onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], values))
        )

    large, small = np.arange(1000, dtype=np.float32), np.arange(10, dtype=np.float32)
    graphs = {
        "one": graph(same=large, other=large, small=small, alone=large),
        "two": graph(same=large, other=large + 1, small=small),
    }
    content = share_weights(graphs)
    assert content is not None
    left = {
        name: [
            t.name
            for t in onnx.load_from_string(model.to_bytes()).graph.initializer
            if not t.raw_data
        ]
        for name, model in graphs.items()
    }
    assert left == {"one": ["same"], "two": ["same"]}
    assert share_weights({"one": graph(same=large)}) is None


@pytest.mark.slow
def test_a_portrait_gives_the_original_s_results_through_its_variant(tmp_path):
    golden = load_case("maskrcnn_torchvision", "dev_portrait")
    height, width = golden.input_size
    model = edgeseg.create_model(
        "maskrcnn_resnet50_fpn", weights=golden.weights(), image_size=(width, height)
    )
    folder = edgeseg.export_bundle(model, tmp_path / "bundle", images=[golden.image])
    del model
    with edgeseg_runtime.load(folder, backend="onnxruntime") as predictor:
        result = predictor(golden.image)
    rows = match_detections(result, golden, box_px=0.01, score=1e-4)
    assert (result.masks[rows] != golden.masks()).sum() <= 50
