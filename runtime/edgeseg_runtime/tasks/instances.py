"""Instances: boxes, scores and labels, with whatever else the model gives for each of them.

Outputs of the model, padded to K rows with score 0, positions in pixels of the network's input:

    boxes (B, K, 4), scores (B, K), labels (B, K)
    masks (B, K, M, M) over the boxes or (B, K, h, w) over the whole input, mask_scores (B, K)
    keypoints (B, K, J, 3) x, y, score, or keypoint_heatmaps (B, K, J, S, S) over the boxes
    surface_coarse (B, P, C, S, S), surface_fine, surface_u, surface_v (B, P, 1 + parts, S, S) over the
        boxes of the first P <= K rows, and surface_ with a name of `surfaces.CONFIDENCES`
    landmarks (B, K, L, 2), gender (B, K), mesh (B, K, V, 3), track_ids (B, K)
    centers (B, C, 4) x, y, score, label: what `center_check` looks for in the middle of each box
    any other name (B, K, ...): becomes `Instances.extra`, as it is
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import Manifest, TensorSpec
from edgeseg_runtime.picture.geometry import (
    FAR,
    Geometry,
    clip_boxes,
    scale_boxes_to_source,
    scale_points_to_source,
)
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results import Instances
from edgeseg_runtime.results.masks import MaskSet
from edgeseg_runtime.results.paste import (
    PASTE_RULES,
    MaskCrop,
    crop_image_aligned,
    keypoints_bicubic_argmax,
)
from edgeseg_runtime.results.rows import OPTIONAL_FIELDS, RESERVED_NAMES, ROW_FIELDS, RowField
from edgeseg_runtime.results.surfaces import (
    CHART_CONFIDENCES,
    CONFIDENCES,
    PART_CONFIDENCES,
    SurfaceMaps,
    SurfaceSet,
)
from edgeseg_runtime.tasks import Reader
from edgeseg_runtime.tasks.centers import check_centers
from edgeseg_runtime.tasks.contract import (
    check_choice,
    check_keypoint_names,
    check_outputs,
    describe,
    options_from_manifest,
    refuse,
)
from edgeseg_runtime.tasks.inputs import PictureInput
from edgeseg_runtime.tasks.soft_nms import MODES, soft_nms

__all__ = ["InstanceTask", "Options"]

Floats = npt.NDArray[np.float32]

_SURFACE = "surface_"
_OUTPUT_AXES: dict[str, tuple[str | int, ...]] = {
    **{field.name: ("K", *field.axes) for field in ROW_FIELDS},
    "masks": ("K", "h", "w"),
    "keypoint_heatmaps": ("K", "J", "S", "S"),
    "surface_coarse": ("P", "coarse channels", "Z", "Z"),
    **{
        f"{_SURFACE}{name}": ("P", "charts", "Z", "Z")
        for name in ("fine", "u", "v", *CHART_CONFIDENCES)
    },
    **{f"{_SURFACE}{name}": ("P", 1, "Z", "Z") for name in PART_CONFIDENCES},
    "centers": ("C", 4),
}
_SURFACE_MAPS = ("coarse", "fine", "u", "v")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The `postprocess` entries of a manifest.

    Attributes:
        mask_paste: "expanded_box" (torchvision) or "grid_sample" (detectron2) for masks over the
            boxes; "none" for no masks, or masks over the whole input (YOLACT), which are enlarged
            to the picture and not cut at the box.
        mask_threshold: a pixel is set where its probability is at least this; for masks over the
            whole input, where it is greater.
        box_rounding: "none", or "truncate" for whole pixels by YOLACT's rule.
        drop_empty_boxes: clip the boxes to the source picture and drop those without area.
        score_threshold: only detections with a higher score are kept.
        keypoints: "bicubic_argmax" (torchvision) for an output keypoint_heatmaps, else "none".
        soft_nms: "gaussian" or "original" (see `soft_nms.py`) for boxes that are candidates yet,
            which are clipped to the source picture first; else "none". `score_threshold` is for
            what comes out.
        max_detections: of a picture that soft-NMS leaves; 0 without.
        center_check: whether only boxes count that have one of the output centers in their middle
            (see `centers.py`); with soft-NMS only.
    """

    mask_paste: str = "none"
    mask_threshold: float = 0.5
    box_rounding: str = "none"
    drop_empty_boxes: bool = False
    score_threshold: float = 0.0
    keypoints: str = "none"
    soft_nms: str = "none"
    max_detections: int = 0
    center_check: bool = False

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Options:
        """Return the checked options.

        Raises:
            ManifestError: for an unknown option, or a value of the wrong type or range.
        """
        options = options_from_manifest(cls, manifest)
        for name in ("mask_threshold", "score_threshold"):
            value = getattr(options, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value <= 1
            ):
                refuse(manifest, f"{name} {value!r}", "a number in 0..1")
        for name in ("drop_empty_boxes", "center_check"):
            if not isinstance(getattr(options, name), bool):
                refuse(manifest, f"{name} {getattr(options, name)!r}", "true or false")
        check_choice(manifest, "mask_paste", options.mask_paste, (*PASTE_RULES, "none"))
        check_choice(manifest, "box_rounding", options.box_rounding, ("none", "truncate"))
        check_choice(manifest, "keypoints", options.keypoints, ("none", "bicubic_argmax"))
        check_choice(manifest, "soft_nms", options.soft_nms, ("none", *MODES))
        _check_soft_nms(manifest, options)
        return options


