"""benchmarks/avx2_only.c: what a program cannot see it does not use, and int8 computes the same without it."""

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
FLAGS = set(CPUINFO.read_text(encoding="utf-8").split()) if CPUINFO.exists() else set()

pytestmark = pytest.mark.skipif(
    "cpuid_fault" not in FLAGS or shutil.which("cc") is None,
    reason="needs a C compiler and a processor that can trap CPUID",
)

PROGRAM = """
import json, sys
import numpy as np
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.onnx.quantized import do_products_overflow

with edgeseg_runtime.load(sys.argv[1], backend="onnxruntime", threads=1) as predictor:
    inputs, _ = predictor.task.preprocess(open_dataset("shapes", limit=1)[0].image)
    np.savez(sys.argv[2], **predictor.backend.run(inputs))
print(json.dumps([read_environment().cpu_flags, do_products_overflow()]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "avx2_only.so"
    options = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    subprocess.run(["cc", *options, "-o", path, SOURCE], check=True)
    return path


@pytest.mark.parametrize(
    ("settings", "flags", "does_overflow"),
    [
        pytest.param({}, ["avx2"], True, id="AVX2"),
        pytest.param(
            {"KEEP_AVX_VNNI": "1"},
            ["avx2", "avx_vnni"],
            False,
            id="AVX-VNNI",
            marks=pytest.mark.skipif("avx_vnni" not in FLAGS, reason="the processor has none"),
        ),
    ],
)
def test_int8_is_exact(library, bundle_of, tmp_path, settings, flags, does_overflow):
    """ONNX Runtime's fast kernel overflows 16 bits without VNNI: the runtime then takes the exact one."""
    folder = bundle_of("maskrcnn_tiny", "int8")
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        inputs, _ = predictor.task.preprocess(open_dataset("shapes", limit=1)[0].image)
        expected = predictor.backend.run(inputs)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, tmp_path / "found.npz"],
        env={**os.environ, "LD_PRELOAD": str(library), **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [flags, does_overflow]
    assert (expected["scores"] > 0.5).sum() > 2
    with np.load(tmp_path / "found.npz") as found:
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-3, err_msg=name)
