"""Measures whether an exported graph computes what the PyTorch model computes, stage by stage.

Shape suffixes: N rows (proposals or detections) of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgeseg.models.reference import ReferenceModel
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.tasks import create_task

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]
Image = npt.NDArray[np.uint8]

ROW_STAGES = ("proposals", "boxes")
"""Stages that select rows: what follows with as many rows belongs to these, in their order."""
OUTLIER_SHARE = 0.01
"""Share of a stage's elements that a different rounding may turn over (ties, thresholds)."""
MAX_BOX_DISTANCE = 1.0
"""Network pixels (sum over the four sides) within which two rows are the same one."""
SCORE_MARGIN = 1e-3
"""A detection this close to the worst one kept may be missing on the other side."""


class ParityError(EdgesegError):
    """The exported graph does not compute what the PyTorch model computes."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported graph is from its PyTorch model.

    Attributes:
        data: where the pictures came from.
        num_images: how many there were.
        num_detections: detections of the PyTorch model on them; 0 for dense outputs.
        num_unmatched: detections that one side has and the other has not.
        max_abs: per output, the largest difference over matched rows.
        stages: per stage and output, in the order of computation, the difference that 99 % of the
            elements stay below, relative to the stage's largest value; the worst picture counts.
        tolerance: bound of that relative difference.
    """

    data: str
    num_images: int
    num_detections: int
    num_unmatched: int
    max_abs: Mapping[str, float]
    stages: Mapping[str, float]
    tolerance: float

    @property
    def first_stage_outside(self) -> str | None:
        """The earliest stage whose difference is not within the tolerance."""
        outside = (name for name, error in self.stages.items() if not error <= self.tolerance)
        return next(outside, None)

    @property
    def is_within_tolerance(self) -> bool:
        """Whether every stage agrees and every detection has its counterpart."""
        return self.first_stage_outside is None and self.num_unmatched == 0

    def check(self) -> None:
        """Do nothing if the graph agrees.

        Raises:
            ParityError: names the first stage outside the tolerance, or the unmatched detections.
        """
        stage = self.first_stage_outside
        if stage is not None:
            raise ParityError(
                f"the exported graph differs from the PyTorch model: {stage} is the first stage "
                f"outside the tolerance (relative difference {self.stages[stage]:.2e} found, at most "
                f"{self.tolerance:.0e} expected, on {self.num_images} pictures of {self.data}). "
                "Nothing was written; allow it with --allow-mismatch"
            )
        if self.num_unmatched:
            raise ParityError(
                f"the exported graph differs from the PyTorch model: {self.num_unmatched} of "
                f"{self.num_detections} detections have no counterpart on {self.num_images} "
                f"pictures of {self.data}. Nothing was written; allow it with --allow-mismatch"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the figures for the manifest; a difference that is no number is null."""
        return {
            "reference": f"torch {torch.__version__}",
            "engine": "onnxruntime",
            "data": self.data,
            "num_images": self.num_images,
            "num_detections": self.num_detections,
            "num_unmatched": self.num_unmatched,
            "tolerance": self.tolerance,
            "is_within_tolerance": self.is_within_tolerance,
            "first_stage_outside": self.first_stage_outside,
            "max_abs": {name: _json_number(value) for name, value in self.max_abs.items()},
            "stages": {name: _json_number(value) for name, value in self.stages.items()},
        }


@dataclass
class _Totals:
    stages: dict[str, float] = field(default_factory=dict)
    max_abs: dict[str, float] = field(default_factory=dict)
    num_images: int = 0
    num_detections: int = 0
    num_unmatched: int = 0


def measure_parity(
    model: ReferenceModel,
    tapped: onnx.ModelProto,
    manifest: Manifest,
    images: Iterable[Image],
    *,
    data: str,
    tolerance: float,
    on_image: Callable[[], None] = lambda: None,
) -> Parity:
    """Run model and graph on pictures and compare every stage.

    Args:
        model: the PyTorch model.
        tapped: its graph with the intermediate stages as further outputs.
        manifest: its manifest; the pictures go through the runtime's own preprocessing.
        images: (H, W, 3) uint8 BGR.
        data: what to call the pictures.
        tolerance: bound of the relative difference of a stage.
        on_image: called after each picture.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    outputs = [spec.name for spec in manifest.outputs]
    task = create_task(manifest)
    totals = _Totals()
    for image in images:
        inputs, _ = task.preprocess(image)
        candidate = dict(zip(names, session.run(names, inputs), strict=True))
        _add_image(totals, _torch_stages(model, inputs), candidate, outputs)
        on_image()
    return Parity(
        data=data,
        num_images=totals.num_images,
        num_detections=totals.num_detections,
        num_unmatched=totals.num_unmatched,
        max_abs=totals.max_abs,
        stages=totals.stages,
        tolerance=tolerance,
    )


def _torch_stages(model: ReferenceModel, inputs: Tensors) -> dict[str, Array]:
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        stages = model.stages(**tensors)
    return {name: tensor.numpy() for name, tensor in stages.items()}


def _add_image(
    totals: _Totals, reference: Tensors, candidate: Tensors, outputs: Iterable[str]
) -> None:
    rows_N: Array | None = None
    for name, expected in reference.items():
        found = candidate[name]
        if name in ROW_STAGES:
            rows_N = _matching_rows(name, reference, candidate)
        is_output = name in outputs
        if rows_N is not None and expected.shape[1:2] == rows_N.shape:
            is_row_N = _is_used(expected if not is_output else reference["scores"]) & (rows_N >= 0)
            expected = expected[0, is_row_N]
            found = found[0, rows_N[is_row_N]]
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
        totals.stages[name] = max(totals.stages.get(name, 0.0), _relative(difference, expected))
        if is_output:
            largest = float(difference.max(initial=0.0))
            totals.max_abs[name] = max(totals.max_abs.get(name, 0.0), largest)
    totals.num_images += 1
    if "scores" in reference and "boxes" in reference:
        totals.num_detections += int((reference["scores"] > 0).sum())
        totals.num_unmatched += _num_unmatched(reference, candidate)
        totals.num_unmatched += _num_unmatched(candidate, reference)


def _is_used(values: Array) -> Array:
    """Return (N,) bool: rows that hold something, of (1, N, ...)."""
    return values[0].reshape(values.shape[1], -1).any(axis=1)


def _relative(difference: Array, expected: Array) -> float:
    """Return the difference that all but a few elements stay below, over the largest value."""
    if difference.size == 0:
        return 0.0
    if not np.isfinite(difference).all():
        return math.inf
    typical = float(np.quantile(difference, 1 - OUTLIER_SHARE, method="lower"))
    return typical / max(float(np.abs(expected).max()), 1e-12)


def _matching_rows(name: str, reference: Tensors, candidate: Tensors) -> Array:
    """Return for each reference row (N,) the candidate row that is the same one, or -1."""
    expected_NF, found_NF = (_row_features(name, tensors) for tensors in (reference, candidate))
    distances_NN = np.abs(expected_NF[:, None, :] - found_NF[None, :, :]).sum(axis=-1)
    distances_NN = np.nan_to_num(distances_NN, nan=np.inf)
    nearest_N = distances_NN.argmin(axis=1)
    is_same_N = distances_NN[np.arange(len(nearest_N)), nearest_N] <= MAX_BOX_DISTANCE
    return np.where(is_same_N, nearest_N, -1)


def _row_features(name: str, tensors: Tensors) -> Array:
    """Return what tells a row from another, (N, F): the box, and for detections class and score."""
    boxes_N4 = tensors[name][0].astype(np.float64)
    if name != "boxes":
        return boxes_N4
    labels_N1 = tensors["labels"][0][:, None] * 1e3
    return np.concatenate([boxes_N4, labels_N1, tensors["scores"][0][:, None]], axis=1)


def _num_unmatched(reference: Tensors, candidate: Tensors) -> int:
    """Return how many detections of one side are missing on the other, borderline ones aside."""
    kept = candidate["scores"][0][candidate["scores"][0] > 0]
    bar = float(kept.min()) + SCORE_MARGIN if kept.size else 0.0
    is_clear_N = reference["scores"][0] > bar
    return int((is_clear_N & (_matching_rows("boxes", reference, candidate) < 0)).sum())


def _json_number(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None
