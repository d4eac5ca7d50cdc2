"""Measures how much of each model's time in ONNX Runtime is convolution or matrix product.

    python benchmarks/product_share.py --out benchmarks/results/product_share.json

Every variant is exported at its official size with the weights of the recorded cases in tests/golden, which were
scaled so that pictures have many results; no download is needed. GridSample counts where it is the
sampling half of deformable convolutions.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import edgeseg
import edgeseg_runtime
from edgeseg.models import MODELS, get_spec
from edgeseg.models.reference import ReferenceModel
from edgeseg_bench.nodes import PRODUCTS, operator_times, product_share, profile_nodes
from edgeseg_runtime.environment import read_environment

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
CASES: dict[str, tuple[str, ...]] = {
    "centernet": ("centernet_points/dev_multi_pose",),
    "cornernet": ("cornernet/dev",),
    "densepose": ("densepose/dev",),
    "hourglass": ("hourglass/dev",),
    "landmarks": ("landmarks/dev_hrnet_wflw",),
    "retinaface": ("retinaface/dev",),
    "upsnet": ("upsnet/dev",),
    "yolact": ("yolact/dev_plus",),
}
"""Family -> recorded cases whose scaling of random weights is used."""
CASES_OF_MODELS: dict[str, tuple[str, ...]] = {
    "centernet_triplet_hourglass104": ("centernet_triplet/dev",),
    "centernet_triplet_hourglass52": ("centernet_triplet/dev",),
    "cornernet_squeeze": ("cornernet/dev_squeeze",),
    **{
        f"densepose_resnet50_fpn_{name}": ("densepose/dev_wc2m",)
        for name in ("wc1", "wc2", "wc1m", "wc2m")
    },
    "densepose_resnet101_fpn_legacy": ("densepose/dev_legacy",),
    "densepose_resnet50_fpn_legacy": ("densepose/dev_legacy",),
}
"""The same of variants that need another case than their family's."""
SEED = 11
RECORDED = ("cornernet", "densepose")
"""Families whose scaling fits no other weights than those of the case: its seed and prefix of names count."""
SAMPLING = frozenset({"GridSample"})
GOAL = 0.85


def main() -> None:
    """Measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    table = Table("model", "size", "ms", "products", "others", title="Share of the products")
    records: list[dict[str, Any]] = []
    for name in arguments.models:
        with console.status(name):
            record = measure(name, threads=arguments.threads, runs=arguments.runs)
        records.append(record)
        rest = {op: ms for op, ms in record["operator_ms"].items() if op not in record["counted"]}
        others = ", ".join(f"{op} {ms:.1f}" for op, ms in list(rest.items())[:5])
        share = f"{record['product_share']:.1%}" + ("" if record["product_share"] >= GOAL else " !")
        table.add_row(name, record["size"], f"{record['total_ms']:.0f}", share, others)
    console.print(table)
    if arguments.out is not None:
        document = {
            "threads": arguments.threads,
            "runs": arguments.runs,
            "load_average": os.getloadavg(),
            "environment": dataclasses.asdict(read_environment()),
            "models": records,
        }
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    official = [
        name for name in sorted(MODELS) if get_spec(name).family in CASES and "tiny" not in name
    ]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=official, help="all official variants if none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="profiled runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def measure(name: str, *, threads: int, runs: int) -> dict[str, Any]:
    """The times of one model's operators at its official size."""
    model = make_model(name)
    height, width = model.config.image_size
    picture = load_fill().sample_image(7, height, width)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        edgeseg.export_bundle(model, folder, images=[picture], allow_mismatch=True, variants=False)
        with edgeseg_runtime.load(folder, backend="onnxruntime", threads=threads) as predictor:
            inputs, _ = predictor.task.preprocess(picture)
            num_results = len(predictor(picture))
        times = profile_nodes(folder, inputs, threads=threads, runs=runs)
    further = SAMPLING if has_deformable(model) else frozenset()
    totals = operator_times(times)
    return {
        "model": name,
        "size": f"{height}x{width}",
        "num_results": num_results,
        "product_share": product_share(times, further=further),
        "counted": sorted(op for op in totals if op in PRODUCTS | further),
        "total_ms": sum(totals.values()),
        "operator_ms": totals,
    }


def make_model(name: str, *, image_size: tuple[int, int] | None = None) -> ReferenceModel:
    """The model with deterministic weights that behave like trained ones: many results, sure scores."""
    model = edgeseg.create_model(name, image_size=image_size)
    table = importlib.import_module(MODELS[name]).key_table(name)
    cases = [
        json.loads((GOLDEN / case / "case.json").read_text(encoding="utf-8"))
        for case in CASES_OF_MODELS.get(name, CASES[get_spec(name).family])
    ]
    gains = [gain for case in cases for gain in case["gains"]]
    is_recorded = get_spec(name).family in RECORDED
    seed = cases[0]["seed"] if is_recorded else SEED
    checkpoint = cases[0]["checkpoint"] if is_recorded else {}
    prefix = checkpoint.get("prefix") or "" if checkpoint.get("state_json_has_prefix") else ""
    fill = load_fill().fill
    state = {}
    for key, tensor in model.state_dict().items():
        original = prefix + (table.original_from_ours(key) or key)
        dtype = str(tensor.dtype).removeprefix("torch.")
        values = fill(original, tuple(tensor.shape), dtype, seed=seed, gains=gains)
        state[key] = torch.from_numpy(np.asarray(values))
    model.load_state_dict(state)
    return model


def has_deformable(model: ReferenceModel) -> bool:
    """Whether any of the model's convolutions is deformable."""
    return any("deform" in type(module).__name__.lower() for module in model.modules())


def load_fill() -> ModuleType:
    """The module that makes weights and pictures from names, shapes and seeds."""
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
