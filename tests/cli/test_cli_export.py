"""`edgeseg export` and what depends on a real export: the reference that `bench` rebuilds."""

import dataclasses
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import torch

import edgeseg
from edgeseg.models.provenance import ReferenceMismatchError, rebuild_model, weights_source
from edgeseg_runtime import Manifest, load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")


def test_export_proves_parity_and_ends_with_the_folder(exported):
    folder, done = exported
    assert done.stdout.splitlines()[-1] == str(folder)
    assert "Parity with torch" in done.stdout
    assert "1 pictures of shapes:val" in done.stdout
    assert "note: the weights of maskrcnn_tiny are random" in done.stderr
    for stage in ("load PyTorch and the model", "trace", "parity", "write"):
        assert f"✓ {stage}" in done.stderr
    manifest = Manifest.load(folder)
    assert manifest.parity["is_within_tolerance"]
    assert manifest.outputs[0].shape == (1, 5, 4), "--set reached the model"
    assert (manifest.preprocess.height, manifest.preprocess.width) == (128, 160)
    assert manifest.provenance["weights"] == "random"
    assert manifest.provenance["command"][:3] == ["edgeseg", "export", "maskrcnn_tiny"]
    with load(folder) as predictor:
        assert predictor.warm_up(num_runs=1) > 0


def test_an_existing_bundle_is_kept(exported, command):
    folder, _ = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, err = command("export", "maskrcnn_tiny", "-o", folder)
    assert (code, out) == (2, "")
    assert f"{folder} is not empty; give another folder, or --overwrite" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--image-size", "100x100"], 2, "use 128x128"),
        (["--opset", "18"], 2, "opset 18 found, expected one of 17, 20"),
        (["--precision", "fp7"], 2, "precision 'fp7' found"),
        (["--precision", "int8"], 2, "int8' found without pictures to calibrate on"),
        (["--precision", "int8", "--calibrate", "missing"], 2, "missing does not exist"),
        (["--precision", "auto"], 2, "auto' found without pictures to calibrate on"),
        (["--precision", "auto", "--max-drop", "2"], 2, "Invalid value for '--max-drop'"),
        (["--backends", "tflite"], 2, "expected some of onnxruntime, openvino, tensorrt"),
        (["--set", "colour=red"], 2, "--set 'colour' found, expected one of"),
        (["--weights", "missing.pth"], 3, "missing.pth: no such weight file"),
        (["--images", "missing"], 2, "missing does not exist; expected a picture"),
    ],
)
def test_export_refuses_before_it_writes(command, tmp_path, options, code, message):
    found, out, err = command("export", "maskrcnn_tiny", "-o", tmp_path / "out", *options)
    assert (found, out) == (code, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("compile for tensorrt_rtx", signal.SIGINT),
        pytest.param("trace", signal.SIGINT, marks=pytest.mark.exhaustive),
        pytest.param("trace", signal.SIGTERM, marks=pytest.mark.exhaustive),
        pytest.param("compile for tensorrt_rtx", signal.SIGTERM, marks=pytest.mark.exhaustive),
    ],
)
def test_an_interrupted_export_leaves_nothing(tmp_path, stage, number):
    options = []
    if stage != "trace":
        pytest.importorskip("tensorrt_rtx")
        # Some seconds, so that the signal comes before the end.
        options = ["--backends", "tensorrt_rtx", "--target", "sm86,sm89,sm120"]
    name = "landmarks_regression_tiny"
    arguments = ["export", name, "--num-images", "1", "-o", "out", *options]
    code, text = _interrupt(arguments, stage, number, folder=tmp_path)
    assert code == 130, text
    assert "error: interrupted" in text
    assert list(tmp_path.iterdir()) == []


