"""Exports the official models at their official sizes and compiles them with TensorRT-RTX, which needs no GPU.

    python benchmarks/compile_models.py --out benchmarks/results/compiled_models.json

Each precision is a bundle of its own. It runs once in ONNX Runtime, and an engine is compiled for each target. What does
not compile is recorded with the reason. The weights are those of `product_share.py`, and random where it has none; int8
ranges are found on the two pictures that are run. A file that is there is added to: a model and precision that it holds is
left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

import edgeseg
import edgeseg_runtime
from edgeseg.models import MODELS, get_spec
from edgeseg.models.reference import ReferenceModel
from edgeseg_export.lower import CALIBRATED
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.tensorrt.engines import build_bundle
from product_share import CASES, load_fill, make_model

Picture = npt.NDArray[np.uint8]


def main() -> None:
    """Exports, compiles, prints and records, one model after another."""
    arguments = parse_arguments()
    console = Console()
    records = read_records(arguments.out)
    done = {(record["model"], record["precision"]) for record in records}
    for name in arguments.models:
        wanted = [p for p in arguments.precisions.split(",") if (name, p) not in done]
        if not wanted:
            continue
        model = make_model(name) if get_spec(name).family in CASES else edgeseg.create_model(name)
        for precision in wanted:
            record = compile_model(model, precision, arguments.targets.split(","))
            records.append(record)
            console.print(line_of(record), highlight=False)
            write_records(arguments.out, records)
        del model
        gc.collect()


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    official = [name for name in sorted(MODELS) if not name.endswith("_tiny")]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=official, help="all official ones if none")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--targets", default="sm75,sm86")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write or add to")
    return parser.parse_args()


def compile_model(model: ReferenceModel, precision: str, targets: list[str]) -> dict[str, Any]:
    """Return what came of one model in one precision."""
    height, width = model.config.image_size
    pictures = frames_of(load_fill().sample_image(7, height + 32, width + 32), height, width)
    record: dict[str, Any] = {
        "model": model.name,
        "size": f"{height}x{width}",
        "precision": precision,
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = edgeseg.export_bundle(
            model,
            Path(scratch) / "bundle",
            precision=precision,
            calibration=pictures if precision in CALIBRATED else None,
            images=pictures,
            allow_mismatch=True,  # random weights: what is asked is whether it runs and compiles
        )
        manifest = Manifest.load(folder)
        lowered = manifest.parity.get("precision", {})
        record |= {
            "onnx_bytes": sum(file.size_bytes for file in manifest.artifacts.values()),
            "is_within_tolerance": manifest.parity["is_within_tolerance"],
            "num_nodes": lowered.get("num_nodes", {}),
            "num_results": num_results(folder, pictures),
        }
        record["engines"] = [engine_of(folder, target, Path(scratch)) for target in targets]
    return record


def frames_of(whole: Picture, height: int, width: int) -> list[Picture]:
    """Return two windows of a picture, as a camera sees it that moves: a video model runs all its graphs."""
    return [
        np.ascontiguousarray(whole[shift : shift + height, shift : shift + width])
        for shift in (0, 16)
    ]


def num_results(folder: Path, pictures: list[Picture]) -> int:
    """Return how many results the bundle finds in the last of the pictures in ONNX Runtime."""
    with (
        edgeseg_runtime.load(folder, backend="onnxruntime") as predictor,
        predictor.session() as session,
    ):
        return [len(session(picture)) for picture in pictures][-1]


def engine_of(folder: Path, target: str, scratch: Path) -> dict[str, Any]:
    """Return size and build time of the engines of all graphs, or why nothing was built."""
    started = time.monotonic()
    try:
        engines = build_bundle(
            folder, flavour="tensorrt_rtx", targets=[target], out=scratch / target
        )
    except EdgesegError as error:
        return {"target": target, "error": str(error)}
    seconds = round(time.monotonic() - started, 1)
    return {
        "target": target,
        "bytes": sum(engine.size_bytes for engine in engines),
        "build_s": seconds,
    }


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line of text."""
    engines = ", ".join(
        f"{engine['target']} {engine.get('error') or str(engine['bytes']) + ' bytes'}"
        for engine in record["engines"]
    )
    return f"{record['model']} {record['size']} {record['precision']}: {engines}"


def read_records(file: Path) -> list[dict[str, Any]]:
    """Return what a file of records holds; nothing if it is not there."""
    if not file.exists():
        return []
    return list(json.loads(file.read_text(encoding="utf-8"))["models"])


def write_records(file: Path, records: list[dict[str, Any]]) -> None:
    """Write all records, in the order of models and precisions."""
    ordered = sorted(records, key=lambda record: (record["model"], record["precision"]))
    document = {"environment": dataclasses.asdict(read_environment()), "models": ordered}
    write_atomic(file, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
