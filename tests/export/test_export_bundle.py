"""A bundle: what is in it, what it computes, and that it appears whole or not at all."""

import hashlib
from collections import Counter

import numpy as np
import onnx
import pytest
import torch

import edgeseg
import edgeseg_runtime
from edgeseg.models import model_manifest
from edgeseg_bench.datasets import open_dataset
from edgeseg_export.graph import complete_graph, in_one_graph, trace_graphs, without_stages
from edgeseg_export.parity import ParityError, measure_parity
from edgeseg_export.thresholds import without_threshold
from edgeseg_runtime.bundle.manifest import Manifest, Rows
from edgeseg_runtime.session import run_frame

PICTURES = [sample.image for sample in open_dataset("shapes", limit=3)]


@pytest.fixture(scope="module")
def light_model():
    """The model that is exported fastest."""
    return edgeseg.create_model("landmarks_regression_tiny", weights="shapes")


@pytest.fixture(scope="module")
def graphs(tiny_bundle):
    return [onnx.load(tiny_bundle / file) for file in ("detect.onnx", "mask.onnx")]


@pytest.fixture(scope="module")
def tapped(tiny_model):
    manifest = in_one_graph(model_manifest(tiny_model))
    return complete_graph(trace_graphs(tiny_model, manifest)["main"])


def parity_of(model, tapped):
    """What an export of this graph would measure."""
    manifest = in_one_graph(model_manifest(model))
    graphs = {"main": tapped}
    exported = without_stages(graphs, manifest)
    return measure_parity(
        model, graphs, exported, manifest, PICTURES, data="shapes", tolerance=1e-3
    )


def test_a_bundle_is_a_manifest_and_a_file_for_each_graph(tiny_bundle, bundle_of):
    files = {
        tiny_bundle: ["detect.onnx", "manifest.json", "mask.onnx"],
        bundle_of("yolact_tiny"): ["manifest.json", "model.onnx"],
    }
    for folder, expected in files.items():
        assert sorted(path.name for path in folder.iterdir()) == expected
    assert not [path for path in tiny_bundle.parent.iterdir() if path.name.startswith(".")]


def test_the_manifest_tells_what_a_device_needs(tiny_bundle):
    manifest = Manifest.load(tiny_bundle)
    assert [(s.name, s.dtype, s.shape) for s in manifest.inputs] == [
        ("image", "uint8", (1, 256, 256, 3)),
        ("image_size", "int32", (1, 2)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in manifest.outputs] == [
        ("boxes", "float32", (1, 30, 4)),
        ("scores", "float32", (1, 30)),
        ("labels", "int32", (1, 30)),
        ("masks", "float32", (1, 30, 28, 28)),
    ]
    assert manifest.labels[1:] == ("disc", "square", "triangle", "star", "ring", "cross")
    raw = (tiny_bundle / "mask.onnx").read_bytes()
    assert manifest.artifact("mask").sha256 == hashlib.sha256(raw).hexdigest()
    assert manifest.graphs["mask"].rows == Rows(counts="scores", maximum=30, buckets=(8, 30))
    assert manifest.provenance["config"]["box_detections_per_img"] == 30
    assert len(manifest.provenance["weights_sha256"]) == 64


def test_the_manifest_holds_the_measured_parity(tiny_bundle):
    parity = Manifest.load(tiny_bundle).parity
    assert parity["is_within_tolerance"] is True
    assert parity["first_stage_outside"] is None
    assert parity["num_images"] == 4
    assert parity["num_detections"] > 10
    assert parity["num_unmatched"] == 0
    assert set(parity["max_abs"]) == {"boxes", "scores", "labels", "masks"}
    assert 0 < parity["stages"]["detect.c2"] < 1e-5
    assert 0 < parity["stages"]["mask.mask_logits"] < 1e-5
    assert 0 < parity["stages"]["free run.masks"] < 1e-4


def test_edgeseg_s_operators_are_single_nodes(graphs):
    operators = [
        Counter(node.op_type.split("_")[0] for node in graph.graph.node if node.domain)
        for graph in graphs
    ]
    assert operators == [{"Nms": 2, "PyramidAtlas": 1, "AtlasRoiAlign": 1}, {"AtlasRoiAlign": 1}]
    for graph in graphs:
        opsets = {opset.domain: opset.version for opset in graph.opset_import}
        assert opsets == {"": 20, "edgeseg": 1}
        onnx.checker.check_model(graph, full_check=True)


def test_every_engine_finds_only_operators_it_compiles(graphs):
    everything = [
        node for graph in graphs for owner in (graph.graph, *graph.functions) for node in owner.node
    ]
    operators = {node.op_type for node in everything}
    refused = {"NonZero", "NonMaxSuppression", "RoiAlign", "DeformConv", "Gemm", "Einsum"}
    assert operators & (refused | {"BatchNormalization"}) == set()


def test_every_size_is_known_but_the_number_of_rows(graphs):
    sizes = {
        dim.dim_param or dim.dim_value
        for graph in graphs
        for value in (*graph.graph.input, *graph.graph.output)
        for dim in value.type.tensor_type.shape.dim
    }
    assert {size for size in sizes if not isinstance(size, int)} == {"rows"}
    assert 0 not in sizes


def test_the_file_says_nothing_of_the_machine_it_was_made_on(tiny_bundle):
    raw = b"".join(file.read_bytes() for file in tiny_bundle.glob("*.onnx"))
    for trace in (b"site-packages", b".py", b"stack_trace", b"pkg.torch"):
        assert trace not in raw


@pytest.mark.parametrize("image", PICTURES)
def test_the_bundle_finds_what_the_model_finds(tiny_model, tiny_bundle, image):
    expected = edgeseg.torch_predictor(tiny_model)(image)
    with edgeseg_runtime.load(tiny_bundle, backend="onnxruntime") as predictor:
        found = predictor(image)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.masks != expected.masks).mean() < 1e-5


