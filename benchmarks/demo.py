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

import cv2
import numpy as np

from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco

MODEL = "maskrcnn_tiny"
TARGETS = "sm86,sm89,sm120"
NUM_PICTURES = 12
NUM_BENCH_PICTURES = 60
TILE = 240  # pixels a side, with the gap to the next one
GAP = 6
TILES = (2, 4)  # rows, columns


def main() -> int:
    """Run the demo; the exit code is that of the command that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of all results")
    parser.add_argument("--weights", default="shapes", help="of the model; see edgeseg export")
    parser.add_argument("--picture", type=Path, help="also write a sheet of the results, as PNG")
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        run_demo(arguments.out, arguments.weights)
    except subprocess.CalledProcessError as error:
        return error.returncode
    if arguments.picture is not None:
        write_sheet(sorted((arguments.out / "annotated").glob("*.jpg")), arguments.picture)
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


def write_sheet(pictures: list[Path], path: Path) -> None:
    """Write the first pictures as the tiles of one PNG with 256 colours."""
    from PIL import Image

    rows, columns = TILES
    sheet = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    for number, picture in enumerate(pictures[: rows * columns]):
        image = cv2.imread(str(picture))
        assert image is not None, picture
        scale = (TILE - GAP) / max(image.shape[:2])
        tile = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top, left = (number // columns) * TILE, (number % columns) * TILE
        top += (TILE - tile.shape[0]) // 2
        left += (TILE - tile.shape[1]) // 2
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = Image.fromarray(cv2.cvtColor(sheet, cv2.COLOR_BGR2RGB)).quantize(
        256, dither=Image.Dither.NONE
    )
    colours.save(path, optimize=True)


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
