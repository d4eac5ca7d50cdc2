"""An export keeps few copies of the weights, whatever it does with its graphs."""

import subprocess
import sys

import pytest

MAX_COPIES = 4.0
MEASURE = """
import sys, tempfile
from pathlib import Path
import edgeseg, numpy as np
from edgeseg_bench.memory import peak_rss_bytes

PICTURES = [np.full((64, 64, 3), 100, np.uint8)]

def export(name, **options):
    model = edgeseg.create_model(name, image_size=64)
    with tempfile.TemporaryDirectory() as folder:
        edgeseg.export_bundle(model, Path(folder) / "out", images=PICTURES, **options)
    return sum(value.nbytes for value in model.state_dict().values())

def growth(**options):
    export("retinaface_mobilenet025", **options)  # all libraries are there
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_rss_bytes()
    weights = export("retinaface_resnet50", **options)
    return weights, (peak_rss_bytes() - before) / weights

print(*growth(precision=sys.argv[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_needs_at_most_four_times_the_weights(precision):
    """Its activations are a few megabytes here, and count."""
    command = [sys.executable, "-c", MEASURE, precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, copies = map(float, done.stdout.split()[-2:])
    assert weights > 50e6
    assert copies <= MAX_COPIES
