"""Times forms of corner pooling, a running maximum along an axis, in ONNX Runtime.

    python benchmarks/running_max.py --rounds 64

All forms take turns in one process on the same maps, and are compared with PyTorch's cumulative maximum:

    blocks     edgeseg's: doubling steps inside blocks of 8, then over the blocks
    doubling   doubling steps over the whole axis, of Slice, Max and Concat
    window     one MaxPool whose window is the whole axis
    scan       a Scan that carries the maximum, as a cumulative operator would

MaxPool nodes whose two places lie further and further apart are not among them: ONNX Runtime refuses to pad by more than
a window has places.
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
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from edgeseg.models.layers import running_max
from edgeseg.models.layers.running_max import DIRECTIONS
from edgeseg_bench.latency import Plan, measure_interleaved, paired_ratio, warm_up
from edgeseg_runtime.environment import read_environment
from roi_align import open_session

FORMS = ("blocks", "doubling", "window", "scan")
OPSET = 20


def main() -> None:
    """Measures, prints a table and writes it if asked to."""
    arguments = parse_arguments()
    records = [
        record for direction in arguments.directions for record in measure(direction, arguments)
    ]
    if arguments.out is not None:
        document = {
            "shape": list(shape_of(arguments)),
            "threads": arguments.threads,
            "load_average": os.getloadavg(),
            "environment": read_environment().__dict__,
            "forms": records,
        }
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directions", nargs="*", default=["top", "left"], choices=DIRECTIONS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def shape_of(arguments: argparse.Namespace) -> tuple[int, int, int, int]:
    """The shape of the maps."""
    return arguments.batch, arguments.channels, arguments.size, arguments.size


def measure(direction: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The times of all forms of one direction, and how far each is from PyTorch."""
    shape = shape_of(arguments)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axis, from_end = DIRECTIONS[direction]
    expected = (x.flip(axis) if from_end else x).cummax(axis).values
    expected = expected.flip(axis) if from_end else expected
    calls, differences = {}, {}
    for form in FORMS:
        session = open_session(build(form, direction, shape), arguments.threads)
        calls[form] = lambda _round, session=session: session.run(None, {"x": x.numpy()})
        differences[form] = float(np.abs(calls[form](0)[0] - expected.numpy()).max())
    plan = Plan(
        warmup_runs=4,
        warmup_seconds=0,
        max_warmup_seconds=20,
        min_queries=arguments.rounds,
        min_seconds=0,
        max_seconds=None,
    )
    for call in calls.values():
        warm_up(call, plan)
    latencies = measure_interleaved(calls, plan)
    records = []
    print(f"{direction} of {shape}, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'form':10}{'p50 ms':>9}  {'ratio to blocks (95 %)':26}max difference")
    for form, latency in latencies.items():
        ratio = paired_ratio(latency.samples_ns, latencies[FORMS[0]].samples_ns)
        interval = f"{ratio.median:.2f} ({ratio.interval_text(2)})"
        print(f"{form:10}{latency.p50_ms:9.2f}  {interval:26}{differences[form]:.1e}")
        records.append(
            {
                "direction": direction,
                "form": form,
                "p50_ms": round(latency.p50_ms, 3),
                "ratio_to_blocks": round(ratio.median, 3),
                "interval": [ratio.low, ratio.high],
                "max_difference": differences[form],
                "samples_ns": list(map(int, latency.samples_ns)),
            }
        )
    return records


class _Pool(nn.Module):
    """A form that PyTorch's exporter writes."""

    def __init__(self, form: str, direction: str) -> None:
        super().__init__()
        self.form = form
        self.axis, self.from_end = DIRECTIONS[direction]

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "blocks":
            return running_max.running_max(x, axis=self.axis, from_end=self.from_end)
        return running_max.doubling(x, self.axis, from_end=self.from_end)


def build(form: str, direction: str, shape: tuple[int, ...]) -> ModelProto:
    """The model of one form, from `x` to `y`."""
    if form in ("blocks", "doubling"):
        program = torch.onnx.export(
            _Pool(form, direction).eval(),
            (torch.zeros(shape),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["y"],
            verbose=False,
        )
        assert program is not None
        return program.model_proto
    axis, from_end = DIRECTIONS[direction]
    nodes = {"window": _window, "scan": _scan}[form](axis, shape[axis], from_end)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, form, [x], [y]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def _window(axis: int, size: int, from_end: bool) -> list[NodeProto]:
    """One MaxPool over the whole axis, padded on one side."""
    pads, kernel = [0, 0, 0, 0], [1, 1]
    pads[axis - 2 + (2 if from_end else 0)] = size - 1
    kernel[axis - 2] = size
    return [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=kernel, pads=pads)]


def _scan(axis: int, size: int, from_end: bool) -> list[NodeProto]:
    """A loop over the axis; its first state is the place that it begins with."""
    nodes = [
        helper.make_node("Constant", [], ["first"], value_ints=[size - 1 if from_end else 0]),
        helper.make_node("Gather", ["x", "first"], ["picked"], axis=axis),
        helper.make_node("Constant", [], ["axis"], value_ints=[axis]),
        helper.make_node("Squeeze", ["picked", "axis"], ["state"]),
    ]
    free = [None, None, None]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, free)
        for name in ("so_far", "place", "next", "given")
    }
    body = helper.make_graph(
        [
            helper.make_node("Max", ["so_far", "place"], ["next"]),
            helper.make_node("Identity", ["next"], ["given"]),
        ],
        "body",
        [values["so_far"], values["place"]],
        [values["next"], values["given"]],
    )
    direction = int(from_end)
    nodes.append(
        helper.make_node(
            "Scan",
            ["state", "x"],
            ["last", "y"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[axis],
            scan_output_axes=[axis],
            scan_input_directions=[direction],
            scan_output_directions=[direction],
        )
    )
    return nodes


if __name__ == "__main__":
    main()
