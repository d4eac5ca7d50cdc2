"""Finds how large the activations of a graph become on pictures, so that int8 and float16 can hold them.

The pictures go through the runtime's own preprocessing.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseg_export.sessions import cpu_session
from edgeseg_runtime.image import Image
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.tasks import create_task

METHODS = ("minmax", "entropy", "percentile")
PERCENTILE = 99.99
NUM_BINS = 2048
NUM_LEVELS = 128  # of one sign
MAX_ELEMENTS = 100_000_000
"""Of the activations that are fetched in one run, to bound the memory: 400 MB."""


def calibrate(
    model: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Sequence[str],
    *,
    method: str = "minmax",
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Return the magnitude at which each value should be clipped.

    Args:
        model: a complete graph in float32; left as it is.
        manifest: its manifest.
        pictures: (H, W, 3) uint8 BGR, like those that the model will see.
        values: names of float32 values of the graph.
        method: "minmax" takes the largest magnitude; "entropy" the one that loses least information
            (Migacz, 8-bit inference with TensorRT, GTC 2017); "percentile" leaves out one element in
            ten thousand.
        on_picture: called as on_picture(done, total).

    Raises:
        ValueError: an unknown method, or no pictures.
    """
    if method not in METHODS:
        raise ValueError(f"calibration method {method!r} found, expected one of {METHODS}")
    if not len(pictures):
        raise ValueError("there is no picture to calibrate on; give at least one, better 100")
    if method == "minmax":
        return _largest(model, manifest, pictures, values, on_picture)
    return _thresholds(model, manifest, pictures, values, method, on_picture)


def groups_that_fit(model: onnx.ModelProto, values: Sequence[str]) -> list[list[str]]:
    """Return the values in groups that can be fetched in one run; see `MAX_ELEMENTS`."""
    sizes = {
        info.name: int(np.prod([dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]))
        for info in (*model.graph.value_info, *model.graph.output, *model.graph.input)
    }
    groups: list[list[str]] = [[]]
    room = MAX_ELEMENTS
    for value in values:
        size = sizes.get(value, MAX_ELEMENTS)
        if groups[-1] and size > room:
            groups.append([])
            room = MAX_ELEMENTS
        groups[-1].append(value)
        room -= size
    return groups


def _largest(
    model: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Sequence[str],
    on_picture: Callable[[int, int], None],
) -> dict[str, float]:
    """Return the largest magnitudes; the graph itself reduces its values, so nothing large is fetched."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    outputs = [f"{value}/largest" for value in values]
    for value, output in zip(values, outputs, strict=True):
        watched.graph.node.extend(
            (
                helper.make_node("Abs", [value], [f"{value}/magnitude"]),
                helper.make_node("ReduceMax", [f"{value}/magnitude"], [output], keepdims=0),
            )
        )
        watched.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    session = cpu_session(watched)
    task = create_task(manifest)
    found = np.zeros(len(values))
    for done, picture in enumerate(pictures, 1):
        inputs, _ = task.preprocess(picture)
        found = np.maximum(found, np.array(session.run(outputs, inputs), np.float64))
        on_picture(done, len(pictures))
    return dict(zip(values, found.tolist(), strict=True))


def _thresholds(
    model: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Sequence[str],
    method: str,
    on_picture: Callable[[int, int], None],
) -> dict[str, float]:
    """Return the magnitudes that ONNX Runtime's calibration finds in histograms."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=NUM_BINS,
        num_quantized_bins=NUM_LEVELS,
        percentile=PERCENTILE,
        scenario="same",
    )
    task = create_task(manifest)
    groups = groups_that_fit(model, values)
    total = len(groups) * len(pictures)
    done = 0
    for group in groups:
        session = cpu_session(_with_outputs(model, group))
        for picture in pictures:
            inputs, _ = task.preprocess(picture)
            for value, array in zip(group, session.run(group, inputs), strict=True):
                with _silence():
                    collector.collect({value: [array]})
            done += 1
            on_picture(done, total)
    with _silence():
        ranges: dict[str, Any] = collector.compute_collection_result()
    return {value: float(max(abs(float(end)) for end in ranges[value][:2])) for value in values}


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in values
    )
    return watched


def _silence() -> contextlib.AbstractContextManager[Any]:
    """Keep what ONNX Runtime's calibration prints from the user."""
    return contextlib.redirect_stdout(io.StringIO())
