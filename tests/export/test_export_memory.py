"""An export keeps few copies of the weights, whatever it does with its graphs."""

import subprocess
import sys
from pathlib import Path

import pytest

SPOTTER = Path(__file__).parents[2] / "docs" / "examples"
MAX_COPIES = 4.0
MEASURE = """
import sys, tempfile
from pathlib import Path
import edgeseg, numpy as np
from edgeseg_bench.memory import peak_rss_bytes

sys.path.insert(0, sys.argv[1])
PICTURES = [np.full((32, 32, 3), 100, np.uint8)]

def export(widths, **options):
    model = edgeseg.create_model(
        "spotter:spotter_small", image_size=(32, 32), widths=widths, head_channels=16, max_detections=5
    )
    with tempfile.TemporaryDirectory() as folder:
        edgeseg.export_bundle(model, Path(folder) / "out", images=PICTURES, **options)
    return sum(value.nbytes for value in model.state_dict().values())

def growth(**options):
    export((8, 8, 8, 8), **options)  # all libraries are there
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_rss_bytes()
    weights = export((32, 64, 512, 1024), **options)
    return weights, (peak_rss_bytes() - before) / weights

print(*growth(precision=sys.argv[2], **eval(sys.argv[3])))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("precision", "options"),
    [("fp32", {}), ("fp16", {})],
    ids=["fp32", "fp16"],
)
def test_an_export_needs_at_most_four_times_the_weights(precision, options):
    """Its activations are a few hundred kilobytes here, and count."""
    command = [sys.executable, "-c", MEASURE, str(SPOTTER), precision, repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, copies = map(float, done.stdout.split()[-2:])
    assert weights > 50e6
    assert copies <= MAX_COPIES
