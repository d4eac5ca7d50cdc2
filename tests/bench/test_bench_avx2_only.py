"""benchmarks/avx2_only.c: a program that cannot see AVX-512 and VNNI computes the same int8 results."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "avx2_only.c"
CPUINFO = Path("/proc/cpuinfo")
CAN_TRAP = CPUINFO.exists() and "cpuid_fault" in CPUINFO.read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(
    not CAN_TRAP or shutil.which("cc") is None,
    reason="needs a C compiler and a processor that can trap CPUID",
)

PROGRAM = """
import json, sys
import numpy as np
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.environment import read_environment
from numpy._core._multiarray_umath import __cpu_features__

with edgeseg_runtime.load(sys.argv[1], backend="onnxruntime", threads=1) as predictor:
    inputs, _ = predictor.task.preprocess(open_dataset("shapes", limit=1)[0].image)
    np.savez(sys.argv[2], **predictor.backend.run(inputs))
print(json.dumps([__cpu_features__["AVX2"], __cpu_features__["AVX512F"], read_environment().cpu_flags]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "avx2_only.so"
    options = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    subprocess.run(["cc", *options, "-o", path, SOURCE], check=True)
    return path


def test_int8_is_exact_without_vnni(library, bundle_of, tmp_path):
    """ONNX Runtime's fast kernel for such processors overflows 16 bits: the runtime asks for the exact one."""
    folder = bundle_of("maskrcnn_tiny", "int8")
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        inputs, _ = predictor.task.preprocess(open_dataset("shapes", limit=1)[0].image)
        expected = predictor.backend.run(inputs)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, tmp_path / "found.npz"],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    has_avx2, has_avx512, flags = json.loads(done.stdout)
    assert (has_avx2, has_avx512) == (True, False)
    assert not {flag for flag in flags if "512" in flag or "vnni" in flag or "amx" in flag}
    assert (expected["scores"] > 0.5).sum() > 2
    with np.load(tmp_path / "found.npz") as found:
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-3, err_msg=name)
