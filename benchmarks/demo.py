"""Shows the way from a model to a benchmark report on built-in pictures, one command after the other.

    python benchmarks/demo.py --out out/demo

Needs no GPU, no download and no data set; takes a few minutes on two cores. What it runs are the
commands that a user would type.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco

MODEL = "maskrcnn_tiny"
TARGETS = "sm86,sm89,sm120"
NUM_PICTURES = 12
NUM_BENCH_PICTURES = 60


def main() -> int:
    """Run the demo; the exit code is that of the command that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of all results")
    parser.add_argument("--weights", default="shapes", help="of the model; see edgeseg export")
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        run_demo(arguments.out, arguments.weights)
    except subprocess.CalledProcessError as error:
        return error.returncode
    print_results(arguments.out, time.monotonic() - start)
    return 0


def run_demo(out: Path, weights: str) -> None:
    """Run all commands.

    Raises:
        subprocess.CalledProcessError: a command failed; it has said why.
    """
    bundle = str(out / "bundle")
    say(f"Draw {NUM_PICTURES} pictures of the built-in data set, in COCO's layout")
    pictures = write_coco(ShapesDataset("val", limit=NUM_PICTURES), out / "pictures") / "val"

    say("Export the PyTorch model, and prove that the ONNX graph computes the same")
    edgeseg(
        "export", MODEL, "--weights", weights, "--image-size", "256", "-o", bundle, "--overwrite"
    )

    if importlib.util.find_spec("tensorrt_rtx"):
        say("Compile a TensorRT engine for three generations of GPUs; this machine needs none")
        edgeseg("build", bundle, "--target", TARGETS, "-o", str(out / "engines"))
    else:
        say(
            "No TensorRT engine: tensorrt-rtx-cu13 is not installed (Linux and Windows, x86-64 only)"
        )

    say("Run the bundle on the pictures with ONNX Runtime")
    edgeseg(
        "run",
        bundle,
        str(pictures),
        "--backend",
        "onnxruntime",
        "-o",
        str(out / "annotated"),
        "--overwrite",
    )

    say("Compare accuracy and latency with PyTorch")
    edgeseg(
        "bench", bundle, "--data", "shapes", "--backends", "torch,onnxruntime",
        "--limit", str(NUM_BENCH_PICTURES), "--quick", "--threads", "1", "-o", str(out / "report"),
        "--overwrite",
    )  # fmt: skip


def say(text: str) -> None:
    """Announce a step."""
    print(f"\n# {text}", flush=True)


def edgeseg(*arguments: str) -> None:
    """Show a command and run it.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    print(f"$ edgeseg {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "edgeseg", *arguments], check=True)


def print_results(out: Path, seconds: float) -> None:
    """Say where everything lies."""
    print(f"\nDone in {seconds:.0f} s.")
    for name, place in (
        ("bundle", out / "bundle"),
        ("pictures", out / "annotated"),
        ("report", out / "report" / "report.md"),
        ("samples", out / "report" / "report.json"),
    ):
        print(f"  {name:9} {os.fspath(place)}")


if __name__ == "__main__":
    sys.exit(main())
