"""Peak memory is that of the measured process, not of the one that started it."""

import subprocess
import sys

import numpy as np
import pytest
from tiny_bundle import write_bundle

from edgeseg_bench.memory import peak_memory, peak_rss_bytes
from edgeseg_runtime.errors import BackendError


def test_the_peak_covers_what_was_allocated():
    block = np.ones(200_000_000, dtype=np.uint8)
    assert peak_rss_bytes() > block.nbytes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_child_does_not_inherit_the_peak_of_its_parent():
    block = np.ones(300_000_000, dtype=np.uint8)
    code = "from edgeseg_bench.memory import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250_000_000 < block.nbytes


def test_a_failed_process_says_why(tmp_path):
    with pytest.raises(
        BackendError, match=r"Measuring the memory of .* with .*onnxruntime.* failed"
    ):
        peak_memory(tmp_path, {"backend": "onnxruntime"})


def test_the_peak_of_a_bundle_is_more_than_that_of_the_bare_runtime(tmp_path):
    write_bundle(tmp_path)
    memory = peak_memory(tmp_path, {"backend": "onnxruntime", "threads": 1}, num_runs=2)
    assert 10_000_000 < memory.before_bytes < memory.peak_bytes < 1_000_000_000
