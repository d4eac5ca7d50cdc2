"""Instance segmentation: boxes, scores and labels, with masks or key points if the model has them.

Outputs of the model, padded to K rows with score 0, boxes in pixels of the network's input:
`boxes` (B, K, 4), `scores` (B, K), `labels` (B, K); optionally `masks` (B, K, M, M) over the boxes
or (B, K, h, w) over the whole input, and `keypoint_heatmaps` (B, K, J, S, S) over the boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.geometry import (
    Geometry,
    clip_boxes,
    fit_image,
    fit_image_with_fraction,
    geometry_of,
    scale_boxes_to_source,
    scale_points_to_source,
)
from edgeseg_runtime.image import Image, check_image
from edgeseg_runtime.manifest import Manifest, TensorSpec
from edgeseg_runtime.masks import MaskSet
from edgeseg_runtime.paste import (
    PASTE_RULES,
    MaskCrop,
    crop_image_aligned,
    keypoints_bicubic_argmax,
)
from edgeseg_runtime.results import Instances

__all__ = ["InstanceTask", "Options"]

Floats = npt.NDArray[np.float32]

_INPUTS = {  # name -> dtype, rank
    "image": ("uint8", 4),
    "image_size": ("int32", 2),
    "image_fraction": ("uint8", 4),
}
_OUTPUT_RANKS = {"boxes": 3, "scores": 2, "labels": 2, "masks": 4, "keypoint_heatmaps": 5}
_REQUIRED = ("boxes", "scores", "labels")
_FAR = 2.0**30
_KEYPOINT_RULES = ("none", "bicubic_argmax")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The `postprocess` entries of a manifest.

    Attributes:
        mask_paste: "expanded_box" (torchvision) or "grid_sample" (detectron2) for masks over the
            boxes; "none" for no masks, or masks over the whole input.
        mask_threshold: a pixel is set where its probability is at least this.
        drop_empty_boxes: clip the boxes to the source picture and drop those without area.
        score_threshold: only detections with a higher score are kept.
        keypoints: "none" or "bicubic_argmax" (torchvision).
    """

    mask_paste: str = "none"
    mask_threshold: float = 0.5
    drop_empty_boxes: bool = False
    score_threshold: float = 0.0
    keypoints: str = "none"

    @classmethod
    def from_manifest(cls, postprocess: Mapping[str, Any]) -> Options:
        """Return the checked options.

        Raises:
            ManifestError: for an unknown option, or a value of the wrong type or range.
        """
        unknown = sorted(postprocess.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            _refuse(f"option {unknown[0]!r}", f"one of {', '.join(cls.__dataclass_fields__)}")
        options = cls(**postprocess)
        for name in ("mask_threshold", "score_threshold"):
            value = getattr(options, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 <= value <= 1
            ):
                _refuse(f"{name} {value!r}", "a number in 0..1")
        if not isinstance(options.drop_empty_boxes, bool):
            _refuse(f"drop_empty_boxes {options.drop_empty_boxes!r}", "true or false")
        if options.mask_paste not in {*PASTE_RULES, "none"}:
            _refuse(f"mask_paste {options.mask_paste!r}", f"one of {', '.join(PASTE_RULES)}, none")
        if options.keypoints not in _KEYPOINT_RULES:
            _refuse(f"keypoints {options.keypoints!r}", f"one of {', '.join(_KEYPOINT_RULES)}")
        return options


class InstanceTask:
    """The task of Mask R-CNN and its kin.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = Options.from_manifest(manifest.postprocess)
        _check_inputs(manifest)
        self._outputs = _check_outputs(manifest, self.options)
        names = {spec.name for spec in manifest.inputs}
        self._takes_size = "image_size" in names
        self._takes_fraction = "image_fraction" in names

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"InstanceTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image) -> tuple[Tensors, Geometry]:
        """Return `image` (1, H, W, 3) and, if the model takes them, the further inputs.

        `image_size` (1, 2) is height and width of the resized picture; `image_fraction`
        (1, H, W, 3) uint8 what it has above `image`, in 1/256 of a grey level.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
        """
        source = check_image(image)
        geometry = geometry_of((source.shape[0], source.shape[1]), self.manifest.preprocess)
        preprocess = self.manifest.preprocess
        inputs: Tensors = {}
        if self._takes_fraction:
            inputs["image"], inputs["image_fraction"] = fit_image_with_fraction(
                source, geometry, preprocess
            )
        else:
            inputs["image"] = fit_image(source, geometry, preprocess)
        if self._takes_size:
            inputs["image_size"] = np.array([geometry.resized], np.int32)
        return inputs, geometry

    def postprocess(self, outputs: Tensors, geometry: Geometry) -> Instances:
        """Return the detections in source pixels; masks are pasted when they are looked at.

        Detections whose box or score is NaN or infinite are dropped and counted; a box further
        away than 2^30 pixels counts as infinite.
        """
        network_boxes = outputs["boxes"][0].astype(np.float32, copy=False)
        scores = outputs["scores"][0].astype(np.float32, copy=False)
        is_finite = np.isfinite(scores) & (np.abs(network_boxes) < _FAR).all(axis=1)
        num_nonfinite = int((~is_finite & (scores != 0)).sum())  # score 0 is padding
        kept = np.flatnonzero(is_finite & (scores > self.options.score_threshold))
        boxes = scale_boxes_to_source(network_boxes[kept], geometry)
        if self.options.drop_empty_boxes:
            boxes = clip_boxes(boxes, geometry.source)
            has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            kept, boxes = kept[has_area], boxes[has_area]
        return Instances(
            boxes,
            scores[kept],
            outputs["labels"][0][kept],
            masks=self._masks(outputs, kept, boxes, geometry),
            keypoints=self._keypoints(outputs, kept, network_boxes[kept], geometry),
            label_names=self.manifest.labels,
            category_ids=self.manifest.category_ids,
            image_size=geometry.source,
            num_nonfinite=num_nonfinite,
        )

    def _masks(
        self, outputs: Tensors, kept: npt.NDArray[np.intp], boxes: Floats, geometry: Geometry
    ) -> MaskSet | None:
        if "masks" not in self._outputs:
            return None
        maps = outputs["masks"][0][kept].astype(np.float32, copy=False)
        np.nan_to_num(maps, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        paste = _Paste(maps, boxes, geometry, self.options.mask_paste, self.options.mask_threshold)
        return MaskSet(paste, count=len(kept), size=geometry.source)

    def _keypoints(
        self, outputs: Tensors, kept: npt.NDArray[np.intp], boxes: Floats, geometry: Geometry
    ) -> Floats | None:
        if self.options.keypoints == "none":
            return None
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
            return crop_image_aligned(mask, box, self.geometry, threshold=self.threshold)
        paste = PASTE_RULES[self.rule]
        return paste(mask, box, self.geometry.source, threshold=self.threshold)


def _check_inputs(manifest: Manifest) -> None:
    for spec in manifest.inputs:
        if (spec.dtype, len(spec.shape)) != _INPUTS.get(spec.name):
            _refuse(
                f"input {_describe(spec)}",
                "image uint8 [1, H, W, 3], image_size int32 [1, 2], image_fraction like image",
            )
    specs = {spec.name: spec for spec in manifest.inputs}
    expected = (manifest.preprocess.height, manifest.preprocess.width, 3)
    for name in ("image", "image_fraction"):
        wanted = f"{name} of {list(expected)}, as preprocess says"
        if name in specs and specs[name].shape[1:] != expected:
            _refuse(f"input {_describe(specs[name])}", wanted)
        if name == "image" and name not in specs:
            _refuse("input no image", wanted)
    if "image_fraction" in specs and manifest.preprocess.interpolation != "linear":
        _refuse("image_fraction with pillow_bilinear", "it only with linear: Pillow rounds")
    if any(spec.shape[0] not in {1, -1} for spec in (*manifest.inputs, *manifest.outputs)):
        _refuse("a fixed batch size above 1", "1 or free: export with batch size 1")


def _check_outputs(manifest: Manifest, options: Options) -> frozenset[str]:
    """Return the names of the outputs."""
    specs = {spec.name: spec for spec in manifest.outputs}
    missing = [name for name in _REQUIRED if name not in specs]
    if missing:
        _refuse(f"outputs {sorted(specs)}", f"{missing[0]} among them")
    num_rows = specs["scores"].shape[1:2]
    for name, rank in _OUTPUT_RANKS.items():
        spec = specs.get(name)
        if spec is not None and (len(spec.shape) != rank or spec.shape[1:2] != num_rows):
            _refuse(f"output {_describe(spec)}", f"{rank} axes, the second {list(num_rows)}")
    if specs["boxes"].shape[2] != 4:
        _refuse(f"output {_describe(specs['boxes'])}", "four numbers for each box")
    if specs["labels"].dtype not in {"int32", "int64"}:
        _refuse(f"output {_describe(specs['labels'])}", "int32 or int64")
    if options.mask_paste != "none" and "masks" not in specs:
        _refuse(f"mask_paste {options.mask_paste!r} without an output masks", "masks, or none")
    if (options.keypoints != "none") != ("keypoint_heatmaps" in specs):
        _refuse(
            f"keypoints {options.keypoints!r} with outputs {sorted(specs)}",
            "bicubic_argmax together with an output keypoint_heatmaps, or neither",
        )
    return frozenset(specs)


def _describe(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"


def _refuse(found: str, expected: str) -> NoReturn:
    raise ManifestError(
        f"the manifest of an instance task has {found}; expected {expected}. Export it again."
    )
