"""Finds how large the activations of a graph become on pictures, so that int8 and float16 can hold them.

The pictures go through the runtime's own preprocessing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseg_export.histograms import CLIPPING, NUM_BINS, Counts, count_magnitudes
from edgeseg_export.sessions import cpu_session
from edgeseg_runtime.image import Image
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.tasks import create_task

METHODS = ("minmax", *CLIPPING)
MAX_ELEMENTS = 100_000_000
"""Of the activations that are fetched in one run, to bound the memory: 400 MB."""


def calibrate(
    model: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Sequence[str],
    *,
    method: str = "minmax",
    unclipped: Collection[str] = (),
    on_step: Callable[[int, int], None] = lambda done, total: None,
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
        unclipped: those of ``values`` whose largest magnitude is wanted whatever the method is.
        on_step: called as on_step(done, total), for pictures and for histograms.

    Raises:
        ValueError: an unknown method, or no pictures.
    """
    if method not in METHODS:
        raise ValueError(f"calibration method {method!r} found, expected one of {METHODS}")
    if not len(pictures):
        raise ValueError("there is no picture to calibrate on; give at least one, better 100")
    clipped = [value for value in values if method != "minmax" and value not in unclipped]
    num_runs = 1 + len(groups_that_fit(model, clipped)) if clipped else 1
    total = num_runs * len(pictures) + len(clipped)
    steps = itertools.count(1)

    def on_any_step() -> None:
        on_step(next(steps), total)

    largest = _largest(model, manifest, pictures, values, on_any_step)
    if not clipped:
        return largest
    wanted = {value: largest[value] for value in clipped}
    return largest | _clipped(model, manifest, pictures, wanted, CLIPPING[method], on_any_step)


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
    on_step: Callable[[], None],
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
    for picture in pictures:
        inputs, _ = task.preprocess(picture)
        found = np.maximum(found, np.array(session.run(outputs, inputs), np.float64))
        on_step()
    return dict(zip(values, found.tolist(), strict=True))


def _clipped(
    model: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    largest: Mapping[str, float],
    bins_kept: Callable[[Counts], int],
    on_step: Callable[[], None],
) -> dict[str, float]:
    """Return where the histograms of values are cut.

    Args:
        model: a complete graph in float32.
        manifest: its manifest.
        pictures: to collect the histograms on.
        largest: value -> its largest magnitude on them.
        bins_kept: how many of the lowest bins of a histogram are kept, see `CLIPPING`.
        on_step: called for every picture of a group and for every value.
    """
    task = create_task(manifest)
    counts = {value: np.zeros(NUM_BINS, np.int64) for value in largest}
    for group in groups_that_fit(model, list(largest)):
        session = cpu_session(_with_outputs(model, group))
        for picture in pictures:
            inputs, _ = task.preprocess(picture)
            for value, array in zip(group, session.run(group, inputs), strict=True):
                counts[value] += count_magnitudes(array, largest[value])
            on_step()
    found: dict[str, float] = {}
    for value, counted in counts.items():
        found[value] = largest[value] * bins_kept(counted) / NUM_BINS
        on_step()
    return found


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in values
    )
    return watched
