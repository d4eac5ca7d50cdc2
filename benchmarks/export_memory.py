"""Measures how much memory an export needs beside the weights of the model that it exports.

    python benchmarks/export_memory.py --out benchmarks/results/export_memory.json
    python benchmarks/export_memory.py centernet_hourglass104 --image-size 256

Each model is exported in a fresh process, with random weights. Activations are what one run of the PyTorch model
with all of its stages adds at most; the export keeps stages too, since it compares them. What is left of the peak
above the libraries are copies of the weights: `copies` = (peak - libraries - activations) / weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgeseg_bench.memory import peak_rss_bytes
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment

MODELS = (
    "centernet_hourglass104",
    "hourglass_stack8",
    "maskrcnn_resnet50_fpn",
    "yolact_resnet101",
    "retinaface_resnet50",
    "landmarks_heatmap_hrnet_w18",
    "landmarks_regression_pfld",
)
"""Of each family, those with the most weights first."""
WARM_UP = "landmarks_regression_tiny"
"""Is exported first, so that all libraries are there."""
MB = 1e6


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--image-size", type=int, help="of square inputs; else each model's own")
    parser.add_argument(
        "--precision", default="fp32", help="calibrated on the pictures of the check"
    )
    parser.add_argument("--images", type=int, default=2, help="pictures of the check")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to write, as .json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(options.models[0], options)) + "\n")
        return
    records = []
    for name in options.models:
        records.append(in_fresh_process(name, options))
        sys.stdout.write(text_of(records[-1]) + "\n")
        sys.stdout.flush()
    if options.out is not None:
        document = {
            "environment": dataclasses.asdict(read_environment()),
            "models": records,
        }
        write_atomic(options.out, (json.dumps(document, indent=1) + "\n").encode())


def in_fresh_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what `measure` does."""
    command = [sys.executable, __file__, name, "--child", "--precision", options.precision]
    command += ["--images", str(options.images), "--threads", str(options.threads)]
    if options.image_size is not None:
        command += ["--image-size", str(options.image_size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Exports a model and returns the bytes of its weights, its activations and the peaks."""
    import torch

    import edgeseg

    torch.set_num_threads(options.threads)
    size = None if options.image_size is None else (options.image_size,) * 2
    export(edgeseg.create_model(WARM_UP), options)
    libraries = reset_peak()
    model = edgeseg.create_model(name, image_size=size)
    tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    before = reset_peak()
    run_once(model)
    activations = peak_rss_bytes() - before
    reset_peak()
    export(model, options)
    peak = peak_rss_bytes()
    return {
        "model": name,
        "image_size": list(model.config.image_size),
        "precision": options.precision,
        "weights_bytes": weights,
        "activations_bytes": activations,
        "libraries_bytes": libraries,
        "peak_bytes": peak,
        "copies": round((peak - libraries - activations) / weights, 2),
        "peak_over_weights": round(peak / weights, 2),
    }


def export(model: Any, options: argparse.Namespace) -> None:
    """Exports a model to a folder that is removed at once."""
    import edgeseg
    from edgeseg.models import model_manifest
    from edgeseg_bench.checks import check_pictures

    lowered = {}
    if options.precision != "fp32":
        pictures, _ = check_pictures(model_manifest(model), options.images)
        lowered = {"precision": options.precision, "calibration": pictures}
    with tempfile.TemporaryDirectory() as scratch:
        edgeseg.export_bundle(
            model, Path(scratch) / "out", num_images=options.images, allow_mismatch=True, **lowered
        )


def run_once(model: Any) -> None:
    """Runs the PyTorch model on one picture, graph by graph, and keeps all stages."""
    from edgeseg.models import model_manifest
    from edgeseg.models.torch_backend import TorchBackend
    from edgeseg_bench.checks import check_pictures
    from edgeseg_runtime.backends import CheckedBackend
    from edgeseg_runtime.session import run_frame
    from edgeseg_runtime.tasks import create_task

    manifest = model_manifest(model)
    (picture,), _ = check_pictures(manifest, 1)
    # The checked one skips a stage without rows.
    backend = CheckedBackend("torch", TorchBackend(model, manifest), manifest)
    inputs, _ = create_task(manifest).preprocess(picture)
    run_frame(manifest, backend, inputs, backend.open_state(), frame=0)


def reset_peak() -> int:
    """Forgets the highest resident memory so far and returns the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_rss_bytes()


def text_of(record: dict[str, Any]) -> str:
    """Returns one line for the terminal."""
    parts = (
        f"{key} {record[f'{key}_bytes'] / MB:.0f} MB"
        for key in ("weights", "activations", "libraries", "peak")
    )
    return f"{record['model']}: {', '.join(parts)}; {record['copies']} copies of the weights"


if __name__ == "__main__":
    main()
