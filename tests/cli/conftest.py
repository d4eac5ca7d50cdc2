"""Fixtures of the command line's tests: run a command, a bundle without a model, a real export."""

import json
import logging
import os
import subprocess
import sys

import pytest

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


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return the folder of a real export of the smallest model, with random weights."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    size = ("--image-size", "128x160", "--set", "box_detections_per_img=5")
    fast = ("--num-images", "1", "--no-variants")
    done = run_process("export", "maskrcnn_tiny", *size, *fast, "-o", folder)
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
