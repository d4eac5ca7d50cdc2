"""An export keeps few copies of the weights, whatever it does with its graphs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "export_memory.py"
MAX_COPIES = 4.5
"""PyTorch's, one that is read from the disk, two of ONNX Runtime's while it reorders them, and there three more of the
layer at hand, which is a twelfth of these weights at most."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.exhaustive
def test_an_export_needs_at_most_four_times_the_weights_beside_activations():
    command = [sys.executable, str(SCRIPT), "retinaface_resnet50", "--child"]
    command += ["--image-size", "320", "--images", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["weights_bytes"] > 50e6
    assert found["activations_bytes"] < found["weights_bytes"] / 2
    assert found["copies"] <= MAX_COPIES