def test_exporting_again_gives_the_same_file(tiny_model, tiny_bundle, tmp_path):
    again = edgeseg.export_bundle(tiny_model, tmp_path / "again", num_images=1)
    for file in ("detect.onnx", "mask.onnx"):
        assert (again / file).read_bytes() == (tiny_bundle / file).read_bytes()


def test_a_free_batch_axis_gives_each_picture_its_own_result(tiny_model, tmp_path):
    bundle = edgeseg.export_bundle(tiny_model, tmp_path / "free", dynamic_batch=True, num_images=1)
    manifest = Manifest.load(bundle)
    assert {spec.shape[0] for spec in (*manifest.inputs, *manifest.outputs)} == {-1}
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        inputs = [predictor.task.preprocess(image)[0] for image in PICTURES]
        alone = [frame(predictor, each) for each in inputs]
        batch = {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
        together = frame(predictor, batch)
    for spec in manifest.outputs:
        for row, single in zip(together[spec.name], alone, strict=True):
            expected = single[spec.name][0]
            np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-3)


def frame(predictor, inputs):
    state = predictor.backend.open_state()
    return run_frame(predictor.manifest, predictor.backend, inputs, state)


@pytest.mark.parametrize(("winner", "count"), [(0, 0), (1, 30)], ids=["none", "maximum"])
def test_no_detection_and_the_maximum_twice_in_a_row(tmp_path, winner, count):
    model = edgeseg.create_model("maskrcnn_tiny", weights="shapes", box_nms_thresh=1.0)
    model.box_predictor.cls_score.bias.data[winner] += 7 if count else 50
    bundle = edgeseg.export_bundle(model, tmp_path / "bundle", num_images=1)
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        for _ in range(2):
            result = predictor(PICTURES[0])
            assert len(result) == count
            assert result.masks.shape == (count, *PICTURES[0].shape[:2])


def test_a_single_detection(tmp_path):
    model = edgeseg.create_model("maskrcnn_tiny", weights="shapes", box_detections_per_img=1)
    bundle = edgeseg.export_bundle(model, tmp_path / "bundle", num_images=1)
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        assert [len(predictor(image)) for image in PICTURES[:2]] == [1, 1]


def test_a_model_that_finds_nothing_is_compared_below_its_threshold(tmp_path, caplog):
    model = edgeseg.create_model("retinaface_tiny", weights="shapes", confidence_threshold=0.9)
    blank = np.full((60, 80, 3), 90, np.uint8)
    bundle = edgeseg.export_bundle(model, tmp_path / "bundle", images=[blank])
    parity = Manifest.load(bundle).parity
    assert parity["is_within_tolerance"]
    assert (parity["num_detections"], parity["score_threshold"]) == (20, 0.0)
    assert "the model finds nothing on the 1 pictures of given pictures" in caplog.text
    with edgeseg_runtime.load(bundle, backend="onnxruntime") as predictor:
        assert len(predictor(blank)) == 0
    assert model.config.confidence_threshold == 0.9


def test_without_threshold_a_model_is_the_same_but_for_it(tiny_model):
    unlimited = without_threshold(tiny_model)
    assert unlimited.config.box_score_thresh == unlimited.score_threshold == 0
    weights = tiny_model.state_dict()
    assert unlimited.state_dict().keys() == weights.keys()
    assert all(torch.equal(t, weights[key]) for key, t in unlimited.state_dict().items())
    assert without_threshold(unlimited) is None
    assert without_threshold(edgeseg.create_model("landmarks_regression_tiny")) is None


