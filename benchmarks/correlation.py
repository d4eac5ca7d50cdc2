"""Times forms of the correlation of two maps in ONNX Runtime.

    python benchmarks/correlation.py --rounds 20 --out benchmarks/results/correlation.json

All forms take turns in one process on the same maps, and are compared with PyTorch:

    tiles N   edgeseg's: for each row of shifts one product of matrices, of tiles of N cells with all cells that they may meet
    shifts    a Slice, Mul and ReduceMean for each shift, and a Concat of all of them
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import FunctionProto, ModelProto, TensorProto, helper

from edgeseg.ops import correlation
from edgeseg_bench.latency import Plan, measure_interleaved, paired_ratio, warm_up
from edgeseg_export.functions.body import OPSET, Body
from edgeseg_export.functions.correlation import TILE, correlation_function
from edgeseg_runtime.environment import read_environment
from roi_align import open_session

TILES = (16, 32, 64)
CASES = {  # height, width and channels of the maps at a fourth of the official sides, radius, step
    "flownet2": ((32, 64), 256, 10, 2),
    "fuse neck": ((64, 128), 256, 4, 1),
}


def main() -> None:
    """Measures, prints a table and writes it if asked to."""
    arguments = parse_arguments()
    records = [
        record
        for name, case in CASES.items()
        for record in measure(name, *case, rounds=arguments.rounds, threads=arguments.threads)
    ]
    if arguments.out is not None:
        document = {
            "threads": arguments.threads,
            "load_average": os.getloadavg(),
            "environment": read_environment().__dict__,
            "forms": records,
        }
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def measure(
    case: str,
    size: tuple[int, int],
    channels: int,
    radius: int,
    step: int,
    *,
    rounds: int,
    threads: int,
) -> list[dict[str, Any]]:
    """The times of all forms of one case, and how far each is from PyTorch."""
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, channels, *size, generator=rng) for _ in range(2)]
    feed = {name: value.numpy() for name, value in zip(("first", "second"), maps, strict=True)}
    expected = correlation(*maps, radius=radius, step=step).numpy()
    functions = {
        f"tiles {tile}": correlation_function(
            "form", size, channels, radius=radius, step=step, tile=tile
        )
        for tile in TILES
    }
    functions["shifts"] = shifts_function(size, radius=radius, step=step)
    calls, differences = {}, {}
    for form, function in functions.items():
        session = open_session(model_of(function, channels, size), threads)
        calls[form] = lambda _round, session=session: session.run(None, feed)
        differences[form] = float(np.abs(calls[form](0)[0] - expected).max())
    plan = Plan(
        warmup_runs=2,
        warmup_seconds=0,
        max_warmup_seconds=20,
        min_queries=rounds,
        min_seconds=0,
        max_seconds=None,
    )
    for call in calls.values():
        warm_up(call, plan)
    latencies = measure_interleaved(calls, plan)
    records = []
    ours = f"tiles {TILE}"
    print(
        f"{case}: {channels}x{size[0]}x{size[1]}, radius {radius}, step {step}, {threads} threads"
    )
    print(f"{'form':12}{'nodes':>6}{'p50 ms':>9}  {f'ratio to {ours} (95 %)':28}max difference")
    for form, latency in latencies.items():
        ratio = paired_ratio(latency.samples_ns, latencies[ours].samples_ns)
        interval = f"{ratio.median:.2f} ({ratio.interval_text(2)})"
        num_nodes = len(functions[form].node)
        print(f"{form:12}{num_nodes:6}{latency.p50_ms:9.1f}  {interval:28}{differences[form]:.1e}")
        records.append(
            {
                "case": case,
                "form": form,
                "shape": [channels, *size],
                "radius": radius,
                "step": step,
                "num_nodes": num_nodes,
                "p50_ms": round(latency.p50_ms, 3),
                "ratio": round(ratio.median, 3),
                "interval": [ratio.low, ratio.high],
                "max_difference": differences[form],
                "samples_ns": list(map(int, latency.samples_ns)),
            }
        )
    return records


def model_of(function: FunctionProto, channels: int, size: tuple[int, int]) -> ModelProto:
    """The model of one form, from `first` and `second` to `likeness`."""
    first, second = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *size])
        for name in ("first", "second")
    )
    likeness = helper.make_tensor_value_info("likeness", TensorProto.FLOAT, ["B", "D", "H", "W"])
    node = helper.make_node(function.name, ["first", "second"], ["likeness"], domain="edgeseg")
    model = helper.make_model(
        helper.make_graph([node], "form", [first, second], [likeness]),
        functions=[function],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("edgeseg", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def shifts_function(size: tuple[int, int], *, radius: int, step: int) -> FunctionProto:
    """The form with three nodes for each shift."""
    body = Body()
    reach = radius * step
    padded = body.op("Pad", "second", body.ints(0, 0, reach, reach, 0, 0, reach, reach))
    found = []
    for top in range(0, 2 * reach + 1, step):
        rows = body.slice(padded, top, top + size[0], axis=2)
        for left in range(0, 2 * reach + 1, step):
            shifted = body.slice(rows, left, left + size[1], axis=3)
            product = body.op("Mul", "first", shifted)
            found.append(body.op("ReduceMean", product, body.ints(1), keepdims=1))
    body.output("likeness", body.op("Concat", *found, axis=1))
    return helper.make_function(
        "edgeseg",
        "form",
        ["first", "second"],
        ["likeness"],
        body.nodes,
        [helper.make_opsetid("", OPSET)],
    )


if __name__ == "__main__":
    main()
