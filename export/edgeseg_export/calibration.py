"""Finds how large the activations of graphs become on pictures, so that int8 and float16 can hold them.

The pictures go through the runtime's own preprocessing.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from edgeseg_export.feeds import feeds_of
from edgeseg_export.histograms import CLIPPING, NUM_BINS, Counts, count_magnitudes
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.sessions import Graphs, cpu_session
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image

_log = logging.getLogger(__name__)

METHODS = ("minmax", *CLIPPING)
Magnitudes = Mapping[str, Mapping[str, float]]
"""Of each graph, value -> magnitude at which it is clipped."""
FEW_PICTURES = 16
MAX_ELEMENTS = 100_000_000
"""Of the activations that are fetched in one run, to bound the memory: 400 MB."""


def calibrate(
    graphs: Graphs,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Mapping[str, Sequence[str]],
    *,
    method: str = "minmax",
    unclipped: Mapping[str, Collection[str]] | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Magnitudes:
    """Return the magnitude at which each value should be clipped.

    Args:
        graphs: complete, in float32; left as they are.
        manifest: of the model.
        pictures: (H, W, 3) uint8 BGR, like those that the model will see; a video model takes them
            as one clip.
        values: names of float32 values of each graph.
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
    kept_whole = unclipped or {}
    clipped = {
        graph: [value for value in names if value not in kept_whole.get(graph, ())]
        for graph, names in values.items()
        if method != "minmax"
    }
    rounds = list(_rounds(graphs, clipped))
    total = (1 + len(rounds)) * len(pictures) + sum(map(len, clipped.values()))
    steps = itertools.count(1)

    def on_any_step() -> None:
        on_step(next(steps), total)

    largest = _largest(graphs, manifest, pictures, values, on_any_step)
    if not rounds:
        return largest
    found = _clipped(graphs, manifest, pictures, largest, rounds, CLIPPING[method], on_any_step)
    return {graph: largest[graph] | found.get(graph, {}) for graph in largest}


def warn_of_pictures(pictures: Sequence[Image]) -> None:
    """Log a warning if pictures are too few, or too empty, to tell how large values become."""
    num_plain = sum(bool((picture == picture[:1, :1]).all()) for picture in pictures)
    if num_plain:
        _log.warning(
            "%d of the %d pictures to calibrate on show a single colour, from which nothing is learnt "
            "about the values inside the model; give pictures of the application",
            num_plain,
            len(pictures),
        )
    if len(pictures) < FEW_PICTURES:
        _log.warning(
            "%d pictures to calibrate on are too few to rely on: larger values than theirs are cut "
            "off; give at least %d like those of the application, better 100",
            len(pictures),
            FEW_PICTURES,
        )


def _rounds(graphs: Graphs, values: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
    """Yield what is fetched of each graph in one walk over the pictures."""
    groups = {name: groups_that_fit(graphs[name], values[name]) for name in values}
    for chosen in itertools.zip_longest(*groups.values(), fillvalue=()):
        wanted = {name: list(group) for name, group in zip(groups, chosen, strict=True) if group}
        if wanted:
            yield wanted


def groups_that_fit(model: OnnxModel, values: Sequence[str]) -> list[list[str]]:
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
    graphs: Graphs,
    manifest: Manifest,
    pictures: Sequence[Image],
    values: Mapping[str, Sequence[str]],
    on_step: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """Return the largest magnitudes; the graphs themselves reduce their values, so nothing large is fetched.

    Raises:
        ValueError: a graph ran on no picture.
    """
    sessions = {name: cpu_session(_with_largest(graphs[name], values[name])) for name in values}
    found = {name: np.zeros(len(values[name])) for name in values}
    idle = {name for name in values if values[name]}
    for feeds in feeds_of(graphs, manifest, pictures):
        for name in feeds.keys() & values.keys():
            idle.discard(name)
            outputs = [f"{value}/largest" for value in values[name]]
            largest = np.array(sessions[name].run(outputs, feeds[name]), np.float64)
            found[name] = np.maximum(found[name], largest)
        on_step()
    if idle:
        raise ValueError(
            f"the graph {', '.join(sorted(idle))} ran on none of the {len(pictures)} pictures to calibrate "
            "on, so that its ranges are unknown: give pictures in which the model finds something, of a "
            "video model frames of one size"
        )
    return {name: dict(zip(values[name], found[name].tolist(), strict=True)) for name in values}


def _with_largest(model: OnnxModel, values: Sequence[str]) -> OnnxModel:
    """Return a graph that gives the largest magnitude of each value."""
    watched = model.copy()
    del watched.graph.output[:]
    for value in values:
        output = f"{value}/largest"
        watched.graph.node.extend(
            (
                helper.make_node("Abs", [value], [f"{value}/magnitude"]),
                helper.make_node("ReduceMax", [f"{value}/magnitude"], [output], keepdims=0),
            )
        )
        watched.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    return watched


def _clipped(
    graphs: Graphs,
    manifest: Manifest,
    pictures: Sequence[Image],
    largest: Magnitudes,
    rounds: Sequence[Mapping[str, Sequence[str]]],
    bins_kept: Callable[[Counts], int],
    on_step: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """Return where the histograms of values are cut.

    Args:
        graphs: complete, in float32.
        manifest: of the model.
        pictures: to collect the histograms on.
        largest: of each graph, value -> its largest magnitude on them.
        rounds: which values of each graph are fetched together.
        bins_kept: how many of the lowest bins of a histogram are kept, see `CLIPPING`.
        on_step: called for every picture of a round and for every value.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in graphs}
    for wanted in rounds:
        counts = {
            name: {value: np.zeros(NUM_BINS, np.int64) for value in group}
            for name, group in wanted.items()
        }
        sessions = {name: cpu_session(_with_outputs(graphs[name], wanted[name])) for name in wanted}
        for feeds in feeds_of(graphs, manifest, pictures):
            for name in feeds.keys() & wanted.keys():
                arrays = sessions[name].run(list(wanted[name]), feeds[name])
                for value, array in zip(wanted[name], arrays, strict=True):
                    counts[name][value] += count_magnitudes(array, largest[name][value])
            on_step()
        for name, counted in counts.items():
            for value, bins in counted.items():
                found[name][value] = largest[name][value] * bins_kept(bins) / NUM_BINS
                on_step()
    return found


def _with_outputs(model: OnnxModel, values: Sequence[str]) -> OnnxModel:
    watched = model.copy()
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in values
    )
    return watched