class InstanceTask:
    """The task of everything that finds objects of its own accord.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = Options.from_manifest(manifest)
        if manifest.looks_at_boxes:
            refuse(
                manifest,
                f"resize {manifest.preprocess.resize!r}",
                "a rule that shows the whole picture: the model finds its own boxes in it",
            )
        self._inputs = PictureInput(manifest)
        self._outputs = _check_outputs(manifest, self.options)
        self._rows = [field for field in OPTIONAL_FIELDS if field.name in self._outputs]
        self._extra = sorted(self._outputs - _OUTPUT_AXES.keys())
        self._has_surfaces = f"{_SURFACE}coarse" in self._outputs

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"InstanceTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a picture and where it lies in them; see `inputs`.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
        """
        return self._inputs(image)

    def open_reader(self) -> Reader[Instances]:
        """Return `postprocess`: every picture is read alone."""
        return self.postprocess

    def postprocess(self, outputs: Tensors, geometry: Geometry) -> Instances:
        """Return the detections in source pixels; masks are pasted when they are looked at.

        Detections that have a NaN or an infinite number anywhere but in a mask or a heat map are
        dropped and counted; what is further away than 2^30 pixels counts as infinite. Key points
        whose heat map has such a number at its maximum are 0, with score 0, and their detection
        is counted.
        """
        network_boxes = outputs["boxes"][0].astype(np.float32, copy=False)
        scores = outputs["scores"][0].astype(np.float32, copy=False)
        is_finite = self._is_finite(outputs)
        num_nonfinite = int((~is_finite & (scores != 0)).sum())  # score 0 is padding
        if self.options.soft_nms == "none":
            kept = np.flatnonzero(is_finite & (scores > self.options.score_threshold))
            scores = scores[kept]
            boxes = scale_boxes_to_source(network_boxes[kept], geometry)
        else:
            kept, scores, boxes = self._suppress(outputs, np.flatnonzero(is_finite), geometry)
        if self.options.box_rounding == "truncate":
            boxes = _truncated(boxes, geometry.source)
        if self.options.drop_empty_boxes:
            boxes = clip_boxes(boxes, geometry.source)
            has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            kept, scores, boxes = kept[has_area], scores[has_area], boxes[has_area]
        rows: dict[str, Any] = {
            field.name: _to_source(field, outputs[field.name][0][kept], geometry)
            for field in self._rows
        }
        if self.options.keypoints != "none":
            points = self._keypoints(outputs, kept, network_boxes[kept], geometry)
            is_lost = ~np.isfinite(points).all(axis=-1)
            points[is_lost] = 0
            num_nonfinite += int(np.count_nonzero(is_lost.any(axis=-1)))
            rows["keypoints"] = points
        return Instances(
            boxes,
            scores,
            outputs["labels"][0][kept],
            masks=self._masks(outputs, kept, boxes, geometry),
            surfaces=self._surfaces(outputs, kept, boxes, geometry),
            extra={name: outputs[name][0][kept] for name in self._extra},
            label_names=self.manifest.labels,
            category_ids=self.manifest.category_ids,
            keypoint_names=self.manifest.keypoint_names,
            skeleton=self.manifest.skeleton,
            image_size=geometry.source,
            num_nonfinite=num_nonfinite,
            **rows,
        )

    def _suppress(
        self, outputs: Tensors, rows: npt.NDArray[np.intp], geometry: Geometry
    ) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
        """Return rows, scores and clipped boxes in source pixels of what soft-NMS leaves, best first.

        Args:
            outputs: of the model.
            rows: whose numbers are finite.
            geometry: of the picture.
        """
        rows = rows[outputs["scores"][0][rows] > 0]
        boxes = scale_boxes_to_source(outputs["boxes"][0][rows].astype(np.float32), geometry)
        scores = outputs["scores"][0][rows].astype(np.float32)
        labels = outputs["labels"][0][rows]
        if self.options.center_check:
            centers = outputs["centers"][0].astype(np.float32)
            centers[:, :2] = scale_points_to_source(centers[:, :2], geometry)
            checked = check_centers(
                boxes, scores, labels, centers, size=geometry.source, step=geometry.step
            )
            rows, labels = rows[checked.rows], labels[checked.rows]
            scores, boxes = checked.scores, checked.boxes
        boxes = clip_boxes(boxes, geometry.source)
        left = soft_nms(
            boxes,
            scores,
            labels,
            max_detections=self.options.max_detections,
            mode=self.options.soft_nms,
        )
        is_kept = left.scores > self.options.score_threshold
        kept = left.rows[is_kept]
        return rows[kept], left.scores[is_kept], boxes[kept]

    def _is_finite(self, outputs: Tensors) -> npt.NDArray[np.bool_]:
        """Return (K,) bool: rows whose numbers are all finite, but for masks and heat maps."""
        scores = outputs["scores"][0]
        is_finite = np.isfinite(scores) & (np.abs(outputs["boxes"][0]) < FAR).all(axis=1)
        for field in self._rows:
            values = outputs[field.name][0].reshape(len(scores), -1)
            if field.dtype is np.float32:
                is_finite &= (np.abs(values) < FAR).all(axis=1)
        for name in self._extra:
            values = outputs[name][0].reshape(len(scores), -1)
            is_finite &= np.isfinite(values).all(axis=1)
        return is_finite

    def _masks(
        self, outputs: Tensors, kept: npt.NDArray[np.intp], boxes: Floats, geometry: Geometry
    ) -> MaskSet | None:
        if "masks" not in self._outputs:
            return None
        maps = outputs["masks"][0][kept].astype(np.float32, copy=False)
        np.nan_to_num(maps, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        paste = _Paste(maps, boxes, geometry, self.options.mask_paste, self.options.mask_threshold)
        return MaskSet(paste, count=len(kept), size=geometry.source)

    def _surfaces(
        self, outputs: Tensors, kept: npt.NDArray[np.intp], boxes: Floats, geometry: Geometry
    ) -> SurfaceSet | None:
        """Return the surfaces of the first rows; what comes after them has none."""
        if not self._has_surfaces:
            return None
        has_one = kept < outputs[f"{_SURFACE}coarse"].shape[1]
        found = kept[has_one]

        def maps(name: str) -> Floats:
            return outputs[f"{_SURFACE}{name}"][0][found].astype(np.float32, copy=False)

        surfaces = SurfaceMaps(
            clip_boxes(boxes[has_one], geometry.source),
            coarse=maps("coarse"),
            fine=maps("fine"),
            u=maps("u"),
            v=maps("v"),
            confidences={n: maps(n) for n in CONFIDENCES if f"{_SURFACE}{n}" in self._outputs},
        )
        return SurfaceSet(surfaces, np.where(has_one, np.cumsum(has_one) - 1, -1))

    def _keypoints(
        self, outputs: Tensors, kept: npt.NDArray[np.intp], boxes: Floats, geometry: Geometry
    ) -> Floats:
        heatmaps = outputs["keypoint_heatmaps"][0]
        # A box is never larger than the input; one that claims to be must not exhaust the memory.
        inside = clip_boxes(boxes, geometry.network)
        points = np.zeros((len(kept), heatmaps.shape[1], 3), np.float32)
        for index, row in enumerate(kept):
            heatmap = heatmaps[row].astype(np.float32, copy=False)
            points[index] = keypoints_bicubic_argmax(heatmap, inside[index])
        points[..., :2] = scale_points_to_source(points[..., :2], geometry)
        return points


@dataclass(frozen=True)
class _Paste:
    """Pastes the mask of row i; an object and not a closure, so that results can be pickled."""

    maps: Floats
    boxes: Floats
    geometry: Geometry
    rule: str
    threshold: float

    def __call__(self, index: int) -> MaskCrop:
        mask, box = self.maps[index], self.boxes[index]
        if self.rule == "none":
            return crop_image_aligned(mask, self.geometry, threshold=self.threshold)
        paste = PASTE_RULES[self.rule]
        return paste(mask, box, self.geometry.source, threshold=self.threshold)


def _to_source(field: RowField, values: npt.NDArray[Any], geometry: Geometry) -> npt.NDArray[Any]:
    """Return one output's rows in source pixels; depth has the scale of x and y."""
    rows: npt.NDArray[Any] = values.astype(field.dtype)
    if field.columns.startswith("xy"):
        rows[..., :2] = scale_points_to_source(rows[..., :2], geometry)
    if field.columns == "xyz":
        rows[..., 2] *= np.float32(math.sqrt(geometry.step[0] * geometry.step[1]))
    return rows


def _truncated(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Return boxes in whole pixels by YOLACT's rule (`sanitize_coordinates`, then `long`).

    The sides are put in order, the lower one is clamped at 0 and the upper one at the picture's
    end, but not the other way round: a box outside of the picture keeps a negative extent.
    """
    height, width = size
    low = np.maximum(np.minimum(boxes[:, :2], boxes[:, 2:]), np.float32(0))
    high = np.minimum(np.maximum(boxes[:, :2], boxes[:, 2:]), np.array([width, height], np.float32))
    return np.trunc(np.concatenate([low, high], axis=1))


def _check_soft_nms(manifest: Manifest, options: Options) -> None:
    """Refuse options of soft-NMS that do not go together."""
    count, is_used = options.max_detections, options.soft_nms != "none"
    if type(count) is not int or (count < 1 if is_used else count != 0):
        expected = "an integer from 1" if is_used else "0 without soft_nms"
        refuse(manifest, f"max_detections {count!r} with soft_nms {options.soft_nms!r}", expected)
    if options.center_check and not is_used:
        refuse(manifest, "center_check without soft_nms", f"soft_nms {' or '.join(MODES)} with it")


def _check_outputs(manifest: Manifest, options: Options) -> frozenset[str]:
    """Return the names of the outputs that are used."""
    required = tuple(field.name for field in ROW_FIELDS if field.is_required)
    specs = check_outputs(manifest, _OUTPUT_AXES, required=required, row_axis="K")
    for field in ROW_FIELDS:
        spec = specs.get(field.name)
        if spec and field.dtype is np.int64 and spec.dtype not in {"int32", "int64"}:
            refuse(manifest, f"output {describe(spec)}", "int32 or int64")
    for name in sorted((specs.keys() - _OUTPUT_AXES.keys()) & RESERVED_NAMES):
        refuse(manifest, f"output {name!r}", "another name: results have something else there")
    _check_surfaces(manifest, specs)
    if options.mask_paste != "none" and "masks" not in specs:
        refuse(
            manifest, f"mask_paste {options.mask_paste!r} without an output masks", "masks, or none"
        )
    if options.center_check != ("centers" in specs):
        refuse(
            manifest,
            f"center_check {options.center_check} with outputs {sorted(specs)}",
            "an output centers and center_check, or neither",
        )
    if (options.keypoints != "none") != ("keypoint_heatmaps" in specs):
        refuse(
            manifest,
            f"keypoints {options.keypoints!r} with outputs {sorted(specs)}",
            "bicubic_argmax together with an output keypoint_heatmaps, or neither",
        )
    if {"keypoints", "keypoint_heatmaps"} <= specs.keys():
        refuse(manifest, "outputs keypoints and keypoint_heatmaps", "one of them")
    for name in ("keypoint_heatmaps", *(field.name for field in ROW_FIELDS if field.is_named)):
        if name in specs:
            check_keypoint_names(manifest, specs[name].shape[2])
            break
    return frozenset(specs)


def _check_surfaces(manifest: Manifest, specs: Mapping[str, TensorSpec]) -> None:
    """Refuse outputs that make no surface, or more surfaces than instances."""
    found = sorted(name for name in specs if name in _OUTPUT_AXES and name.startswith(_SURFACE))
    if not found:
        return
    for name in _SURFACE_MAPS:
        if f"{_SURFACE}{name}" not in specs:
            refuse(manifest, f"outputs {found}", f"{_SURFACE}{name} among them")
    coarse, fine = (specs[f"{_SURFACE}{name}"] for name in ("coarse", "fine"))
    if coarse.shape[2] < 2 or not 2 <= fine.shape[2] <= 256:
        refuse(
            manifest,
            f"outputs {describe(coarse)} and {describe(fine)}",
            "2 channels at least, the background and another, and 256 at most in surface_fine",
        )
    num_rows = specs["scores"].shape[1]
    if coarse.shape[1] > num_rows:
        refuse(manifest, f"output {describe(coarse)}", f"[1, {num_rows}, ...] or fewer rows")
