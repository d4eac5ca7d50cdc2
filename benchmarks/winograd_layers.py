"""Measures which convolutions are faster in Winograd's form, by engine, channels and tiles.

    python benchmarks/winograd_layers.py --engines onnxruntime --out benchmarks/results/winograd_layers.json --table

Writes the samples, and with --table what the runtime chooses by. Both forms of a layer run in turns, each followed by a ReLU, with one
thread; the time is the processor's, which other programs disturb little. What ONNX Runtime computes with one thread even if it has more
is timed alone, since it decides what more threads bring. The maps hold whole tiles only: a layer whose maps do not is estimated from
these, see `edgeseg_runtime/onnx/winograd_gains.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from edgeseg_bench.latency import Plan, measure_interleaved, paired_ratio
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.onnx import winograd_gains
from edgeseg_runtime.onnx.winograd import Layer, rewrite

CHANNELS = (32, 64, 128, 256, 512)
TILES = {2: (4, 16, 64, 256), 4: (4, 16, 64, 256, 1024, 4096)}
"""Side of a block -> numbers of blocks."""
SMALL_MAP = 4
"""Blocks along each side of the maps where there are many."""
MAX_PRODUCTS = 4e10
"""Of the plain convolution; larger layers are taken to be like the largest that is measured."""

Floats = npt.NDArray[np.float32]
Run = Callable[[], Any]


def main() -> None:
    """Measures, prints and records."""
    arguments = parse_arguments()
    console = Console()
    tables: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    engines = arguments.engines.split(",")
    for engine, tile, has_many_maps in itertools.product(engines, TILES, (False, True)):
        case = {"engine": engine, "tile": tile, "has_many_maps": has_many_maps}
        tables.append(measure_table(case, arguments.seconds, samples, console))
    if arguments.out is not None:
        record = {
            **{name: value for name, value in vars(arguments).items() if name != "out"},
            "load_average": os.getloadavg(),
            "environment": dataclasses.asdict(read_environment()),
            "layers": samples,
        }
        write_atomic(arguments.out, (json.dumps(record) + "\n").encode())
    if arguments.table:
        kept = json.loads(winograd_gains.FILE.read_text(encoding="utf-8"))["tables"]
        tables += [table for table in kept if table["engine"] not in engines]
        lines = [json.dumps(table, separators=(",", ":")) for table in tables]
        text = '{"tables":[\n' + ",\n".join(lines) + "\n]}\n"
        write_atomic(winograd_gains.FILE, text.encode())


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--seconds", type=float, default=1.0, help="at least, for each layer")
    parser.add_argument("--out", type=Path, help="JSON file of the samples")
    parser.add_argument("--table", action="store_true", help="write the engines' runtime tables")
    return parser.parse_args()


def measure_table(
    case: dict[str, Any], seconds: float, samples: list[dict[str, Any]], console: Console
) -> dict[str, Any]:
    """Return a table as the runtime reads it, and add the samples of its layers."""
    tile, engine = case["tile"], case["engine"]
    ratios: list[list[float | None]] = []
    shares: list[list[float | None]] = []
    for channels in CHANNELS:
        ratios.append([])
        shares.append([])
        for num_tiles in TILES[tile]:
            layer = layer_of(channels, num_tiles, tile, has_many_maps=case["has_many_maps"])
            if layer is None:
                ratios[-1].append(None)
                shares[-1].append(None)
                continue
            found = measure(layer, tile, engine, seconds)
            ratio = paired_ratio(found["winograd"], found["plain"])
            share = paired_ratio(found["serial"], found["plain"]) if "serial" in found else None
            ratios[-1].append(round(ratio.median, 3))
            shares[-1].append(0.0 if share is None else round(share.median, 3))
            samples.append({**case, **layer._asdict(), "samples_ns": found})
            console.print(f"{engine}, blocks of {tile}, {layer}: {ratio.text(3)}, {shares[-1][-1]}")
    sizes = {"channels": CHANNELS, "tiles": TILES[tile]}
    return {**case, **sizes, "ratios": ratios, "serial": shares}


def layer_of(channels: int, num_tiles: int, tile: int, *, has_many_maps: bool) -> Layer | None:
    """Return a layer with so many blocks; None if it is too large to measure, or there are too few blocks for it."""
    maps = num_tiles // SMALL_MAP**2 if has_many_maps else 1
    if has_many_maps and maps < 2:
        return None
    rows = SMALL_MAP if has_many_maps else 2 ** (round(math.log2(num_tiles)) // 2)
    columns = num_tiles // maps // rows
    layer = Layer(channels, channels, maps, rows * tile, columns * tile)
    products = 9 * channels**2 * num_tiles * tile**2
    return layer if products <= MAX_PRODUCTS else None


def measure(layer: Layer, tile: int, engine: str, seconds: float) -> dict[str, tuple[int, ...]]:
    """Return the processor's nanoseconds for both forms, which give the same, and for what is not shared by threads."""
    plain = graph_of(layer)
    rewritten, count = rewrite(plain, lambda _: tile)
    assert count == 1
    rng = np.random.default_rng(0)
    shape = (layer.maps, layer.channels, layer.height, layer.width)
    x = rng.standard_normal(shape).astype(np.float32)
    open_graph = OPENERS[engine]
    runs = {"plain": open_graph(plain, x), "winograd": open_graph(rewritten, x)}
    first, second = (np.array(run()) for run in runs.values())
    if np.abs(first - second).max() > 1e-3 * np.abs(first).max():
        raise SystemExit(f"{engine} gives another result for {layer}")
    calls: dict[str, Callable[[int], Any]] = {
        form: functools.partial(_call, run) for form, run in runs.items()
    }
    if engine in SERIAL:
        parts = [open_graph(*part) for part in serial_parts(rewritten, SERIAL[engine])]
        calls["serial"] = lambda _: [part() for part in parts]
    plan = Plan(min_queries=5, min_seconds=seconds, max_seconds=8 * seconds)
    latencies = measure_interleaved(calls, plan, clock=time.process_time_ns)
    return {form: latency.samples_ns for form, latency in latencies.items()}