def test_bench_rebuilds_the_exported_model(exported, command, tmp_path):
    folder, _ = exported
    code, document = command.json(
        "bench", folder, "--limit", "2", "--quick", "--threads", "1", "-o", tmp_path / "report"
    )
    assert code == 0
    reference, candidate = document["report"]["backends"]
    assert (reference["name"], candidate["name"]) == ("torch", "onnxruntime")
    assert reference["engine"]["threads"] == candidate["engine"]["threads"] == 1
    assert candidate["agreement"]["num_matched"] == candidate["agreement"]["num_reference"]
    assert reference["peak_memory_bytes"] > candidate["peak_memory_bytes"] > 10e6


@pytest.mark.slow
def test_compare_goes_from_the_rebuilt_model_to_the_bundle(exported, command):
    code, document = command.json(
        "compare",
        "torch",
        exported[0],
        "--limit",
        "1",
        "--score",
        "0.05",  # of random weights nothing is surer
        "--fail-on",
        "agreement_ap<1,num_bad_taps>0",
    )
    assert (code, document["failed_on"]) == (0, [])
    report = document["report"]
    assert (report["reference"], report["first_bad_tap"]) == ("torch", None)
    assert [(step["name"], step["is_same"]) for step in report["steps"]] == [
        ("ONNX fp32, traced anew", False),
        ("ONNX fp32", False),
        ("pre-processing", True),
        ("post-processing", True),
    ]
    assert "detect/backbone.stem.0.conv/Conv" in {tap["name"] for tap in report["taps"]}


def test_the_rebuilt_model_has_the_exported_weights(exported):
    manifest = Manifest.load(exported[0])
    model = rebuild_model(manifest)
    assert model.config.image_size == (128, 160)
    assert model.config.box_detections_per_img == 5


def test_bench_refuses_another_checkpoint(exported, command, tmp_path):
    folder, _ = exported
    torch.manual_seed(1)
    torch.save(edgeseg.create_model("maskrcnn_tiny").state_dict(), tmp_path / "other.pth")
    code, _, err = command("bench", folder, "--weights", tmp_path / "other.pth", "-o", tmp_path)
    assert code == 1
    assert "other.pth are not those that the bundle was exported from: sha256 " in err
    with pytest.raises(ReferenceMismatchError):
        rebuild_model(Manifest.load(folder), weights=str(tmp_path / "other.pth"))


def test_the_exported_checkpoint_is_found_again_or_asked_for(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    path = tmp_path / "own.pth"
    torch.save(edgeseg.create_model("maskrcnn_tiny").state_dict(), path)
    manifest = _with_provenance(
        Manifest.load(exported[0]), weights=weights_source("maskrcnn_tiny", "own.pth")
    )
    assert manifest.provenance["weights"] == str(path)
    rebuild_model(manifest)
    path.unlink()
    with pytest.raises(ValueError, match=r"own\.pth .* not there any more: give it with --weights"):
        rebuild_model(manifest)
    with pytest.raises(ValueError, match="does not record its checkpoint: give it with --weights"):
        rebuild_model(_with_provenance(manifest, weights=None))


def test_weights_are_recorded_by_their_full_path():
    assert weights_source("yolact_tiny", None) == "random"
    assert weights_source("yolact_tiny", "shapes") == "shapes"
    assert os.path.isabs(weights_source("yolact_tiny", "model.pth"))  # noqa: PTH117 - text, not a path


def _with_provenance(manifest, **changes):
    return dataclasses.replace(manifest, provenance={**manifest.provenance, **changes})


def _interrupt(arguments, stage, number, *, folder):
    """Run a command on a terminal, send a signal once it shows a stage; return code and text."""
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "edgeseg", *arguments],
        stdout=follower,
        stderr=follower,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(follower)
    text, is_sent, end = "", False, time.monotonic() + 200
    while time.monotonic() < end:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                text += os.read(leader, 65536).decode(errors="replace")
            except OSError:  # the command has closed the terminal
                break
        if not is_sent and stage in text:
            time.sleep(0.3)
            running.send_signal(number)
            is_sent = True
    os.close(leader)
    code = running.wait(timeout=60)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)[-1000:]
    assert is_sent, text
    return code, text
