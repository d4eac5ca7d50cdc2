"""Fixtures of the command line's tests: run a command, a bundle without a model, a real export."""

import json
import logging
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from tiny_bundle import write_bundle

from edgeseg.cli import main


class Command:
    """Runs commands in this process and keeps what they wrote."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments):
        """Return exit code, stdout and stderr."""
        code = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert logging.getLogger().level == logging.WARNING, "a command changed the root logger"
        return code, out, err

    def json(self, *arguments):
        """Return exit code and the one JSON object on stdout."""
        code, out, _ = self(*arguments, "--json")
        return code, json.loads(out)


@pytest.fixture
def command(capsys):
    return Command(capsys)


@pytest.fixture
def tiny(tmp_path):
    """Return the folder of a bundle that takes milliseconds to run."""
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of two pictures and a damaged one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        image = np.full((60, 80, 3), 40 * number + 20, np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def video(tmp_path):
    """Return a video of ten frames at 10 per second."""
    path = tmp_path / "street.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (80, 64))
    for number in range(10):
        writer.write(np.full((64, 80, 3), 20 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return the folder of a real export of the smallest model, with random weights."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    size = ("--image-size", "128x160", "--set", "box_detections_per_img=5")
    done = run_process("export", "maskrcnn_tiny", *size, "--num-images", "1", "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def run_process(*arguments, code=None, **options):
    """Run a command, or Python code, in a process of its own."""
    start = ["-c", code] if code else ["-m", "edgeseg"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


@pytest.fixture(scope="session")
def process():
    return run_process
