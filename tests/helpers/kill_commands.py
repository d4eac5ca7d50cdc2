"""Kills exports, replacements or runs at random points, and checks that nothing is lost or left.

`python kill_commands.py export|replace|run COUNT FOLDER`. Every command is a fork of this process,
which has imported everything. A violation is an AssertionError; the line at the end counts how many
were ended by their signal, and did not come through before it.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import cv2
import kill_replacements as replacements
import numpy as np
from tiny_bundle import write_bundle

from edgeseg.cli import main

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
GENTLE = {signal.SIGTERM, signal.SIGINT}
EXPORT = ("export", "landmarks_regression_tiny", "--weights", "shapes", "--num-images", "1")


def in_a_process(function, *, delay=None, number=signal.SIGKILL):
    """Call a function in a fork; return its seconds, and its exit status or None if it was killed."""
    process = os.fork()
    if process == 0:
        status = 130  # of a signal that comes before the command is ready for it
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, GENTLE)
            with contextlib.redirect_stdout(io.StringIO()):
                status = function() or 0
        finally:
            os._exit(status)
    begin = time.monotonic()
    if delay is not None:
        time.sleep(delay)
        os.kill(process, number)
    status = os.waitpid(process, 0)[1]
    seconds = time.monotonic() - begin
    return seconds, None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Replacements:
    """A tiny bundle takes the place of another one."""

    def __init__(self, base):
        self.place = base / "bundle"

    def prepare(self):
        replacements.write_old(self.place)

    def command(self):
        replacements.replace(self.place)

    def check(self):
        replacements.check(self.place, in_two_steps=False)

    def check_end(self):
        assert replacements.bundle_of(self.place) == b"new model"


class Exports(Replacements):
    """A real export takes the place of a tiny bundle, or of what the export before left."""

    def prepare(self):
        if not self.place.exists():
            replacements.write_old(self.place)

    def command(self):
        return main([*EXPORT, "-o", str(self.place), "--overwrite", "-q"])

    def check(self):
        assert replacements.bundle_of(self.place) is not None, "no bundle is there"
        assert replacements.foreign_of(self.place) == replacements.FOREIGN

    def check_end(self):
        self.check()
        assert [path.name for path in self.place.parent.iterdir()] == ["bundle"]
        assert (self.place / "model.onnx").stat().st_size > 1000


class Runs:
    """Pictures and a video are annotated again and again, in a folder that holds files of the user."""

    def __init__(self, base):
        self.pictures, self.out, self.bundle = base / "pictures", base / "out", base / "bundle"
        self.clip = base / "clip.mp4"
        write_bundle(self.bundle)
        self.pictures.mkdir()
        self.out.mkdir()
        noise = np.random.default_rng(0)
        images = noise.integers(0, 256, (8, 96, 128, 3), np.uint8)
        for number, image in enumerate(images):
            assert cv2.imwrite(str(self.pictures / f"{number}.jpg"), image)
        writer = cv2.VideoWriter(str(self.clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 96))
        for image in images:
            writer.write(image)
        writer.release()
        (self.out / "notes.txt").write_text("years of work", encoding="utf-8")
        self.before = self.contents()

    def contents(self):
        files = (*self.pictures.iterdir(), self.clip, self.out / "notes.txt")
        return {path: path.read_bytes() for path in files}

    def prepare(self):
        pass

    def command(self):
        sources = (str(self.pictures), str(self.clip))
        return main(["run", str(self.bundle), *sources, "-o", str(self.out), "--overwrite", "-q"])

    def check(self):
        assert self.contents() == self.before, "a file of the user's has changed"
        for path in self.out.glob("[!.]*"):
            if path.suffix == ".jpg":
                assert cv2.imread(str(path)).shape == (96, 128, 3)
            if path.suffix == ".mp4":
                capture = cv2.VideoCapture(str(path))
                assert sum(1 for _ in iter(capture.grab, False)) in range(1, 9)
                capture.release()
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))

    def check_end(self):
        self.check()
        names = {path.name for path in self.out.iterdir()}
        expected = {f"{number}.jpg" for number in range(8)}
        assert names == expected | {"annotated.mp4", "predictions.json", "notes.txt"}
        assert len(json.loads((self.out / "predictions.json").read_text(encoding="utf-8"))) == 48


KINDS = {"export": Exports, "replace": Replacements, "run": Runs}


def kill_all(kind, count, folder):
    signal.pthread_sigmask(signal.SIG_BLOCK, GENTLE)  # until a fork can do something about them
    base = Path(folder, kind)
    base.mkdir(parents=True)
    task = KINDS[kind](base)
    if kind == "export":
        import edgeseg_export.bundle  # noqa: F401  what takes long to import
    seconds = []
    for _ in range(3):
        task.prepare()
        duration, status = in_a_process(task.command)
        assert status == 0
        seconds.append(duration)
    chance = random.Random(0)
    num_killed = 0
    for _ in range(count):
        task.prepare()
        number = chance.choice(SIGNALS)
        delay = chance.uniform(0, min(seconds))
        _, status = in_a_process(task.command, delay=delay, number=number)
        num_killed += status is None or status == 130
        task.check()
    task.prepare()
    _, status = in_a_process(task.command)
    assert status == 0
    task.check_end()
    print(f"{kind}: {count} with a signal in {min(seconds):.2f} s, {num_killed} ended by it")


if __name__ == "__main__":
    kill_all(sys.argv[1], int(sys.argv[2]), sys.argv[3])
