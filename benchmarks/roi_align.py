"""Times forms of pyramid RoI-Align in ONNX Runtime: edgeseg's GridSample, and RoiAlign in its two usual uses.

    python benchmarks/roi_align.py --rounds 64

All forms pool the same boxes from the same maps, take turns in one process, and are compared with edgeseg's PyTorch
operator. "any number" is the same GridSample in a graph that does not know how many boxes there are. "every level" runs RoiAlign for all boxes on every level and selects, which keeps shapes static;
"own level" gathers each level's boxes first, which does not.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgeseg.ops import pyramid_levels, pyramid_roi_align
from edgeseg.ops.pyramid_atlas import atlas_layout
from edgeseg_bench.latency import Plan, measure_interleaved, paired_ratio, warm_up
from edgeseg_export.functions import add_functions
from edgeseg_runtime.libraries import import_library

STRIDES = (4, 8, 16, 32)
FORMS = ("GridSample", "GridSample, any number", "RoiAlign, every level", "RoiAlign, own level")


def main() -> None:
    """Measures and prints a table."""
    arguments = parse_arguments()
    maps, rois, levels = make_inputs(arguments)
    feeds = {
        **{f"map_{index}": value.numpy() for index, value in enumerate(maps)},
        "rois": rois.numpy(),
        "levels": levels.numpy()[0],
    }
    aligned = arguments.sampling_ratio == 0  # detectron2's setting; the other is torchvision's
    reference = pyramid_roi_align(
        maps,
        rois,
        strides=STRIDES,
        output_size=arguments.output_size,
        sampling_ratio=arguments.sampling_ratio,
        aligned=aligned,
    ).numpy()

    sessions = {
        name: open_session(build(name, arguments, aligned), arguments.threads) for name in FORMS
    }
    calls = {}
    differences = {}
    for name, session in sessions.items():
        used = {value.name: feeds[value.name] for value in session.get_inputs()}
        calls[name] = lambda _round, session=session, used=used: session.run(None, used)
        differences[name] = float(
            np.abs(calls[name](0)[0].reshape(reference.shape) - reference).max()
        )

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

    print(describe(arguments))
    print(f"{'form':24}{'p50 ms':>9}{'min ms':>9}  {'ratio to GridSample (95 %)':30}max difference")
    for name, latency in latencies.items():
        ratio = paired_ratio(latency.samples_ns, latencies[FORMS[0]].samples_ns)
        interval = f"{ratio.median:.2f} ({ratio.interval_text(2)})"
        print(
            f"{name:24}{latency.p50_ms:9.1f}{latency.min_ms:9.1f}  {interval:30}{differences[name]:.1e}"
        )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rois", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--output-size", type=int, default=7)
    parser.add_argument("--sampling-ratio", type=int, default=2, help="0 = adaptive, aligned")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1344)
    parser.add_argument("--rounds", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def describe(arguments: argparse.Namespace) -> str:
    """The settings and versions that a figure needs to be of use."""
    import onnxruntime

    return (
        f"{arguments.rois} boxes, {arguments.channels} channels, {len(STRIDES)} levels of "
        f"{arguments.height}x{arguments.width}, {arguments.output_size}x{arguments.output_size} bins, "
        f"sampling ratio {arguments.sampling_ratio}; onnxruntime {onnxruntime.__version__}, "
        f"{arguments.threads} threads, {arguments.rounds} rounds"
    )


def make_inputs(
    arguments: argparse.Namespace,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Maps [1,C,Hl,Wl], boxes [1,R,4] of 20 to 500 pixels a side inside the picture, their levels [1,R]."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(
            1,
            arguments.channels,
            -(-arguments.height // stride),
            -(-arguments.width // stride),
            generator=generator,
        )
        for stride in STRIDES
    ]
    corner = torch.tensor([arguments.width, arguments.height]).float()
    centre = torch.rand(1, arguments.rois, 2, generator=generator) * corner
    half = torch.exp(torch.rand(1, arguments.rois, 2, generator=generator) * 3.2 + 3) / 2
    low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, corner)
    rois = torch.cat([low, high], 2)
    return maps, rois, pyramid_levels(rois, strides=STRIDES)


def build(form: str, arguments: argparse.Namespace, aligned: bool) -> ModelProto:
    """The model of one form, from maps, boxes (and levels) to `pooled`."""
    names = [f"map_{index}" for index in range(len(STRIDES))]
    size = arguments.output_size
    sizes = [(-(-arguments.height // stride), -(-arguments.width // stride)) for stride in STRIDES]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, arguments.channels, *map_size])
        for name, map_size in zip(names, sizes, strict=True)
    ]
    num_rois = "rows" if form == FORMS[1] else arguments.rois
    inputs.append(helper.make_tensor_value_info("rois", TensorProto.FLOAT, [1, num_rois, 4]))
    if form in FORMS[:2]:
        nodes = [
            helper.make_node("PyramidAtlas", names, ["atlas"], domain="edgeseg"),
            helper.make_node(
                "AtlasRoiAlign",
                ["atlas", "rois"],
                ["pooled"],
                domain="edgeseg",
                level_sizes=[side for map_size in sizes for side in map_size],
                strides=STRIDES,
                output_size=[size, size],
                sampling_ratio=arguments.sampling_ratio,
                aligned=int(aligned),
                level_rule="torchvision",
                canonical_scale=224.0,
                canonical_level=4,
            ),
        ]
        layout = atlas_layout(sizes)
        shape = [1, arguments.channels, layout.height, layout.width]
        atlas = helper.make_tensor_value_info("atlas", TensorProto.FLOAT, shape)
        return add_functions(make_model(nodes, inputs, {}, [atlas]))
    inputs.append(helper.make_tensor_value_info("levels", TensorProto.INT64, [arguments.rois]))
    constants: dict[str, npt.NDArray[Any]] = {
        "first_axis": np.array([0]),
        "last_axis": np.array([1]),
        "per_box": np.array([arguments.rois, 1, 1, 1]),
        "zeros": np.zeros(arguments.rois, np.int64),
        "nothing": np.zeros((arguments.rois, arguments.channels, size, size), np.float32),
        **{f"level_{index}": np.array(index) for index in range(len(STRIDES))},
    }
    nodes = [helper.make_node("Squeeze", ["rois", "first_axis"], ["boxes"])]
    gathers = form == FORMS[3]
    pooled = "nothing"
    for index, stride in enumerate(STRIDES):
        nodes.append(helper.make_node("Equal", ["levels", f"level_{index}"], [f"is_{index}"]))
        boxes, batch = "boxes", "zeros"
        if gathers:
            nodes += [
                helper.make_node("NonZero", [f"is_{index}"], [f"rows_{index}"]),
                helper.make_node("Squeeze", [f"rows_{index}", "first_axis"], [f"row_{index}"]),
                helper.make_node("Gather", ["boxes", f"row_{index}"], [f"boxes_{index}"]),
                helper.make_node("Gather", ["zeros", f"row_{index}"], [f"batch_{index}"]),
                helper.make_node("Unsqueeze", [f"row_{index}", "last_axis"], [f"place_{index}"]),
            ]
            boxes, batch = f"boxes_{index}", f"batch_{index}"
        else:
            nodes.append(
                helper.make_node("Reshape", [f"is_{index}", "per_box"], [f"place_{index}"])
            )
        nodes.append(
            helper.make_node(
                "RoiAlign",
                [names[index], boxes, batch],
                [f"pooled_{index}"],
                output_height=size,
                output_width=size,
                sampling_ratio=arguments.sampling_ratio,
                spatial_scale=1 / stride,
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            )
        )
        result = "pooled" if index == len(STRIDES) - 1 else f"so_far_{index}"
        if gathers:
            merge = ("ScatterND", [pooled, f"place_{index}", f"pooled_{index}"])
        else:
            merge = ("Where", [f"place_{index}", f"pooled_{index}", pooled])
        nodes.append(helper.make_node(*merge, [result]))
        pooled = result
    return make_model(nodes, inputs, constants)


def make_model(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    constants: dict[str, npt.NDArray[Any]],
    values: Sequence[ValueInfoProto] = (),
) -> ModelProto:
    """A model with one output, `pooled`."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "roi_align",
            inputs,
            [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
            value_info=values,
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)],
        ir_version=10,
    )


def open_session(model: ModelProto, threads: int) -> Any:
    """A session on the CPU."""
    onnxruntime = import_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


if __name__ == "__main__":
    main()
