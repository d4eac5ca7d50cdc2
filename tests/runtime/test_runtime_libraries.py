"""What the engines' libraries do when they are imported: nothing behind the user's back."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("onnxruntime")

RUN = """
import os, sys
before = os.environ.get("ORT_DISABLE_TELEMETRY")
import numpy as np
import edgeseg_runtime
with edgeseg_runtime.load(sys.argv[1], backend="onnxruntime", threads=1) as predictor:
    predictor(np.zeros((48, 64, 3), np.uint8))
assert os.environ["ORT_DISABLE_TELEMETRY"] == (before or "1")
"""


def run(bundle, home, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(bundle.parent / "tmp"), **variables}
    return subprocess.run(
        [sys.executable, "-B", "-c", RUN, str(bundle)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("home", ["home", "nowhere"])
def test_onnxruntime_writes_and_says_nothing(tiny, tmp_path, home):
    for folder in ("home", "tmp"):
        (tmp_path / folder).mkdir()
    place = (
        tmp_path / "home" if home == "home" else "/proc/self/nowhere"
    )  # not even root can make it
    done = run(tiny, place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [*(tmp_path / "home").rglob("*"), *(tmp_path / "tmp").rglob("*")] == []


def test_what_the_user_set_for_telemetry_stays(tiny, tmp_path):
    (tmp_path / "tmp").mkdir()
    done = run(tiny, tmp_path, ORT_DISABLE_TELEMETRY="0")
    assert done.returncode == 0, done.stderr
