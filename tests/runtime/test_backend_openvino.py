"""OpenVinoBackend: ONNX Runtime's numbers, from the same verified bytes."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_model import task_manifest
from onnx import helper, numpy_helper
from tiny_bundle import feed, tiny_model, write_bundle

import edgeseg
from edgeseg_runtime import load
from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.errors import (
    BackendUnavailable,
    CorruptArtifact,
    EngineBuildError,
    InputContractError,
    MissingArtifact,
    UnsafeModel,
)
from edgeseg_runtime.session import run_frame

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

from edgeseg_runtime.backends.openvino import OpenVinoBackend

LOWEST_SCORE = 0.05
WEIGHTS = Path(edgeseg.__file__).with_name("weights")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return folder, write_bundle(folder)


@pytest.fixture(scope="module")
def backend(bundle):
    backend = OpenVinoBackend(*bundle, threads=1)
    yield backend
    backend.close()


@pytest.mark.parametrize("seed", range(5))
def test_outputs_are_those_of_onnxruntime(bundle, backend, seed):
    expected = open_backend("onnxruntime", *bundle).run(feed(seed))
    outputs = backend.run(feed(seed))
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        assert outputs[name].dtype == array.dtype
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_outputs_belong_to_the_caller(backend):
    first = backend.run(feed(1))
    kept = {name: array.copy() for name, array in first.items()}
    backend.run(feed(2))
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)
        assert first[name].flags.writeable


def test_four_threads_share_a_model_and_agree_with_one(backend):
    expected = [backend.run(feed(seed))["masks"] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: backend.run(feed(index % 4))["masks"], range(32)))
    for index, masks in enumerate(found):
        np.testing.assert_array_equal(masks, expected[index % 4])


def test_describe_proves_device_threads_and_precision(backend):
    description = backend.describe()
    assert description["engine"] == "openvino"
    assert description["provider"] == "CPU"
    assert description["threads"] == 1
    assert description["num_nodes"]["f32"] > 1
    assert not {"bf16", "f16"} & set(description["num_nodes"])
    json.dumps(description)


def test_a_device_that_is_not_there_is_an_error_and_no_silent_run_on_the_cpu(bundle):
    with pytest.raises(BackendUnavailable, match=r"no device 'NPU9', only .*CPU") as info:
        OpenVinoBackend(*bundle, device="NPU9")
    assert info.value.exit_code == 4


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((1, 48, 64, 3), np.float32)},
        {"image": np.zeros((1, 48, 65, 3), np.uint8)},
        {"image": np.zeros((48, 64, 3), np.uint8)},
        {"picture": np.zeros(1, np.uint8)},
    ],
    ids=["dtype", "shape", "rank", "name"],
)
def test_wrong_inputs_are_refused_and_the_model_lives_on(backend, change):
    with pytest.raises(InputContractError, match="input") as info:
        backend.run({**feed(), **change})
    assert info.value.exit_code == 2
    backend.run(feed())


def test_an_input_that_no_output_depends_on_may_stay_in_a_bundle(tmp_path):
    model = tiny_model()
    size = numpy_helper.from_array(np.zeros((1, 2), np.int32), "no_size")
    model.graph.initializer.append(size)
    next(node for node in model.graph.node if node.name == "size").input[0] = "no_size"
    manifest = write_bundle(tmp_path, model)
    expected = open_backend("onnxruntime", tmp_path, manifest).run(feed())
    backend = OpenVinoBackend(tmp_path, manifest)
    np.testing.assert_allclose(backend.run(feed())["masks"], expected["masks"], rtol=0, atol=1e-5)
    with pytest.raises(InputContractError, match="picture"):
        backend.run({**feed(), "picture": np.zeros(1, np.uint8)})


def test_an_operator_that_openvino_does_not_know_is_named(tmp_path):
    model = tiny_model()
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    next(item for item in model.graph.node if item.name == "sigmoid").output[0] = "raw"
    model.graph.node.append(helper.make_node("Nope", ["raw"], ["masks"], domain="nowhere"))
    manifest = write_bundle(tmp_path, model)
    with pytest.raises(EngineBuildError, match=r"OpenVINO cannot run model\.onnx: .*Nope") as info:
        OpenVinoBackend(tmp_path, manifest, allow_operators=["nowhere::Nope"])
    assert info.value.exit_code == 4
    with pytest.raises(UnsafeModel, match=r"the node 'masks' \(nowhere::Nope\), an operator"):
        OpenVinoBackend(tmp_path, manifest)


def test_what_is_no_model_or_damaged_never_reaches_openvino(tmp_path, bundle):
    with pytest.raises(CorruptArtifact, match="expected an ONNX model"):
        OpenVinoBackend(tmp_path, write_bundle(tmp_path, b"garbage" * 100))
    manifest = write_bundle(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(CorruptArtifact, match=r"model\.onnx is damaged"):
        OpenVinoBackend(tmp_path, manifest)
    empty = task_manifest("instances", {"boxes": (3, 4)})
    with pytest.raises(MissingArtifact, match="lists no artifact 'onnx'"):
        OpenVinoBackend(tmp_path, empty)
    assert OpenVinoBackend.obstacle(tmp_path, empty) == f"{tmp_path} holds no ONNX model 'onnx'"
    assert OpenVinoBackend.obstacle(*bundle) is None


def test_a_closed_backend_says_so(bundle):
    backend = OpenVinoBackend(*bundle)
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.run(feed())


CHOICE = """
import sys
for name in sys.argv[2:]: sys.modules[name] = None
from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.bundle.manifest import Manifest
try: print(open_backend("auto", sys.argv[1], Manifest.load(sys.argv[1])).name)
except Exception as error: print(error)
"""


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ([], "onnxruntime"),
        (["onnxruntime"], "openvino"),
        (["onnxruntime", "openvino"], "pip install onnxruntime"),
        (["openvino"], "onnxruntime"),
    ],
    ids=lambda value: " and ".join(value) or "none" if isinstance(value, list) else None,
)
def test_auto_takes_openvino_where_it_alone_is_installed(bundle, missing, words):
    command = [sys.executable, "-c", CHOICE, str(bundle[0]), "tensorrt", "tensorrt_rtx", *missing]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert words in found.stdout


def shipped():
    """Return the small models whose weights are in the package."""
    return sorted(file.stem for file in WEIGHTS.glob("*_tiny.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_model_gives_what_onnxruntime_gives(name, bundle_of):
    from edgeseg_bench.datasets import open_dataset
    from edgeseg_bench.evaluation import dataset_kind

    folder = bundle_of(name)
    with (
        load(folder, backend="onnxruntime", threads=1) as reference,
        load(folder, backend="openvino", threads=1) as predictor,
    ):
        manifest, backends = reference.manifest, (reference.backend, predictor.backend)
        for sample in open_dataset("shapes", limit=2, kind=dataset_kind(manifest)):
            inputs, _ = reference.task.preprocess(sample.image)
            expected, outputs = (
                run_frame(manifest, backend, inputs, backend.open_state()) for backend in backends
            )
            assert_same_outputs(outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "bar"),
    [
        pytest.param("maskrcnn_tiny", "fp16", 0.99, marks=pytest.mark.exhaustive),
        pytest.param("maskrcnn_tiny", "mixed", 0.8, marks=pytest.mark.exhaustive),
        ("maskrcnn_tiny", "int8", 0.8),
        ("landmarks_heatmap_tiny", "int8", 0.9),
    ],
)
def test_a_lower_precision_agrees_with_onnxruntime(name, precision, bar, bundle_of):
    """The bars of int8 hold without VNNI, too, where OpenVINO's products are not exact."""
    from agreement_cases import agreement_of

    folder = bundle_of(name, precision)
    with (
        load(folder, backend="onnxruntime", threads=1) as reference,
        load(folder, backend="openvino", threads=1) as predictor,
    ):
        agreement = agreement_of(reference, predictor)
        assert ("i8" in predictor.backend.describe()["num_nodes"]) is (precision != "fp16")
    assert agreement.num_reference > 10
    assert agreement.lowest >= bar


def assert_same_outputs(found, expected):
    """Compare whole tensors, or rows one to one: those of equal score may swap places."""
    if {"scores", "boxes"} <= set(expected):
        # Numbers, not truth values: a stage's outputs have only as many rows as were found.
        keep = np.flatnonzero(expected["scores"][0] >= LOWEST_SCORE)
        distance = np.abs(expected["boxes"][0][keep, None] - found["boxes"][0][None]).max(-1)
        for name in {"labels"} & set(expected):
            distance[expected[name][0][keep, None] != found[name][0][None]] = np.inf
        rows = distance.argmin(axis=1)
        assert len(set(rows)) == len(keep) > 0
        found = {name: array[:, rows] for name, array in found.items()}
        expected = {name: array[:, keep] for name, array in expected.items()}
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-3 * scale, err_msg=name)
