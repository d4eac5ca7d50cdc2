"""Measures ONNX Runtime's `run` beside runs with preallocated outputs (IOBinding), on the CPU.

    python benchmarks/io_binding.py --out benchmarks/results/io_binding.json

Both read the input where it lies. Time is processor time of one thread, which other programs disturb little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgeseg
from edgeseg_bench.latency import QUICK, measure_interleaved, paired_ratio, warm_up
from edgeseg_runtime import Manifest
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment

MODELS = ("maskrcnn_tiny", "yolact_tiny", "centernet_tiny")
RUN, BOUND = "run", "io_binding"


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="samples to write, as .json")
    arguments = parser.parse_args()
    records = [measure(name) for name in MODELS]
    if arguments.out is not None:
        document = {"environment": dataclasses.asdict(read_environment()), "models": records}
        write_atomic(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


def measure(name: str) -> dict[str, Any]:
    """Measures a model in turns, prints the ratio, and returns it with the samples."""
    with tempfile.TemporaryDirectory() as scratch:
        model = edgeseg.create_model(name, weights="shapes")
        folder = edgeseg.export_bundle(model, Path(scratch) / name, num_images=1, stages=False)
        calls, num_bytes = contenders(folder)
    for call in calls.values():
        warm_up(call, QUICK)
    found = measure_interleaved(calls, QUICK, clock=time.process_time_ns)
    ratio = paired_ratio(found[BOUND].samples_ns, found[RUN].samples_ns)
    print(f"{name}: outputs of {num_bytes / 1024:.0f} KiB, io_binding / run {ratio.text(3)}")
    samples = {way: latency.samples_ns for way, latency in found.items()}
    return {
        "model": name,
        "output_bytes": num_bytes,
        **dataclasses.asdict(ratio),
        "samples_ns": samples,
    }


def contenders(folder: Path) -> tuple[dict[str, Callable[[int], object]], int]:
    """Returns both ways to run a bundle's model on noise, and the size of its outputs in bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    inputs = {
        spec.name: rng.integers(0, 256, spec.shape).astype(spec.dtype)
        for spec in Manifest.load(folder).inputs
    }
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    calls: dict[str, Callable[[int], object]] = {
        RUN: lambda _: session.run(names, inputs),
        # The arrays belong to the closure: the binding holds bare addresses.
        BOUND: lambda _: (session.run_with_iobinding(binding), outputs),
    }
    return calls, sum(array.nbytes for array in outputs.values())


if __name__ == "__main__":
    main()
