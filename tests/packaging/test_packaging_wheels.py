"""What the two wheels hold, and that the runtime's runs a bundle where nothing else is installed."""

import email
import json
import os
import platform
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_bundle import write_bundle

import edgeseg
import edgeseg_runtime
from edgeseg.models import get_spec

ROOT = Path(__file__).resolve().parents[2]
RUN_BUNDLE = Path(__file__).with_name("run_bundle.py")
VERSION = edgeseg_runtime.__version__
MAX_RUNTIME_WHEEL_BYTES = 400_000
MAX_WEIGHTS_BYTES = 2_000_000


def build_wheel(project, out):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(project)], check=True, capture_output=True, text=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    return {
        "edgeseg": build_wheel(ROOT, folder / "edgeseg"),
        "edgeseg_runtime": build_wheel(ROOT / "runtime", folder / "runtime"),
    }


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel):
    (name,) = (n for n in names(wheel) if n.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (
            "edgeseg",
            {"edgeseg", "edgeseg_bench", "edgeseg_export", "edgeseg_runtime"},
        ),
        ("edgeseg_runtime", {"edgeseg_runtime"}),
    ],
)
def test_a_wheel_installs_exactly_these_top_level_names(wheels, distribution, expected):
    found = {name.split("/")[0] for name in names(wheels[distribution])}
    assert found == expected | {f"{distribution}-{VERSION}.dist-info"}


def test_both_wheels_hold_the_same_runtime(wheels):
    runtime = [{n for n in names(w) if n.startswith("edgeseg_runtime/")} for w in wheels.values()]
    assert runtime[0] == runtime[1]
    assert "edgeseg_runtime/tensorrt/backend.py" in runtime[0]


@pytest.mark.parametrize("distribution", ["edgeseg", "edgeseg_runtime"])
def test_a_wheel_is_typed_and_carries_its_licence(wheels, distribution):
    found = names(wheels[distribution])
    packages = {name.split("/")[0] for name in found if name.endswith("/__init__.py")}
    assert packages <= {name.split("/")[0] for name in found if name.endswith("/py.typed")}
    assert f"{distribution}-{VERSION}.dist-info/licenses/LICENSE" in found
    assert metadata(wheels[distribution])["License-Expression"] == "Apache-2.0"


@pytest.mark.parametrize("distribution", ["edgeseg", "edgeseg_runtime"])
def test_a_wheel_holds_code_and_shipped_weights_only(wheels, distribution):
    suffixes = {Path(n).suffix for n in names(wheels[distribution]) if ".dist-info/" not in n}
    assert suffixes <= {".py", ".typed", ".md", ".json", ".safetensors"}


def test_the_weights_for_the_built_in_data_are_shipped(wheels):
    shipped = {n for n in names(wheels["edgeseg"]) if n.endswith(".safetensors")}
    models = [name for name in edgeseg.list_models() if "shapes" in get_spec(name).weights]
    assert shipped == {f"edgeseg/weights/{name}.safetensors" for name in models}
    with zipfile.ZipFile(wheels["edgeseg"]) as archive:
        assert max(archive.getinfo(name).file_size for name in shipped) <= MAX_WEIGHTS_BYTES


def test_the_runtime_wheel_is_small_and_demands_numpy_and_opencv_only(wheels):
    wheel = wheels["edgeseg_runtime"]
    assert wheel.stat().st_size < MAX_RUNTIME_WHEEL_BYTES
    demands = [d for d in metadata(wheel).get_all("Requires-Dist") if "extra ==" not in d]
    assert sorted(demand.split(">")[0] for demand in demands) == ["numpy", "opencv-python"]


@pytest.fixture(scope="module")
def bundle(bundle_of):
    return bundle_of("maskrcnn_tiny")


@pytest.fixture(scope="module")
def device_python(wheels, tmp_path_factory):
    """The interpreter of a machine that has the runtime, NumPy, OpenCV and ONNX Runtime."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install(python, wheels["edgeseg_runtime"], "onnxruntime")
    return python


def install(python, *packages):
    """Install packages, or skip the test where no index is within reach and need not be."""
    command = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    done = subprocess.run([*command, *packages], capture_output=True, text=True)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"no package index within reach: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_runtime_wheel_alone_gives_the_same_results(device_python, bundle, tmp_path):
    def run(python, *arguments):
        command = [python, "-I", RUN_BUNDLE, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    for name in ("torch", "onnx", "typer", "edgeseg"):
        absent = subprocess.run([device_python, "-I", "-c", f"import {name}"], capture_output=True)
        assert b"ModuleNotFoundError" in absent.stderr, name

    here = run(sys.executable, bundle, "here.npz")
    assert here.returncode == 0, here.stderr
    assert len(np.load(tmp_path / "here.npz")["scores"]) > 0
    there = run(device_python, bundle, "there.npz", "--expected", "here.npz")
    assert there.returncode == 0, there.stdout + there.stderr


@pytest.mark.slow
def test_the_runtime_wheel_brings_the_command_edgeseg(device_python, tmp_path):
    write_bundle(tmp_path / "bundle")
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 80, 3), 90, np.uint8))

    def run(*arguments, program=None):
        command = [*(program or [device_python.with_name("edgeseg")]), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    shown = run("build", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: edgeseg build ")
    described = run("inspect", "bundle", "--json")
    assert described.returncode == 0, described.stderr
    document = json.loads(described.stdout)
    assert document["model"]["name"] == "tiny"
    assert document["operators"]["Conv"] == 1, "counted without the package onnx"
    assert document["onnxruntime"]["provider"] == "CPUExecutionProvider"

    examined = run("doctor", "--json")
    assert examined.returncode == 0, examined.stderr
    document = json.loads(examined.stdout)
    assert [p["runs"] for p in document["providers"] if "CPU" in p["provider"]] == [True]
    assert document["software"]["edgeseg-runtime"] == VERSION
    assert document["openvino"][0]["detail"] == "No module named 'openvino'"
    assert document["findings"] == []

    there = run("run", "bundle", "a.png", "-o", "there")
    assert there.returncode == 0, there.stderr
    assert there.stdout.startswith("1 frames on onnxruntime, 3 detections from score 0.3 on")
    here = run("run", "bundle", "a.png", "-o", "here", program=(sys.executable, "-m", "edgeseg"))
    assert here.returncode == 0, here.stderr
    for name in ("a.jpg", "predictions.json"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    again = run("run", "bundle", "a.png", "-o", "there")
    assert again.returncode == 2
    assert "would be replaced" in again.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no TensorRT-RTX for it"
)
def test_the_runtime_wheel_alone_compiles_an_engine(device_python, tmp_path):
    install(device_python, "tensorrt-rtx-cu13")
    write_bundle(tmp_path / "bundle")
    out = tmp_path / "engines"
    options = ["--target", "sm86", "--level", "1", "--out", out]
    command = [device_python.with_name("edgeseg"), "build", tmp_path / "bundle", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (engine,) = out.glob("*.engine")
    assert engine.name in done.stdout
    assert "sm86" in done.stdout
