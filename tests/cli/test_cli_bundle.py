"""Commands that take a bundle, on one that runs in milliseconds: build, run, inspect, bench."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from constant_bundle import write_constant_bundle
from onnx import helper
from stateful_bundle import write_stateful_bundle

from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco
from edgeseg_bench.system import default_threads
from edgeseg_runtime.commands.inspect import inspect_path
from edgeseg_runtime.commands.tables import sections_from_document, text_from_bytes, text_from_value

# ---------------------------------------------------------------- run


def test_run_writes_annotated_pictures_and_coco_results(
    command, tiny, pictures, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "out"
    code, text, err = command("run", tiny, pictures, "-o", out)
    assert code == 0
    found, speed, last = text.splitlines()
    assert found == "2 frames on onnxruntime, 6 detections from score 0.3 on, 1 frames skipped"
    assert re.fullmatch(
        r"[\d.]+ s, [\d.]+ frames per second; ms of a frame: read [\d.]+, preprocess [\d.]+, "
        r"model [\d.]+, postprocess [\d.]+, write [\d.]+",
        speed,
    )
    assert last == str(out)
    assert "damaged.png cannot be used as a picture" in err
    assert sorted(path.name for path in out.iterdir()) == ["0.jpg", "1.jpg", "predictions.json"]
    assert cv2.imread(str(out / "0.jpg")).shape == (60, 80, 3)
    results = json.loads((out / "predictions.json").read_text())
    assert [entry["image_id"] for entry in results] == [0, 0, 0, 1, 1, 1]
    assert {entry["file_name"] for entry in results} == {
        str(pictures / "0.png"),
        str(pictures / "1.png"),
    }
    assert set(results[0]) == {
        "image_id", "category_id", "bbox", "score", "segmentation", "file_name",
    }  # fmt: skip


def test_run_leaves_out_what_is_not_wanted(command, tiny, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "run",
        tiny,
        pictures,
        "-o",
        out,
        "--score",
        "0.8",
        "--threads",
        "1",
        "--winograd",
        "off",
    ]
    code, summary = command.json(*arguments, "--no-draw")
    assert code == 0
    assert summary["num_detections"] == 2
    assert [path.name for path in out.iterdir()] == ["predictions.json"]
    assert command("run", tiny, pictures / "1.png", "-o", tmp_path / "b", "--no-save-json")[0] == 0
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["1.jpg"]


def test_run_annotates_a_video_at_its_own_speed(command, tiny, video, tmp_path):
    code, summary = command.json("run", tiny, video, "-o", tmp_path / "out")
    assert code == 0
    assert summary["num_frames"] == 10
    assert [Path(name).name for name in summary["files"]] == [
        "annotated.mp4",
        "predictions.json",
    ]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "annotated.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    capture.release()


def test_a_video_that_ends_early_is_written_as_far_as_it_goes(command, tiny, tmp_path):
    clip, half = tmp_path / "clip.avi", tmp_path / "half.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 64))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 256, (64, 80, 3), np.uint8))
    writer.release()
    half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    out = tmp_path / "out"
    code, text, err = command("run", tiny, half, "-o", out)
    assert code == 1
    count = int(text.split()[0])
    assert 5 < count < 15
    assert f"✓ predict {count}/{count}" in err
    assert f"error: the video ended early: {20 - count} frames that its header promises are" in err
    capture = cv2.VideoCapture(str(out / "annotated.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == count
    capture.release()


def test_a_run_in_which_nothing_can_be_read_fails(command, tiny, pictures, tmp_path):
    for path in pictures.glob("?.png"):
        path.unlink()
    code, _, err = command("run", tiny, pictures, "-o", tmp_path / "out")
    assert code == 1
    assert "error: none of the 1 frames could be read" in err


def test_stages_are_lines_where_the_output_is_a_file(command, tiny, pictures, tmp_path):
    sources = pictures / "0.png", pictures / "1.png"
    _, _, err = command("run", tiny, *sources, "-o", tmp_path / "out")
    assert [re.sub(r"[\d.]+ s", "S", line) for line in err.splitlines()] == [
        "  load the bundle", "✓ load the bundle, S", "  predict", "✓ predict 2/2, S",
    ]  # fmt: skip
    assert command("run", tiny, pictures, "-o", tmp_path / "quiet", "-q")[2].count("✓") == 0


def test_pictures_of_the_same_name_do_not_replace_each_other(command, tiny, pictures, tmp_path):
    other = pictures / "other"
    other.mkdir()
    (pictures / "0.png").rename(other / "1.png")
    code, _, _ = command("run", tiny, pictures / "**" / "1.png", "-o", tmp_path / "out", "-q")
    assert code == 0
    assert {"1.jpg", "1-2.jpg"} < {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("nowhere", 2, "nowhere does not exist; expected a picture, a folder"),
        ("damaged.png", 2, "damaged.png cannot be used as a picture"),
    ],
)
def test_a_source_without_pictures_leaves_no_results(
    command, tiny, pictures, tmp_path, source, code, message
):
    found, _, err = command("run", tiny, pictures / source, "-o", tmp_path / "out")
    assert found == code
    assert message in err
    assert not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*"))


def test_an_engine_that_is_not_there_exits_with_4(command, tiny, pictures, tmp_path):
    code, _, err = command("run", tiny, pictures, "-o", tmp_path, "--backend", "tensorrt")
    assert code == 4
    assert "install it" in err
    code, _, err = command("run", tiny, pictures, "-o", tmp_path, "--backend", "magic")
    assert code == 2
    assert "expected one of auto, onnxruntime, openvino, tensorrt, tensorrt_rtx" in err


def test_run_takes_a_folder_of_engines_wherever_auto_may_need_it(command, tiny, pictures, tmp_path):
    arguments = ["run", tiny, pictures, "-o", tmp_path / "out", "--engines", tmp_path]
    code, summary = command.json(*arguments)
    assert (code, summary["num_frames"]) == (0, 2)


@pytest.mark.parametrize(
    "arguments",
    [("run", "PICTURES", "--backend", "onnxruntime"), ("bench", "--backends", "onnxruntime")],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_of_engines_for_a_backend_without_any_is_a_usage_error(
    command, tiny, pictures, tmp_path, arguments
):
    name, *others = (pictures if argument == "PICTURES" else argument for argument in arguments)
    code, _, err = command(name, tiny, *others, "-o", tmp_path / "out", "--engines", tmp_path)
    assert code == 2
    assert "--engines is given, but onnxruntime has no engines; leave it out, or take" in err


def test_run_reads_a_folder_whose_name_is_a_number(command, tiny, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures.rename("2024")
    code, summary = command.json("run", tiny, "2024", "-o", tmp_path / "out", "--reconnect", "0")
    assert (code, summary["num_frames"]) == (0, 2)


@pytest.mark.parametrize(
    ("program", "number"),
    [("edgeseg", signal.SIGINT), ("edgeseg_runtime", signal.SIGTERM)],
    ids=["workstation, Ctrl-C", "device, SIGTERM"],
)
def test_an_interrupted_run_keeps_what_was_done(tiny, tmp_path, program, number):
    """The source never ends by itself: a folder of pictures that takes far longer than the test."""
    pictures = tmp_path / "many"
    pictures.mkdir()
    image = cv2.imencode(".png", cv2.resize(cv2.UMat(2, 2, cv2.CV_8UC3), (400, 300)))[1].tobytes()
    for index in range(3000):
        (pictures / f"{index:05d}.png").write_bytes(image)
    out = tmp_path / "out"
    running = subprocess.Popen(
        [sys.executable, "-m", program, "run", tiny, pictures, "-o", out, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_until(lambda: len(list(out.glob("*.jpg"))) > 2)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr
    summary = json.loads(stdout)
    assert summary["was_interrupted"]
    assert 2 < summary["num_frames"] < 3000
    results = json.loads((out / "predictions.json").read_text())
    assert len(results) == summary["num_detections"]
    assert len(list(out.glob("*.jpg"))) == summary["num_frames"]
    assert not list(out.glob(".*"))
    assert "interrupted; what was done by then is written" in stderr


def constant_outputs(**shapes):
    arrays = {name: np.full((1, *shape), 0.6, np.float32) for name, shape in shapes.items()}
    if "labels" in arrays:
        arrays["labels"] = np.ones((1, 1), np.int32)
    return arrays


FACES = constant_outputs(
    boxes=(1, 4), scores=(1,), labels=(1,), landmarks=(1, 5, 2), gender=(1,), mesh=(1, 9, 3)
)
STRETCH = {"preprocess": {"resize": "stretch", "rounding": "floor"}}


@pytest.mark.parametrize(
    ("task", "outputs", "changes", "keys"),
    [
        pytest.param(
            "instances", FACES, STRETCH, {"bbox", "landmarks", "gender", "mesh"}, id="faces"
        ),
        pytest.param(
            "instances",
            constant_outputs(boxes=(1, 4), scores=(1,), labels=(1,), embedding=(1, 8)),
            STRETCH,
            {"bbox", "embedding"},
            id="an output of one's own",
        ),
        pytest.param(
            "keypoints", constant_outputs(keypoints=(16, 3)), {}, {"bbox", "keypoints"}, id="pose"
        ),
        pytest.param(
            "landmarks",
            constant_outputs(points=(68, 2), scores=(68,)),
            STRETCH,
            {"keypoints"},
            id="landmarks",
        ),
    ],
)
def test_run_writes_whatever_the_model_finds(
    command, pictures, tmp_path, task, outputs, changes, keys
):
    write_constant_bundle(tmp_path / "bundle", task, outputs, **changes)
    out = tmp_path / "out"
    code, summary = command.json("run", tmp_path / "bundle", pictures, "-o", out)
    assert code == 0
    assert (summary["num_frames"], summary["num_detections"]) == (2, 2)
    results = json.loads((out / "predictions.json").read_text())
    shared = {"image_id", "category_id", "score", "file_name"}
    assert [set(entry) for entry in results] == [shared | keys] * 2
    if "keypoints" in keys:
        assert len(results[0]["keypoints"]) == 3 * next(iter(outputs.values())).shape[1]
    assert (cv2.imread(str(out / "0.jpg")).std(axis=(0, 1)) > 0).any()


def test_a_heat_map_of_nan_does_not_end_a_run(command, pictures, tmp_path):
    heatmaps = np.full((1, 2, 3, 56, 56), np.nan, np.float32)
    heatmaps[0, 1] = 1
    found = {
        "boxes": np.array([[[4, 4, 30, 28], [20, 10, 60, 40]]], np.float32),
        "scores": np.array([[0.9, 0.8]], np.float32),
        "labels": np.ones((1, 2), np.int32),
        "keypoint_heatmaps": heatmaps,
    }
    write_constant_bundle(
        tmp_path / "bundle",
        "instances",
        found,
        preprocess={"resize": "stretch", "rounding": "floor"},
        postprocess={"keypoints": "bicubic_argmax"},
    )
    code, _, err = command("run", tmp_path / "bundle", pictures, "-o", tmp_path / "out")
    assert code == 0
    assert "note: 2 detections were dropped or lost key points: NaN or infinite numbers" in err
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(results) == 4
    assert results[0]["keypoints"] == [0.0] * 9
    assert all(results[1]["keypoints"])


# ---------------------------------------------------------------- inspect


def test_inspect_describes_a_bundle(command, tiny):
    code, document = command.json("inspect", tiny)
    assert code == 0
    assert document["is_intact"]
    assert document["model"]["name"] == "tiny"
    assert document["inputs"][0] == {"name": "image", "dtype": "uint8", "shape": [1, 48, 64, 3]}
    assert document["artifacts"][0]["status"] == "ok"
    assert document["operators"]["Conv"] == 1
    assert document["graphs"]["main"]["opsets"] == {"ai.onnx": 17}
    assert document["engines"] == []
    assert document["onnxruntime"]["provider"] == "CPUExecutionProvider"
    assert set(document["onnxruntime"]["num_nodes"]) <= {"CPUExecutionProvider"}
    code, text, _ = command("inspect", tiny)
    assert code == 0
    assert "1x48x64x3" in text
    assert "__background__, circle, square" in text


def test_inspect_says_what_it_does_and_reads_each_file_once(tiny):
    stages = []
    inspect_path(tiny, progress=lambda stage, done, total: stages.append(stage))
    assert stages == ["read model.onnx", "count the operators", "load it with ONNX Runtime"]


def test_inspect_finds_a_flipped_bit(command, tiny):
    path = tiny / "model.onnx"
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    code, out, err = command("inspect", tiny)
    assert code == 3
    assert "is_intact  no" in out
    assert "error: model.onnx is damaged: expected sha256" in err
    code, document = command.json("inspect", tiny)
    assert code == 3
    assert not document["is_intact"]
    assert "operators" not in document, "a damaged graph is not parsed"


def test_inspect_describes_an_onnx_file(command, tiny):
    code, document = command.json("inspect", tiny / "model.onnx")
    assert code == 0
    assert document["kind"] == "onnx"
    assert document["outputs"][0] == {"name": "boxes", "dtype": "float32", "shape": [1, 4, 4]}


def test_inspect_does_not_read_a_hole(command, tmp_path):
    with (tmp_path / "hole.onnx").open("wb") as stream:
        stream.truncate(2**31 - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, _, err = command("inspect", tmp_path / "hole.onnx")
    assert code == 3
    assert "hole.onnx is damaged: expected an ONNX model, found something else (a tag 0x0" in err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


def test_inspect_bears_types_and_names_that_nobody_knows(command, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])],
        "g",
        [helper.make_tensor_value_info("a", 1, [2])],
        [helper.make_tensor_sequence_value_info("b", 1, None)],
    )
    graph.input[0].type.tensor_type.elem_type = 99
    content = helper.make_model(graph, producer_name="maker").SerializeToString()
    content = content.replace(b"Identity", b"Id\xffn\x1bity").replace(b"maker", b"mak\xffr")
    (tmp_path / "strange.onnx").write_bytes(content)
    code, document = command.json("inspect", tmp_path / "strange.onnx")
    assert code == 0
    assert document["inputs"] == [{"name": "a", "dtype": "type 99", "shape": [2]}]
    assert document["outputs"] == [{"name": "b", "dtype": "sequence_type", "shape": []}]
    assert document["operators"] == {"Id\\xffn\x1bity": 1}
    assert document["graph"]["producer"] == "mak\\xffr"
    code, text, _ = command("inspect", tmp_path / "strange.onnx")
    assert code == 0
    assert r"Id\xffn\x1bity" in text


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("model.onnx", b"\xff\xff\xff", 3, "model.onnx is damaged: expected an ONNX model"),
        ("model.onnx", b"", 3, "model.onnx is damaged: expected an ONNX model"),
        ("model.txt", b"x", 2, "expected a bundle's folder or an .onnx file"),
        ("missing.onnx", None, 2, "does not exist"),
        (".", None, 3, "there is no bundle at"),
    ],
    ids=["garbage", "empty", "other-suffix", "missing", "empty-folder"],
)
def test_inspect_says_what_a_path_is_not(command, tmp_path, name, content, code, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found, _, err = command("inspect", tmp_path / name)
    assert found == code
    assert message in err


# ---------------------------------------------------------------- build


def test_build_compiles_ahead_and_finds_it_again(command, tiny, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "engines"
    code, first = command.json("build", tiny, "--target", "sm86,sm75", "-o", out)
    assert code == 0
    assert [engine["targets"] for engine in first["engines"]] == [["sm75"], ["sm86"]]
    assert all(engine["is_new"] for engine in first["engines"])
    assert all((out / engine["file"]).is_file() for engine in first["engines"])
    _, second = command.json("build", tiny, "--target", "sm86", "-o", out)
    assert not second["engines"][0]["is_new"]
    _, third = command.json("build", tiny, "--target", "sm86", "-o", out, "--force")
    assert third["engines"][0]["is_new"]
    code, text, _ = command("build", tiny, "--target", "sm86", "--engine", "tensorrt_rtx")
    assert code == 0
    assert "sm86" in text
    _, document = command.json("inspect", tiny)
    (engine,) = document["engines"]
    assert engine["targets"] == ["sm86"]
    assert (engine["graphs"], engine["rows"]) == (["main"], [])
    assert engine["size_bytes"] > 1000


def test_build_and_inspect_tell_which_graphs_an_engine_is_of(command, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    write_stateful_bundle(tmp_path, "staged")
    _, built = command.json("build", tmp_path, "--target", "sm86", "--level", "0")
    assert [engine["graphs"] for engine in built["engines"]] == [["detect"], ["mask"]]
    _, document = command.json("inspect", tmp_path)
    assert [(engine["graphs"], engine["rows"]) for engine in document["engines"]] == [
        (["detect"], []),
        (["mask"], [1, 4, 6]),
    ]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target", "sm12"], 2, "target is 'sm12'; expected one of sm75"),
        (["--target", "sm86", "--engine", "magic"], 2, "expected one of tensorrt, tensorrt_rtx"),
        (["--workspace", "0"], 2, "expected at least 1 MiB"),
    ],
)
def test_build_refuses_what_it_cannot_do(command, tiny, options, code, message):
    found, _, err = command("build", tiny, *options)
    assert found == code
    assert message in err


def test_build_without_a_bundle_exits_with_3(command, tmp_path):
    code, _, err = command("build", tmp_path, "--target", "sm86")
    assert code == 3
    assert "there is no bundle at" in err


# ---------------------------------------------------------------- bench


def test_bench_writes_its_report(command, tiny, tmp_path):
    out = tmp_path / "report"
    arguments = ["bench", tiny, "--backends", "onnxruntime", "--limit", "2", "--quick", "-o", out]
    code, text, _ = command(*arguments, "--threads", "1")
    assert code == 0
    assert text.splitlines()[-1] == str(out)
    assert "onnxruntime" in text
    report = json.loads((out / "report.json").read_text())
    (backend,) = report["backends"]
    assert backend["peak_memory_bytes"] > 10e6
    expected = {"threads": 1, "backends": ["onnxruntime"], "data": "shapes", "max_drop": 0.01}
    assert report["settings"] == expected
    assert (out / "report.md").read_text().startswith("# tiny on shapes:val, 2 pictures")


def test_bench_leaves_out_what_cannot_be_read_before_it_measures(command, tiny, tmp_path):
    folder = write_coco(ShapesDataset("val", limit=3), tmp_path / "data")
    sorted((folder / "val").glob("*.png"))[1].write_bytes(b"damaged")
    categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    labels = [{**annotation, "category_id": 1} for annotation in content["annotations"]]
    path.write_text(json.dumps({**content, "categories": categories, "annotations": labels}))
    arguments = ("bench", tiny, "--data", f"coco:{folder}", "--backends", "onnxruntime", "--quick")
    code, _, err = command(*arguments, "-o", tmp_path / "report")
    assert code == 0, err
    assert err.index("skipped: ") < err.index("load")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["num_pictures"] == 2
    assert report["settings"]["num_skipped_pictures"] == 1


def test_bench_compares_engines_in_one_table(command, tiny, tmp_path):
    pytest.importorskip("openvino")
    out = tmp_path / "report"
    engines = ("--backends", "onnxruntime,openvino")
    code, _, err = command("bench", tiny, *engines, "--limit", "2", "--quick", "-o", out)
    assert code == 0, err
    report = json.loads((out / "report.json").read_text())
    rows = report["backends"]
    threads = [report["settings"]["threads"], *(row["engine"]["threads"] for row in rows)]
    assert threads == [default_threads()] * 3, "all have as many, without being told"
    assert report["interference"]["seconds"] > 0
    assert [row["name"] for row in rows] == ["onnxruntime", "openvino"]
    assert rows[1]["engine"]["provider"] == "CPU"
    assert rows[1]["agreement"]["ap"] == {"bbox": 1.0, "segm": 1.0}
    assert rows[1]["ratio_model"]["low"] <= rows[1]["ratio_model"]["high"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "does not record how its model was made, so the torch reference cannot be rebuilt"),
        (["--backends", "tensorflow"], "expected one of torch, onnxruntime"),
        (["--data", "imagenet"], "There is no data set 'imagenet'"),
    ],
    ids=["no-provenance", "backend", "data"],
)
def test_bench_refuses_what_it_cannot_measure(command, tiny, tmp_path, options, message):
    code, _, err = command("bench", tiny, "-o", tmp_path / "report", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "report").exists()


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("x", None, "-"),
        ("x", True, "yes"),
        ("x", 1e-7, "1e-07"),
        ("size_bytes", 2_500_000, "2.5 MB"),
        ("sha256", "0123456789abcdef", "0123456789ab"),
        ("shape", [-1, 3], "batchx3"),
        ("names", [], "none"),
        ("names", list(range(14)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 2 more"),
    ],
)
def test_values_read_well(name, value, text):
    assert text_from_value(name, value) == text


def test_sizes_have_their_unit():
    sizes = [text_from_bytes(value) for value in (0, 999, 1000, 1e6, 3.2e9)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "1.0 MB", "3.2 GB"]


def test_a_document_becomes_a_table_for_each_section():
    document = {
        "a": 1,
        "b": {"c": {"d": 2, "e": [{"x": 1}]}},
        "rows": [{"x": 1}, {"y": 2}],
        "none": [],
        "empty": {},
    }
    tables = sections_from_document(document)
    assert [len(table.rows) for table in tables] == [1, 1, 1, 2]


def _wait_until(is_ready, seconds=60):
    end = time.monotonic() + seconds
    while not is_ready():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_scene_cut_is_for_models_with_key_frames(command, tmp_path):
    """Refused before anything is written for others; the frames of a folder are one clip."""
    pictures = tmp_path / "frames"
    pictures.mkdir()
    for number, level in enumerate((40, 40, 200)):
        cv2.imwrite(str(pictures / f"{number}.png"), np.full((32, 48, 3), level, np.uint8))
    found = []
    for kind, options in (("key_step", ()), ("key_step", ("--scene-cut", "25"))):
        write_stateful_bundle(tmp_path / kind, kind)
        out = tmp_path / f"out{len(found)}"
        code, _, err = command(
            "run", tmp_path / kind, pictures, "-o", out, "-q", "--score", 0, *options
        )
        assert code == 0, err
        found.append([row["score"] for row in json.loads((out / "predictions.json").read_text())])
    assert found[0] != found[1]
    write_stateful_bundle(tmp_path / "staged", "staged")
    out = tmp_path / "none"
    code, _, err = command("run", tmp_path / "staged", pictures, "-o", out, "--scene-cut", 25)
    assert (code, out.exists()) == (2, False)
    assert "scene_cut 25.0 found, but staged has no key frames: leave it out" in " ".join(
        err.split()
    )