def _call(run: Run, _number: int) -> Any:
    return run()


def serial_parts(content: bytes, operators: Collection[str]) -> Iterator[tuple[bytes, Floats]]:
    """Yield a graph of each node with such an operator, and what it is given."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), data_prop=True)
    values = {value.name: value for value in (*model.graph.value_info, *model.graph.input)}
    for node in model.graph.node:
        if node.op_type not in operators:
            continue
        sizes = [dim.dim_value for dim in values[node.input[0]].type.tensor_type.shape.dim]
        alone = helper.make_node(node.op_type, ["x"], ["y"])
        alone.attribute.extend(node.attribute)
        border = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
        end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(sizes))
        graph = helper.make_graph([alone], "part", [border], [end])
        yield encoded(graph), np.zeros(sizes, np.float32)


def graph_of(layer: Layer) -> bytes:
    """Return a graph of the convolution and a ReLU, with random weights, opset 17."""
    rng = np.random.default_rng(1)
    scale = 1 / math.sqrt(9 * layer.channels)
    constants = {
        "w": rng.standard_normal((layer.out, layer.channels, 3, 3)) * scale,
        "b": rng.standard_normal(layer.out),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    borders = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, [layer.maps, channels, layer.height, layer.width]
        )
        for name, channels in (("x", layer.channels), ("y", layer.out))
    ]
    weights = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "layer", borders[:1], borders[1:], weights)
    return encoded(graph)


def encoded(graph: onnx.GraphProto) -> bytes:
    """Return a graph as an encoded model."""
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def open_onnxruntime(content: bytes, x: Floats) -> Run:
    """Return what runs a graph in ONNX Runtime."""
    onnxruntime = import_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def open_openvino(content: bytes, x: Floats) -> Run:
    """Return what runs a graph in OpenVINO, in float32."""
    openvino = import_library("openvino")
    core = openvino.Core()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
    }
    request = core.compile_model(core.read_model(content), "CPU", config).create_infer_request()
    return lambda: request.infer({"x": x}, share_inputs=True, share_outputs=True)["y"]


OPENERS: dict[str, Callable[[bytes, Floats], Run]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
"""Engine -> what opens a graph in it."""
SERIAL = {"onnxruntime": frozenset({"DepthToSpace", "Transpose"})}
"""Engine -> operators of Winograd's form that it computes with one thread."""


if __name__ == "__main__":
    main()
