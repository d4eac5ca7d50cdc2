"""Commands that are killed at random points: nothing of the user's is lost, nothing hidden stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPER = Path(__file__).parents[1] / "helpers" / "kill_commands.py"


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("run", 3),
        *(pytest.param(k, 100, marks=pytest.mark.exhaustive) for k in ("export", "replace", "run")),
    ],
)
def test_a_killed_command_loses_and_leaves_nothing(tmp_path, kind, count):
    done = subprocess.run(
        [sys.executable, HELPER, kind, str(count), tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HELPER.parent), *sys.path]),
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{kind}: {count} with a signal in ")
