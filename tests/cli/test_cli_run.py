"""What `run` draws and writes: options of drawing, lines of JSON, and two bundles in a row."""

import json
import resource
import signal
import threading

import cv2
import numpy as np
import pytest
from constant_bundle import write_constant_bundle

from edgeseg_runtime import FacePipeline, Source, load
from edgeseg_runtime.commands.recording import output_folder, record
from edgeseg_runtime.commands.writing import Drawing
from edgeseg_runtime.picture.image import read_image

PICTURE = np.full((64, 64, 3), 60, np.uint8)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text("utf-8").splitlines()]


# ---------------------------------------------------------------- lines of JSON


def test_every_frame_is_a_line_of_json(command, tiny, pictures, video, tmp_path):
    out = tmp_path / "out"
    code, summary = command.json(
        "run", tiny, pictures, video, "-o", out, "--save-lines", "--score", "0.6"
    )
    assert code == 0
    assert summary["files"][-1] == str(out / "frames.jsonl")
    lines = lines_of(out)
    assert [line["image_id"] for line in lines] == list(range(12)), "the third picture is damaged"
    assert (lines[-1]["file_name"], lines[-1]["height"]) == (f"{video}#9", 64)
    with load(tiny) as predictor:
        image = read_image(pictures / "0.png")
        expected = json.loads(predictor(image).filter(score=0.6).to_json())
    assert lines[0] == {"image_id": 0, "file_name": str(pictures / "0.png"), **expected}
    code, _, _ = command(
        "run", tiny, video, "-o", out, "--save-lines", "--score", "1", "--overwrite"
    )
    assert code == 0
    assert [line["detections"] for line in lines_of(out)] == [[]] * 10


def test_lines_are_there_while_the_run_goes_on_and_after_an_error(tiny, tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), PICTURE)
    out, seen = tmp_path / "out", []
    file = out / "frames.jsonl"

    def look(_stage, done, _total):
        seen.append(len(lines_of(out)) if file.exists() else None)
        if done == 3:
            raise OSError("the cable was pulled")

    sources = [Source(str(tmp_path / "*.png"))]
    options = {"drawing": Drawing(draws=False), "writes_json": False, "writes_lines": True}
    outputs = output_folder(sources, out, overwrite=False, **options)
    predictor = load(tiny)
    with pytest.raises(OSError, match="the cable was pulled"):
        record(
            predictor, sources, outputs, score=0, stop=threading.Event(), progress=look, **options
        )
    assert seen == [None, 1, 2, 3]
    assert len(lines_of(out)) == 3
    assert [path.name for path in out.iterdir()] == ["frames.jsonl"]
    with pytest.raises(FileExistsError, match=r"frames\.jsonl in .* would be replaced"):
        output_folder(sources, out, overwrite=False, **options)


@pytest.fixture
def small_disk():
    """Let files be no larger than a number of bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_on_a_full_disk_the_lines_that_were_written_are_whole(
    command, tiny, video, tmp_path, small_disk
):
    out = tmp_path / "out"
    small_disk(4000)
    code, _, err = command(
        "run", tiny, video, "-o", out, "--save-lines", "--no-draw", "--no-save-json", "--score", "0"
    )
    assert code == 1
    assert f"{out / 'frames.jsonl'}: File too large" in err.replace("\n", "")
    assert 0 < len(lines_of(out)) < 10
    assert [path.name for path in out.iterdir()] == ["frames.jsonl"]


# ---------------------------------------------------------------- drawing


def test_options_of_drawing_reach_the_picture(command, tiny, pictures, tmp_path):
    options = ["--no-draw-labels", "--no-draw-scores", "--colours", "instance", "--line-width", "5"]
    code, _, err = command("run", tiny, pictures / "1.png", "-o", tmp_path / "out", *options)
    assert code == 0, err
    with load(tiny) as predictor:
        image = read_image(pictures / "1.png")
        drawn = (
            predictor(image)
            .filter(score=0.3)
            .draw(image, labels=False, scores=False, colours="instance", line_width=5)
        )
    _, expected = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert (tmp_path / "out" / "1.jpg").read_bytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--colours", "red"], "colours is 'red'; expected one of class, instance, or None"),
        (["--line-width", "500"], "line_width is 500; expected 1 to 100 pixels"),
        (["--no-draw", "--no-draw-labels"], "--no-draw-labels is given, and --no-draw: nothing is"),
        (["--no-draw", "--line-width", "3"], "--line-width 3 is given, and --no-draw: nothing is"),
        (
            ["--keypoint-score", "0.5"],
            "--keypoint-score 0.5 is given, but tiny gives no key points",
        ),
    ],
)
def test_options_of_drawing_that_make_no_sense_are_refused(
    command, tiny, pictures, tmp_path, options, message
):
    code, _, err = command("run", tiny, pictures, "-o", tmp_path / "out", *options)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


# ---------------------------------------------------------------- two bundles in a row


@pytest.fixture
def faces(tmp_path):
    """Return the folders of a detector that finds two faces, and of their landmarks."""
    found = {
        "boxes": np.float32([[[8, 8, 24, 24], [30, 30, 60, 50], [0, 0, 0, 0]]]),
        "scores": np.float32([[0.9, 0.8, 0.0]]),
        "labels": np.ones((1, 3), np.int32),
    }
    preprocess = {"resize": "stretch", "rounding": "floor"}
    write_constant_bundle(tmp_path / "faces", "instances", found, preprocess=preprocess)
    points = {"points": np.float32([[[0, 0], [32, 32]]]), "scores": np.ones((1, 2), np.float32)}
    write_constant_bundle(tmp_path / "points", "landmarks", points)
    return tmp_path / "faces", tmp_path / "points"


def test_the_second_bundle_looks_at_what_the_first_one_finds(command, faces, tmp_path):
    picture = tmp_path / "people.png"
    cv2.imwrite(str(picture), PICTURE)
    out = tmp_path / "out"
    code, summary = command.json("run", faces[0], picture, "--then", faces[1], "-o", out)
    assert (code, summary["num_detections"]) == (0, 2)
    with load(faces[0]) as detector, load(faces[1]) as landmarks:
        expected = FacePipeline(detector, landmarks, score=0.3)(PICTURE)
        drawn = expected.draw(PICTURE)
    records = json.loads((out / "predictions.json").read_text("utf-8"))
    assert [r["landmarks"] for r in records] == [r["landmarks"] for r in expected.records(0)]
    _, encoded = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert (out / "people.jpg").read_bytes() == encoded.tobytes()


def test_bundles_that_do_not_follow_one_another_are_refused(command, faces, tmp_path):
    picture = tmp_path / "people.png"
    cv2.imwrite(str(picture), PICTURE)
    code, _, err = command("run", faces[1], picture, "--then", faces[0], "-o", tmp_path / "out")
    assert code == 2
    assert "the detector predictor fake is one of the task 'landmarks'" in err.replace("\n", " ")
