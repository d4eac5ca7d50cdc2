"""What `edgeseg doctor` finds, and what it advises."""

import onnx
import pytest

from edgeseg_runtime.commands.doctor import (
    ONE_NODE_MODEL,
    check_openvino,
    check_providers,
    describe_cache,
    describe_tensorrt,
    openvino_findings,
    package_findings,
    provider_findings,
)
from edgeseg_runtime.environment import read_environment

GOOD = {"edgeseg": "0.1.0", "opencv-python": "5.0", "onnxruntime": "1.32.0"}
CPU = {"provider": "CPUExecutionProvider", "runs": True, "time_ms": 0.1, "detail": "ok"}


def test_doctor_reports_what_runs_here(command):
    code, document = command.json("doctor")
    assert code == 0
    assert set(document) == {
        "software", "machine", "providers", "openvino", "tensorrt", "gpu", "opencv", "cache",
        "findings",
    }  # fmt: skip
    runs = {entry["provider"]: entry["runs"] for entry in document["providers"]}
    assert runs["CPUExecutionProvider"]
    assert document["machine"]["num_usable_cores"] >= 1
    assert document["machine"]["memory_bytes"] > 1e8
    assert document["opencv"]["ffmpeg"]
    code, text, err = command("doctor")
    assert (code, err) == (0, "")
    assert "CPUExecutionProvider" in text


def test_a_provider_that_only_hands_its_nodes_to_the_cpu_does_not_count_as_running():
    pytest.importorskip("onnxruntime")
    for entry in check_providers():
        if entry["provider"] == "AzureExecutionProvider":
            assert not entry["runs"]
            return
    pytest.skip("this ONNX Runtime lists no provider that cannot compute")


@pytest.mark.parametrize(
    ("versions", "problem", "fix"),
    [
        (
            {**GOOD, "opencv-python-headless": "5.0"},
            "overwrite each other's files",
            "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python",
        ),
        (
            {**GOOD, "edgeseg-runtime": "0.1.0"},
            "edgeseg and edgeseg-runtime are both installed",
            "pip uninstall -y edgeseg-runtime",
        ),
        (
            {**GOOD, "onnxruntime-gpu": "1.32.0"},
            "onnxruntime and onnxruntime-gpu overwrite",
            "pip install onnxruntime-gpu",
        ),
        (
            {**GOOD, "onnxruntime": "1.23.2"},
            "onnxruntime 1.23.2 runs GridSample",
            "pip install --upgrade 'onnxruntime>=1.25'",
        ),
    ],
    ids=["opencv", "runtime", "onnxruntime-gpu", "old-onnxruntime"],
)
def test_a_bad_set_of_packages_is_found_with_its_remedy(versions, problem, fix):
    (finding,) = package_findings(versions)
    assert finding.severity == "warning"
    assert problem in finding.problem
    assert fix in finding.fix


def test_a_good_set_of_packages_needs_nothing():
    assert package_findings(GOOD) == []
    assert provider_findings([CPU], GOOD) == []


def test_an_onnxruntime_that_does_not_run_is_an_error():
    (missing,) = provider_findings([], {})
    assert missing.severity == "error"
    broken = {**CPU, "runs": False, "detail": "illegal instruction"}
    (finding,) = provider_findings([broken], GOOD)
    assert (finding.severity, "illegal instruction" in finding.problem) == ("error", True)


def test_a_device_with_another_engine_can_do_without_onnxruntime():
    absent = {**CPU, "runs": False, "detail": "No module named 'onnxruntime'"}
    device = {"edgeseg-runtime": "0.1.0", "openvino": "2026.4"}
    assert provider_findings([absent], device, has_another_engine=True) == []
    (finding,) = provider_findings([absent], device)
    assert (finding.severity, finding.fix.startswith("pip install onnxruntime")) == ("error", True)
    (finding,) = provider_findings([absent], {"edgeseg": "0.1.0"}, has_another_engine=True)
    assert finding.severity == "error"
    broken = {**device, "onnxruntime": "1.32"}
    (finding,) = provider_findings([absent], broken, has_another_engine=True)
    assert (finding.severity, "--force-reinstall" in finding.fix) == ("warning", True)


def test_the_model_that_engines_are_tried_with_is_valid():
    model = onnx.load_model_from_string(ONE_NODE_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_openvino_is_named_with_version_and_devices():
    openvino = pytest.importorskip("openvino")
    found = check_openvino()
    (cpu,) = (entry for entry in found if entry["device"] == "CPU")
    assert openvino.__version__.startswith(cpu["version"])
    assert cpu["runs"]
    assert cpu["detail"]
    environment = read_environment()
    assert f"CPU: {cpu['detail']}" in environment.openvino_devices
    assert environment.versions["openvino"]


def test_a_device_of_openvino_that_fails_is_found():
    cpu = {"version": "2026.4", "device": "CPU", "runs": True, "detail": "a processor"}
    gpu = {**cpu, "device": "GPU", "runs": False, "detail": "no driver"}
    (finding,) = openvino_findings([cpu, gpu])
    assert finding.problem == "OpenVINO 2026.4 does not run a model on GPU: no driver"
    absent = {"version": None, "device": None, "runs": False, "detail": "No module"}
    assert openvino_findings([absent]) == []


def test_a_gpu_build_that_falls_back_to_the_cpu_is_found():
    fallen = {**CPU, "provider": "CUDAExecutionProvider", "runs": False, "detail": "no libcudnn"}
    (finding,) = provider_findings([CPU, fallen], {**GOOD, "onnxruntime-gpu": "1.32.0"})
    assert "its CUDA provider does not run: no libcudnn" in finding.problem
    assert provider_findings([CPU, {**fallen, "runs": True}], {"onnxruntime-gpu": "1.32"}) == []


def test_a_tensorrt_that_is_not_installed_is_described_with_its_remedy():
    found = describe_tensorrt("tensorrt")
    assert found["version"] or "install it: pip install tensorrt" in found["detail"]


def test_the_cache_is_measured_and_left_as_it_was(tmp_path):
    missing = describe_cache(tmp_path / "new" / "engines")
    assert missing["is_writable"]
    assert missing["num_engines"] == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.engine").write_bytes(bytes(100))
    (tmp_path / "a.engine.json").write_bytes(bytes(10))
    found = describe_cache(tmp_path)
    assert (found["num_engines"], found["size_bytes"]) == (1, 110)
    assert not describe_cache(tmp_path / "a.engine" / "engines")["is_writable"]
