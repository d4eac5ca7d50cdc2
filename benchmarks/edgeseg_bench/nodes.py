"""Where ONNX Runtime spends the time of a graph: node by node, and how much of it is products."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends.ort import OrtBackend
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.session import run_frame

NodeTimes: TypeAlias = dict[tuple[str, str], float]
"""(operator type, node) -> milliseconds a run."""

PRODUCTS = frozenset(
    {
        "Conv", "FusedConv", "ConvTranspose", "QLinearConv", "Gemm", "FusedGemm", "MatMul",
        "FusedMatMul",
    }
)  # fmt: skip
"""Operators that are convolutions or matrix products, as ONNX Runtime calls them."""


def profile_nodes(
    folder: Path, inputs: Mapping[str, npt.NDArray[Any]], *, threads: int, runs: int
) -> NodeTimes:
    """Return the time of every node of a bundle's graphs, the median over the runs.

    Args:
        folder: a bundle.
        inputs: from its task's preprocessing.
        threads: of ONNX Runtime.
        runs: how many to profile, after one that allocates.
    """
    manifest = Manifest.load(folder).views[0]
    with tempfile.TemporaryDirectory() as scratch:
        backend = OrtBackend(
            folder, manifest, threads=threads, profile=Path(scratch) / "onnxruntime"
        )
        state = backend.open_state()
        for _ in range(runs + 1):
            run_frame(manifest, backend, dict(inputs), state)
        files = backend.end_profiling()
        events = {name: json.loads(file.read_text("utf-8")) for name, file in files.items()}
        backend.close()
    if len(events) == 1:
        return node_times(*events.values())
    return {
        (op_type, f"{graph}/{node}"): time_ms
        for graph, found in events.items()
        for (op_type, node), time_ms in node_times(found).items()
    }


def node_times(events: list[dict[str, Any]]) -> NodeTimes:
    """Return the own time of every node of a profile: without that of the nodes in its body (Loop).

    ONNX Runtime runs node after node, so a node within another's interval belongs to its body. Nodes that did
    not run in every run count 0 there; the first run is left out.
    """
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")[1:]
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    kernels.sort(key=lambda event: (event["ts"], -event["dur"]))
    samples: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(runs))
    open_nodes: list[tuple[tuple[str, str], float]] = []
    for event in kernels:
        run = int(np.searchsorted(runs, event["ts"], side="right")) - 1
        if run < 0:
            continue
        while open_nodes and event["ts"] >= open_nodes[-1][1]:
            open_nodes.pop()
        key = (event["args"]["op_name"], event["name"].removesuffix("_kernel_time"))
        samples[key][run] += event["dur"] / 1e3
        if open_nodes:
            samples[open_nodes[-1][0]][run] -= event["dur"] / 1e3
        open_nodes.append((key, event["ts"] + event["dur"]))
    return {key: statistics.median(values) for key, values in samples.items()}


def operator_times(times: NodeTimes) -> dict[str, float]:
    """Return the milliseconds of each operator type, longest first."""
    totals: dict[str, float] = defaultdict(float)
    for (op_type, _), time_ms in times.items():
        totals[op_type] += time_ms
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def product_share(times: NodeTimes, *, further: frozenset[str] = frozenset()) -> float:
    """Return the share of the convolutions and matrix products in the time of all nodes.

    Args:
        times: from `node_times`.
        further: operators to count among them.
    """
    totals = operator_times(times)
    counted = sum(totals.get(op_type, 0.0) for op_type in PRODUCTS | further)
    return counted / sum(totals.values())
