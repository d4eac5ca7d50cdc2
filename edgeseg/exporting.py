"""Pictures that an export needs, and what it tells people when it is done."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.models.labels import is_placeholder
from edgeseg.options import is_data_set
from edgeseg.tables import table_of_rows, text_from_agreement, text_from_bytes
from edgeseg_runtime import Manifest, Source

FREE_RUN = "free run."
"""Stands before the stages of several graphs that run on their own; see `edgeseg_export.parity`."""

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.models.reference import ReferenceModel
    from edgeseg_bench.runner import Progress


def first_pictures(source: Path, count: int) -> list[Any]:
    """Return the first pictures of a folder, pattern or file.

    Raises:
        SourceError: there is nothing to read.
    """
    return [frame.image for frame in itertools.islice(Source(source), count)]


def calibration_pictures(
    source: str,
    count: int,
    model: ReferenceModel,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> list[Any]:
    """Return pictures of a folder, or what the model would look at in those of a data set.

    Of a data set they come from the training split: accuracy is measured on the other. Pictures
    that cannot be read are left out, of either.

    Raises:
        SourceError: there is nothing to read.
        ValueError: no such data set.
    """
    from edgeseg.models import model_manifest
    from edgeseg_bench.datasets import open_training_split
    from edgeseg_bench.evaluation import dataset_kind, pictures_seen

    if not is_data_set(source):
        return first_pictures(Path(source), count)
    manifest = model_manifest(model)
    samples = open_training_split(
        source,
        kind=dataset_kind(manifest),
        limit=count,
        on_picture=functools.partial(progress, "check the pictures"),
    )
    return [seen.image for seen in pictures_seen(manifest, samples, limit=count)]


def renderables(manifest: Manifest, seconds: float) -> Iterator[RenderableType]:
    """Yield what people want to see of a fresh bundle.

    Args:
        manifest: of the bundle.
        seconds: that the export took.
    """
    parity = manifest.parity
    rows = [
        {"output": name, "largest difference": value, "relative": _relative(parity, name)}
        for name, value in parity["max_abs"].items()
    ]
    yield table_of_rows(f"Parity with {parity['reference']}", rows)
    yield (
        f"{parity['num_images']} pictures of {parity['data']}, {parity['num_detections']} "
        f"detections, {parity['num_unmatched']} unmatched; tolerance {parity['tolerance']:g}"
    )
    if "precision" in parity:
        yield from _precision(parity["precision"])
    for name, variant in parity.get("variants", {}).items():
        yield f"{name}: {variant['num_detections']} detections, {variant['num_unmatched']} unmatched"
    files = (
        f"{file.file} {text_from_bytes(file.size_bytes)}" for file in manifest.artifacts.values()
    )
    yield f"{', '.join(files)}, {seconds:.1f} s"


def remarks(manifest: Manifest) -> Iterator[str]:
    """Yield what a user should know before a fresh bundle is used."""
    unnamed = [label for label in manifest.labels if is_placeholder(label)]
    if unnamed:
        first, last = unnamed[0], unnamed[-1]
        what = f"{first} to {last} have no names" if len(unnamed) > 1 else f"{first} has no name"
        yield f"the class{'es' * (len(unnamed) > 1)} {what}: give --labels a,b,c, a file or coco:DIR"
    key, others = (manifest.provenance.get(name) for name in ("weights_key", "weights_others"))
    if key:
        yield f"the weights are those of {key!r} in {manifest.provenance['weights']}"
    if others:
        yield (
            f"these are averaged weights; {' and '.join(map(repr, others))} would have fitted as well: "
            f"choose with --weights-key {others[0]}"
        )
    if manifest.precision == "fp16":
        yield "float16 is for GPUs: x86 processors compute it in float32, no faster"
    checked = [manifest.parity, *manifest.parity.get("variants", {}).values()]
    if any(parity["num_detections"] == 0 and "boxes" in parity["max_abs"] for parity in checked):
        yield "nothing was found to compare: check with --images of what the model looks for"
    if not all(parity["is_within_tolerance"] for parity in checked):
        yield "the bundle differs from the PyTorch model more than the tolerance allows"


def _relative(parity: Mapping[str, Any], output: str) -> float | None:
    """Return the relative difference of an output, of several graphs when they run on their own."""
    stages = parity["stages"]
    return stages.get(f"{FREE_RUN}{output}", stages.get(output))


def _precision(lowered: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield what a precision below fp32 changed and cost, and how a search found it."""
    nodes = ", ".join(f"{count} in {name}" for name, count in lowered["num_nodes"].items())
    agreement = lowered["agreement_with_fp32"]
    yield (
        f"nodes: {nodes} ({lowered['calibration']} over {lowered['num_calibration']} pictures); "
        f"agreement with fp32 on {agreement['num_pictures']} pictures: "
        f"{text_from_agreement(agreement['ap'])}"
    )
    found = lowered.get("search")
    if found is not None:
        yield table_of_rows("Search", found["modules"])
        yield (
            f"agreement on {found['num_pictures']} calibration pictures: "
            f"{found['agreement_ap']:.3f}, all modules in int8: {found['agreement_ap_all_int8']:.3f}, "
            f"allowed: {1 - found['max_drop']:.3f}"
        )
