"""OrtBackend: the right numbers, from verified bytes, on the provider that was asked for."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_bundle import feed, tiny_model, write_bundle

from edgeseg_runtime import load
from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.backends.ort import CPU, OrtBackend, node_times
from edgeseg_runtime.errors import (
    BackendUnavailable,
    BundleError,
    CorruptArtifact,
    EngineBuildError,
    InputContractError,
    MissingArtifact,
    UnsafeModel,
)

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return folder, write_bundle(folder)


@pytest.fixture
def backend(bundle):
    backend = OrtBackend(*bundle, threads=1)
    yield backend
    backend.close()


def assert_equal_outputs(first, second):
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_outputs_are_those_of_the_onnx_reference(backend, seed):
    names = [output.name for output in tiny_model().graph.output]
    expected = dict(zip(names, ReferenceEvaluator(tiny_model()).run(None, feed(seed)), strict=True))
    outputs = backend.run(feed(seed))
    assert list(outputs) == names
    for name in names:
        np.testing.assert_allclose(outputs[name], expected[name], rtol=0, atol=1e-5)
    assert outputs["masks"].std() > 0.01, "the masks must depend on the picture"


def test_outputs_belong_to_the_caller(backend):
    first = backend.run(feed(1))
    kept = {name: array.copy() for name, array in first.items()}
    backend.run(feed(2))
    assert_equal_outputs(first, kept)
    assert all(array.flags.writeable for array in first.values())


def test_four_threads_share_a_session_and_agree_with_one(backend):
    expected = [backend.run(feed(seed)) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: backend.run(feed(index % 8)), range(64)))
    for index, outputs in enumerate(found):
        assert_equal_outputs(outputs, expected[index % 8])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 2},
        {"is_spinning": False},
        {"has_arena": False},
        {"verify": False},
        {"providers": "auto"},
        {"providers": "CPUExecutionProvider"},
        {"providers": ["CPUExecutionProvider"]},
    ],
    ids=str,
)
def test_options_do_not_change_the_numbers(bundle, backend, options):
    assert_equal_outputs(OrtBackend(*bundle, **options).run(feed()), backend.run(feed()))


def test_describe_says_what_ran_where(backend):
    description = backend.describe()
    assert description["version"] == onnxruntime.__version__
    assert description["provider"] == "CPUExecutionProvider"
    assert description["threads"] == 1
    if hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        assert description["num_nodes"] == {"CPUExecutionProvider": len(tiny_model().graph.node)}
    else:
        assert description["num_nodes"] == {}
    json.dumps(description)


def test_the_checked_backend_describes_what_it_checks(bundle):
    backend = open_backend("onnxruntime", *bundle, threads=1)
    assert backend.describe() == backend.backend.describe()


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider", "Foo"])
def test_a_missing_provider_is_an_error_and_no_silent_run_on_the_cpu(bundle, provider):
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {provider}")
    with pytest.raises(BackendUnavailable, match=f"has no {provider}, only .*CPUExecution") as info:
        OrtBackend(*bundle, providers=[provider])
    assert info.value.exit_code == 4
    with pytest.raises(BackendUnavailable, match=f"has no {provider}"):
        OrtBackend(*bundle, providers=[provider, "CPUExecutionProvider"])


AZURE = "AzureExecutionProvider"
"""In every wheel of ONNX Runtime, and takes none of our nodes: it calls a remote service."""

needs_azure = pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason=f"no {AZURE} in this ONNX Runtime"
)


@needs_azure
def test_a_node_left_to_the_cpu_is_an_error_unless_the_cpu_is_named(bundle):
    with pytest.raises(
        BackendUnavailable, match=r"leaves a part of model\.onnx to the CPU"
    ) as info:
        OrtBackend(*bundle, providers=[AZURE])
    assert "providers=[..., 'CPUExecutionProvider']" in str(info.value)


@needs_azure
@pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="ONNX Runtime before 1.24 does not tell where nodes run",
)
def test_a_provider_that_takes_no_node_at_all_is_an_error(bundle):
    with pytest.raises(BackendUnavailable, match=f"{AZURE} took none of the model's nodes"):
        OrtBackend(*bundle, providers=[AZURE, "CPUExecutionProvider"])


def test_no_provider_at_all_is_a_mistake_of_the_caller(bundle):
    with pytest.raises(ValueError, match="providers is empty"):
        OrtBackend(*bundle, providers=[])


def test_a_missing_onnxruntime_names_the_package_to_install(bundle):
    folder, _ = bundle
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from edgeseg_runtime.backends import open_backend\n"
        "from edgeseg_runtime.errors import BackendUnavailable\n"
        "from edgeseg_runtime.bundle.manifest import Manifest\n"
        "try: open_backend('onnxruntime', sys.argv[1], Manifest.load(sys.argv[1]))\n"
        "except BackendUnavailable as error: print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert "pip install onnxruntime" in found.stdout


def external_model(location):
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="offset", value="0")
    weight.external_data.add(key="length", value="64")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["weight"], ["boxes"])],
        "external",
        [],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [4, 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("location", ["weights.bin", "../secret.bin", "/etc/passwd", "link.bin"])
def test_external_data_is_refused_wherever_it_lies(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "bundle"
    manifest = write_bundle(folder, external_model(location).SerializeToString())
    (folder / "weights.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(BundleError, match=r"model\.onnx keeps weights in other files") as info:
        OrtBackend(folder, manifest)
    assert info.value.exit_code == 3


@pytest.mark.parametrize("content", [b"x", b"garbage" * 100, tiny_model().SerializeToString()[:90]])
def test_a_file_that_was_never_a_model_is_a_corrupt_artifact(tmp_path, content, capfd):
    manifest = write_bundle(tmp_path, content)
    with pytest.raises(CorruptArtifact, match="expected an ONNX model") as info:
        OrtBackend(tmp_path, manifest)
    assert info.value.__cause__ is not None
    assert info.value.exit_code == 3
    assert capfd.readouterr() == ("", "")


def test_a_model_that_is_too_new_says_to_upgrade(tmp_path, capfd):
    model = tiny_model()
    model.opset_import[0].version = 999
    manifest = write_bundle(tmp_path, model)
    with pytest.raises(EngineBuildError, match=r"cannot run model\.onnx: .*pip install -U") as info:
        OrtBackend(tmp_path, manifest)
    assert info.value.exit_code == 4
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_a_kernel_is_an_engine_build_error(tmp_path):
    model = tiny_model()
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    model.graph.node.append(onnx.helper.make_node("Nope", ["masks"], ["more"], domain="nowhere"))
    manifest = write_bundle(tmp_path, model)
    with pytest.raises(EngineBuildError, match="Nope"):
        OrtBackend(tmp_path, manifest, allow_operators=["nowhere::Nope"])
    with pytest.raises(UnsafeModel, match=r"the node 'more' \(nowhere::Nope\), an operator"):
        OrtBackend(tmp_path, manifest)


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
@pytest.mark.parametrize("is_checked", [False, True], ids=["bare", "through open_backend"])
def test_wrong_inputs_are_refused_and_the_session_lives_on(bundle, change, is_checked):
    folder, manifest = bundle
    backend = (
        open_backend("onnxruntime", folder, manifest)
        if is_checked
        else OrtBackend(folder, manifest)
    )
    with pytest.raises(InputContractError, match="input") as info:
        backend.run({**feed(), **change})
    assert info.value.exit_code == 2
    backend.run(feed())


def test_a_bundle_without_onnx_is_refused(tmp_path):
    import dataclasses

    manifest = dataclasses.replace(write_bundle(tmp_path), artifacts={})
    with pytest.raises(MissingArtifact, match="lists no artifact 'onnx'"):
        OrtBackend(tmp_path, manifest)
    assert OrtBackend.obstacle(tmp_path, manifest) == f"{tmp_path} holds no ONNX model 'onnx'"


def test_a_closed_backend_says_so(bundle):
    backend = OrtBackend(*bundle)
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.run(feed())
    with pytest.raises(ValueError, match="closed"):
        backend.end_profiling()


def test_the_profile_gives_the_time_of_each_type_of_operator(bundle, tmp_path):
    backend = OrtBackend(*bundle, threads=1, profile=tmp_path / "profile")
    for seed in range(4):
        backend.run(feed(seed))
    file = backend.end_profiling()["main"]
    assert file.parent == tmp_path
    times = node_times(file)
    assert list(times.values()) == sorted(times.values(), reverse=True)
    assert all(time > 0 for time in times.values())
    assert {"Conv", "Sigmoid"} <= {name.removeprefix("Fused") for name in times}
    with pytest.raises(ValueError, match="no run beyond the first 4"):
        node_times(file, skip_runs=4)


# ---------------------------------------------------------------- on a GPU


CUDA = "CUDAExecutionProvider"


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers(), reason=f"no {CUDA} in this ONNX Runtime"
)
@pytest.mark.parametrize(("precision", "bar"), [("fp32", 0.99), ("fp16", 0.98), ("int8", 0.9)])
def test_cuda_runs_most_nodes_and_finds_what_the_cpu_finds(precision, bar, bundle_of):
    pytest.importorskip("torch")
    from agreement_cases import agreement_of

    folder = bundle_of("maskrcnn_tiny", precision)
    with (
        load(folder, backend="onnxruntime", threads=1) as reference,
        load(folder, backend="onnxruntime", providers=[CUDA, CPU]) as predictor,
    ):
        description = predictor.backend.describe()
        agreement = agreement_of(reference, predictor)
    num_nodes = description["num_nodes"]
    assert description["provider"] == CUDA
    assert num_nodes[CUDA] > num_nodes.get(CPU, 0)
    assert agreement.num_reference > 10
    assert agreement.lowest >= bar
