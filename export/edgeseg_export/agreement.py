"""Measures how far the results of two graphs of one model agree, on pictures without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeseg_bench.evaluation import agreement_types
from edgeseg_bench.metrics.agreement import Agreement, agreement_ap
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.quantized import bytes_for_cpu
from edgeseg_runtime.tasks import create_task

Image = npt.NDArray[np.uint8]
Tensors = dict[str, npt.NDArray[Any]]
Result = dict[str, Any]


class GraphBackend:
    """Runs a graph that is in memory, on the CPU."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            bytes_for_cpu(graph.SerializeToString()), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name."""
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))

    def close(self) -> None:
        """Do nothing: the session goes with the object."""


def graph_predictor(graph: onnx.ModelProto, manifest: Manifest) -> Predictor[Any]:
    """Return a graph behind the runtime's own pre- and post-processing."""
    return Predictor(manifest, create_task(manifest), GraphBackend(graph))


def measure_agreement(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    manifest: Manifest,
    pictures: Sequence[Image],
    *,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return agreement AP and what else tells two models' detections apart, as JSON.

    Args:
        reference: its confident detections take the place of labels.
        candidate: the graph to judge.
        manifest: of both.
        pictures: (H, W, 3) uint8 BGR.
        on_picture: called as on_picture(done, total).
    """
    predictors = [graph_predictor(graph, manifest) for graph in (reference, candidate)]
    results: list[list[Result]] = [[], []]
    for number, picture in enumerate(pictures, 1):
        for predictor, found in zip(predictors, results, strict=True):
            found += coco_results(predictor, picture, number)
        on_picture(number, len(pictures))
    agreement = agreement_of(results[0], results[1], manifest, pictures)
    return {
        "num_pictures": len(pictures),
        "ap": {kind: round(value, 4) for kind, value in agreement.ap.items()},
        "num_detections": agreement.num_reference,
        "num_matched": agreement.num_matched,
        "num_label_flips": agreement.num_label_flips,
    }


def agreement_of(
    reference: Sequence[Result],
    candidate: Sequence[Result],
    manifest: Manifest,
    pictures: Sequence[Image],
) -> Agreement:
    """Return how far results agree; pictures have the numbers 1, 2, ... as their ids."""
    return agreement_ap(
        reference,
        candidate,
        images=[
            {"id": number, "height": picture.shape[0], "width": picture.shape[1]}
            for number, picture in enumerate(pictures, 1)
        ],
        iou_types=agreement_types(manifest),
    )


def coco_results(predictor: Predictor[Any], picture: Image, image_id: int) -> list[Result]:
    """Return what a model finds in a picture, as COCO results; see `coco_entries`."""
    return coco_entries(predictor(picture), picture, image_id)


def coco_entries(found: Any, picture: Image, image_id: int) -> list[Result]:
    """Return a result's COCO entries; what has no box of its own stands for the whole picture."""
    height, width = picture.shape[:2]
    whole = {"bbox": [0.0, 0.0, float(width), float(height)]}
    return [whole | entry for entry in found.to_coco(image_id=image_id)]
