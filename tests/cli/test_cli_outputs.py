"""What commands write: never over anything of the user's, complete or not there, and said plainly."""

import json
import resource
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest


@pytest.fixture
def earlier(tmp_path):
    """Return a folder with a file under each name that a command writes."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    for name in ("0.jpg", "annotated.mp4", "predictions.json", "report.json", "report.md"):
        (folder / name).write_text("of an earlier day", encoding="utf-8")
    return folder


COMMANDS = {
    "pictures": (["run", "TINY", "PICTURES"], ["0.jpg", "predictions.json"]),
    "results": (["run", "TINY", "PICTURES", "--no-draw"], ["predictions.json"]),
    "video": (["run", "TINY", "VIDEO", "--no-save-json"], ["annotated.mp4"]),
    "bench": (
        ["bench", "TINY", "--backends", "onnxruntime", "--limit", "1", "--quick"],
        ["report.json", "report.md"],
    ),
    "compare": (
        ["compare", "TINY", "TINY", "--data", "PICTURES", "--limit", "1"],
        ["report.json", "report.md"],
    ),
}


@pytest.mark.parametrize(("arguments", "names"), COMMANDS.values(), ids=COMMANDS.keys())
def test_what_is_there_is_replaced_only_when_that_is_wanted(
    command, tiny, pictures, video, earlier, arguments, names
):
    places = {"TINY": tiny, "PICTURES": pictures, "VIDEO": video}
    arguments = [places.get(argument, argument) for argument in arguments]
    code, out, err = command(*arguments, "-o", earlier, "-q")
    assert (code, out) == (2, "")
    assert f"{', '.join(names)} in {earlier} would be replaced" in err
    assert {path.read_text(encoding="utf-8") for path in earlier.iterdir()} == {"of an earlier day"}
    if arguments[0] != "run":  # their files are written in the same way: see the tests of both
        return
    code, _, err = command(*arguments, "-o", earlier, "-q", "--overwrite")
    assert code == 0, err
    assert all(b"of an earlier day" not in (earlier / name).read_bytes() for name in names)
    others = {path for path in earlier.iterdir() if path.name not in names}
    assert {path.name for path in others if path.name.startswith(".")} == set()


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_pictures_are_never_written_over_themselves(command, tiny, tmp_path, options):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert cv2.imwrite(str(pictures / "holiday.jpg"), np.zeros((8, 8, 3), np.uint8))
    before = (pictures / "holiday.jpg").read_bytes()
    code, _, err = command("run", tiny, pictures, "-o", pictures, *options)
    assert code == 2
    assert "holiday.jpg in " in err
    assert "would be replaced, but that is what is read; give another folder with --out" in err
    assert (pictures / "holiday.jpg").read_bytes() == before
    assert [path.name for path in pictures.iterdir()] == ["holiday.jpg"]


def test_a_video_is_never_written_over_itself(command, tiny, video):
    own = video.with_name("annotated.mp4")
    video.rename(own)
    before = own.read_bytes()
    code, _, err = command("run", tiny, own, "-o", own.parent, "--overwrite", "--no-save-json")
    assert code == 2
    assert "annotated.mp4 in " in err
    assert own.read_bytes() == before


def limited(size, *arguments):
    """Run a command that can write no file larger than a size: a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-m", "edgeseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [(["--no-save-json"], "annotated.mp4"), (["--no-draw"], "predictions.json")],
    ids=["video", "results"],
)
def test_on_a_full_disk_nothing_incomplete_is_left(tiny, tmp_path, options, name):
    clip = tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    noise = np.random.default_rng(0)
    for _ in range(12):
        writer.write(noise.integers(0, 256, (120, 160, 3), np.uint8))
    writer.release()
    out = tmp_path / "out"
    done = limited(4000, "run", tiny, clip, "-o", out, "--score", "0", "-q", *options)
    assert done.returncode == 1, done.stderr
    assert f"{out / name}" in done.stderr
    assert "File too large" in done.stderr
    assert list(out.iterdir()) == []


def test_results_of_several_sources_are_numbered_through(command, tiny, pictures, video, tmp_path):
    out = tmp_path / "out"
    other = video.with_name("other.mp4")
    other.write_bytes(video.read_bytes())
    sources = (video, pictures / "0.png", other, pictures)
    code, summary = command.json("run", tiny, *sources, "-o", out, "--score", "0.8")
    assert code == 0
    assert (summary["num_frames"], summary["num_skipped"]) == (23, 1)
    assert {path.name for path in out.iterdir()} == {
        "0.jpg", "0-2.jpg", "1.jpg", "street.mp4", "other.mp4", "predictions.json",
    }  # fmt: skip
    results = json.loads((out / "predictions.json").read_text())
    ids = [entry["image_id"] for entry in results]
    assert len(set(ids)) == len(ids) == 23
    names = {entry["image_id"]: entry["file_name"] for entry in results}
    assert names[max(ids)] == f"{other}#9"