def test_a_graph_that_differs_is_not_written(tiny_model, tmp_path):
    with pytest.raises(ParityError, match=r": [\w.]+ is the first stage outside the tolerance"):
        edgeseg.export_bundle(tiny_model, tmp_path / "bundle", num_images=1, tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_is_written_if_that_is_wanted_and_says_so(light_model, tmp_path):
    bundle = edgeseg.export_bundle(
        light_model, tmp_path / "bundle", num_images=1, tolerance=1e-12, allow_mismatch=True
    )
    parity = Manifest.load(bundle).parity
    assert parity["is_within_tolerance"] is False
    assert parity["first_stage_outside"] is not None


@pytest.mark.parametrize(
    ("weight", "stage"),
    [
        ("backbone.stages.1.0.conv1.conv.weight", "c3"),
        ("fpn.output.2.conv.weight", "p4"),
        ("rpn.deltas.weight", "rpn_deltas_p2"),
        ("mask_head.predictor.weight", "mask_logits"),
    ],
)
def test_the_first_stage_that_differs_is_named(tiny_model, tapped, weight, stage):
    broken = tapped.copy()
    (tensor,) = (t for t in broken.graph.initializer if t.name.endswith(weight))
    broken.weights[tensor.name] = broken.weights[tensor.name] * np.float32(1.05)
    parity = parity_of(tiny_model, broken)
    assert parity.first_stage_outside == stage
    with pytest.raises(ParityError, match=f"{stage} is the first stage outside"):
        parity.check()


def test_a_detection_without_counterpart_is_no_parity(tiny_model, tapped):
    parity = parity_of(tiny_model, tapped)
    parity.check()
    lossy = tapped.copy()
    for node in lossy.graph.node:  # the last third of the detections is lost
        for index, name in enumerate(node.output):
            if name == "scores":
                node.output[index] = "all_scores"
    is_kept = np.arange(30, dtype=np.float32)[None] < 20
    lossy.add_initializer("is_kept", is_kept.astype(np.float32))
    lossy.graph.node.append(onnx.helper.make_node("Mul", ["all_scores", "is_kept"], ["scores"]))
    with pytest.raises(ParityError, match=r"\d+ of \d+ detections have no counterpart"):
        parity_of(tiny_model, lossy).check()


def test_a_folder_with_something_in_it_is_left_alone(light_model, tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="give another folder"):
            edgeseg.export_bundle(light_model, folder, overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_bundle_is_replaced_only_when_that_is_wanted(light_model, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    edgeseg.export_bundle(light_model, folder, num_images=1)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        edgeseg.export_bundle(light_model, folder, num_images=1)
    with pytest.raises(ParityError):
        edgeseg.export_bundle(light_model, folder, num_images=1, tolerance=1e-12, overwrite=True)
    assert (folder / "manifest.json").read_bytes() == before
    edgeseg.export_bundle(light_model, folder, num_images=2, overwrite=True)
    assert Manifest.load(folder).parity["num_images"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


class _Stop(BaseException):
    pass


@pytest.mark.parametrize("stage", ["trace", "parity", "write", "finish"])
def test_an_interrupted_export_leaves_nothing(light_model, tmp_path, stage):
    def interrupt(name, done, total):
        if name == stage:
            raise _Stop

    with pytest.raises(_Stop):
        edgeseg.export_bundle(
            light_model, tmp_path / "a" / "bundle", num_images=1, progress=interrupt
        )
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "a"] == []


def test_progress_names_every_stage(light_model, tmp_path):
    seen = []
    edgeseg.export_bundle(
        light_model,
        tmp_path / "bundle",
        num_images=2,
        progress=lambda *call: seen.append(call),
    )
    assert [stage for stage, *_ in seen] == ["trace", *["parity"] * 3, "write", "finish"]
    assert seen[1:4] == [("parity", 0, 2), ("parity", 1, 2), ("parity", 2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision 'fp8' found, expected one of fp32, fp16"),
        ({"precision": "int8"}, "without pictures to calibrate on"),
        ({"precision": "fp16", "calibration_method": "mean"}, "method 'mean' found"),
        ({"backends": ("tflite",)}, "backends .'tflite'. found"),
        ({"backends": ()}, "expected some of onnxruntime"),
        ({"images": []}, "images is empty"),
        ({"calibration": "images/"}, "fp32 needs no calibration"),
        ({"max_drop": 1.5}, "max_drop 1.5 found, expected 0 to 1"),
        ({"targets": ("sm86",)}, "only tensorrt_rtx compiles for other machines"),
        ({"targets": ("sm1",), "backends": ("tensorrt_rtx",)}, "target is 'sm1'; expected one of"),
    ],
)
def test_options_that_do_not_exist_are_refused(light_model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.export_bundle(light_model, tmp_path / "bundle", **options)
    assert list(tmp_path.iterdir()) == []
