"""Panoptic segmentation in which instances and stuff compete for each pixel (UPSNet, VPSNet).

Outputs of the model; positions in pixels of the network's input:

    semantic_logits (B, C, h, w): of a map that covers the input; stuff first, then things
    contender_boxes (B, N, 4) x1 y1 x2 y2, the pixel at x2 y2 included; contender_scores (B, N) falling, 0 in empty rows;
        contender_labels (B, N) from 1; contender_masks (B, N, M, M) logits: the instances that compete
    those of the task `instances`, which then are `Panoptic.instances`; none of them or boxes, scores, labels at least

Label 0 is the background, those of the things follow, then those of the stuff.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import (
    MAX_PIXELS,
    SAMPLED_RESIZES,
    Manifest,
    Schedule,
    TensorSpec,
    one_graph,
)
from edgeseg_runtime.picture.geometry import FAR, Geometry
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results import Instances, Panoptic
from edgeseg_runtime.tasks import Reader
from edgeseg_runtime.tasks.contract import check_outputs, describe, options_from_manifest, refuse
from edgeseg_runtime.tasks.inputs import PictureInput
from edgeseg_runtime.tasks.instances import InstanceTask
from edgeseg_runtime.tasks.instances import Options as InstanceOptions
from edgeseg_runtime.tasks.merge import Settled, settle_segments
from edgeseg_runtime.tasks.pixel_contest import Contenders, hold_contest, nearest_source

__all__ = ["CONTENDER_BOXES", "ContestTask", "Merged", "Options"]

Ids = npt.NDArray[np.int32]

CONTENDER_BOXES = "contender_boxes"
SEMANTIC = "semantic_logits"
_SETTLES_AT = ("source", "network")
_AXES: dict[str, tuple[str | int, ...]] = {
    SEMANTIC: ("classes", "h", "w"),
    CONTENDER_BOXES: ("N", 4),
    "contender_scores": ("N",),
    "contender_labels": ("N",),
    "contender_masks": ("N", "M", "M"),
}


@dataclass(frozen=True, kw_only=True)
class Options(InstanceOptions):
    """The `postprocess` entries of a manifest: those of the task `instances`, and six more.

    Attributes:
        num_stuff: number of stuff classes.
        overlap_threshold: a contender is dropped if more than this share of its mask is covered by
            better ones of its class.
        stuff_area: stuff of fewer pixels becomes void.
        settles_at: "source" if segments are settled in source pixels (UPSNet), "network" if in those of the resized
            picture, whose ids are then enlarged (VPSNet); counts for `stuff_area` where the picture was resized.
        has_unknown: whether pixels of a thing that no contender has become void (UPSNet).
        keeps_semantic: the result has the semantic map, too.
    """

    num_stuff: int = 0
    overlap_threshold: float = 0.3
    stuff_area: int = 4096
    settles_at: str = "source"
    has_unknown: bool = True
    keeps_semantic: bool = False


class Merged(NamedTuple):
    """The segments of a picture before they are a result.

    Attributes:
        settled: ids and segments in source pixels, in the numbers of the semantic classes.
        rows: of each segment the row of its contender, -1 for stuff.
        kept: rows of all contenders that took part, in their order.
        present: of those that won a pixel the number in `kept`, whatever their segment then became.
        semantic: (H, W) int32 best class of each source pixel.
        num_nonfinite: what was dropped because a number in it was NaN or infinite.
    """

    settled: Settled
    rows: tuple[int, ...]
    kept: tuple[int, ...]
    present: tuple[int, ...]
    semantic: Ids
    num_nonfinite: int


class ContestTask:
    """The task of UPSNet; `merge` and `result` are what others build on.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = _checked_options(manifest)
        _check_tensors(manifest, self.options)
        self._inputs = PictureInput(manifest)
        self._instances = _instance_task(manifest)
        self._num_things = len(manifest.labels) - 1 - self.options.num_stuff

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"ContestTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a picture and where it lies in them; see `inputs`.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
        """
        return self._inputs(image)

    def open_reader(self) -> Reader[Panoptic]:
        """Return `postprocess`: every picture is read alone."""
        return self.postprocess

    def postprocess(self, outputs: Tensors, geometry: Geometry) -> Panoptic:
        """Return the segments in source pixels, stuff first.

        A contender with a NaN or an infinite number in its box or mask is left out and counted. A NaN
        among the semantic logits loses its pixels to other classes, and the map counts once.
        """
        return self.result(self.merge(outputs, geometry), outputs, geometry)

    def merge(self, outputs: Tensors, geometry: Geometry) -> Merged:
        """Return the segments, each with the row of its contender."""
        rows, num_nonfinite = self.contender_rows(outputs)
        num_stuff = self.options.num_stuff
        classes = (outputs["contender_labels"][0][rows] + (num_stuff - 1)).tolist()
        logits = outputs[SEMANTIC][0].astype(np.float32, copy=False)
        contest = hold_contest(
            logits,
            Contenders(
                outputs[CONTENDER_BOXES][0][rows].astype(np.float32),
                classes,
                outputs["contender_masks"][0][rows].astype(np.float32),
            ),
            geometry,
            num_stuff=num_stuff,
            overlap=self.options.overlap_threshold,
            has_unknown=self.options.has_unknown,
        )
        semantic = nearest_source(contest.semantic, geometry)
        is_enlarged_first = self.options.settles_at == "source"
        channels = contest.channels
        if is_enlarged_first:
            channels = nearest_source(channels, geometry)
        won = np.flatnonzero(np.bincount(channels.ravel())[num_stuff:])
        settled = settle_segments(
            channels,
            semantic if is_enlarged_first else contest.semantic,
            [classes[number] for number in contest.kept],
            num_stuff=num_stuff,
            stuff_area=self.options.stuff_area,
        )
        if not is_enlarged_first:
            settled = _with_ids(settled, nearest_source(settled.ids, geometry))
        kept = tuple(int(rows[number]) for number in contest.kept)
        return Merged(
            settled,
            tuple(-1 if number < 0 else kept[number] for number in settled.instances),
            kept,
            tuple(int(number) for number in won if number < len(kept)),
            semantic,
            num_nonfinite + int(not np.isfinite(logits).all()),
        )

    def result(
        self,
        merged: Merged,
        outputs: Tensors,
        geometry: Geometry,
        *,
        track_ids: npt.NDArray[np.int64] | None = None,
    ) -> Panoptic:
        """Return the result of merged segments.

        Args:
            merged: from `merge`.
            outputs: of the model.
            geometry: of the picture.
            track_ids: of each segment; None for a model that does not track.
        """
        found = self._found_instances(outputs, geometry)
        rows = np.array(merged.rows, np.intp)
        is_thing = rows >= 0
        scores = np.ones(len(rows), np.float32)
        scores[is_thing] = outputs["contender_scores"][0][rows[is_thing]]
        semantic_labels = self._labels_of_classes()
        return Panoptic(
            merged.settled.ids,
            np.arange(1, 1 + len(rows)),
            semantic_labels[np.array(merged.settled.labels, np.intp)],
            is_thing,
            scores,
            track_ids=track_ids,
            semantic=(
                semantic_labels.astype(np.int32)[merged.semantic]
                if self.options.keeps_semantic
                else None
            ),
            instances=found,
            label_names=self.manifest.labels,
            category_ids=self.manifest.category_ids,
            num_nonfinite=merged.num_nonfinite + (0 if found is None else found.num_nonfinite),
        )

    def contender_rows(self, outputs: Tensors) -> tuple[npt.NDArray[np.intp], int]:
        """Return the rows above the score threshold that can be used, and how many cannot."""
        scores = outputs["contender_scores"][0]
        masks = outputs["contender_masks"][0]
        boxes = outputs[CONTENDER_BOXES][0]
        labels = outputs["contender_labels"][0]
        rows = np.flatnonzero(~(scores[: len(masks)] <= self.options.score_threshold))
        is_usable = np.isfinite(scores[rows]) & np.isfinite(masks[rows]).all(axis=(1, 2))
        is_usable &= (np.abs(boxes[rows]) < FAR).all(axis=1)
        is_usable &= (labels[rows] >= 1) & (labels[rows] <= self._num_things)
        return rows[is_usable], int((~is_usable).sum())

    def _found_instances(self, outputs: Tensors, geometry: Geometry) -> Instances | None:
        return None if self._instances is None else self._instances.postprocess(outputs, geometry)

    def _labels_of_classes(self) -> npt.NDArray[np.int64]:
        """Return the label number of each semantic class: stuff follows the things."""
        num_stuff = self.options.num_stuff
        stuff = 1 + self._num_things + np.arange(num_stuff)
        return np.concatenate([stuff, 1 + np.arange(self._num_things)])


def _with_ids(settled: Settled, ids: Ids) -> Settled:
    """Return the segments on another map, without those that have no pixel there."""
    has_pixels = np.bincount(ids.ravel(), minlength=len(settled.labels) + 1)[1:] > 0
    table = np.concatenate([[0], np.cumsum(has_pixels) * has_pixels]).astype(np.int32)
    rows = np.flatnonzero(has_pixels)
    return Settled(
        table[ids],
        tuple(settled.labels[row] for row in rows),
        tuple(settled.instances[row] for row in rows),
    )


def _checked_options(manifest: Manifest) -> Options:
    options = options_from_manifest(Options, manifest)
    values = vars(options)  # of whatever type a file gives them
    share = values["overlap_threshold"]
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        refuse(manifest, f"overlap_threshold {share!r}", "a number in 0..1")
    for name, low in (("stuff_area", 0), ("num_stuff", 1)):
        count = values[name]
        if isinstance(count, bool) or not isinstance(count, int) or not low <= count <= MAX_PIXELS:
            refuse(manifest, f"{name} {count!r}", f"a number in {low}..{MAX_PIXELS}")
    if values["settles_at"] not in _SETTLES_AT:
        refuse(manifest, f"settles_at {values['settles_at']!r}", f"one of {', '.join(_SETTLES_AT)}")
    for name in ("has_unknown", "keeps_semantic"):
        if not isinstance(values[name], bool):
            refuse(manifest, f"{name} {values[name]!r}", "true or false")
    return options


def _check_tensors(manifest: Manifest, options: Options) -> None:
    own = [spec for spec in manifest.outputs if spec.name in _AXES]
    specs = check_outputs(_with_outputs(manifest, own), _AXES, required=tuple(_AXES))
    spec = specs[SEMANTIC]
    if len(manifest.labels) != 1 + spec.shape[1] or options.num_stuff >= spec.shape[1]:
        refuse(
            manifest,
            f"{len(manifest.labels)} labels, num_stuff {options.num_stuff} and {describe(spec)}",
            "a label for the background and one for each class, of which some are things",
        )
    if manifest.preprocess.resize in SAMPLED_RESIZES:
        refuse(
            manifest,
            f"resize {manifest.preprocess.resize!r}",
            "a rule that puts the picture at the top left",
        )
    _check_factor(manifest, spec)


def _check_factor(manifest: Manifest, spec: TensorSpec) -> None:
    """Refuse logits that do not divide the network's input into equal squares."""
    size = manifest.preprocess.height, manifest.preprocess.width
    factor = max(size[0] // spec.shape[2], 1)
    if (factor * spec.shape[2], factor * spec.shape[3]) != size:
        refuse(
            manifest,
            f"output {describe(spec)} for an input of {size[0]}x{size[1]}",
            "both sides smaller by the same whole factor",
        )


def _instance_task(manifest: Manifest) -> InstanceTask | None:
    """Return the task of the outputs that are not the contest's; None without any."""
    others = [spec for spec in manifest.outputs if spec.name not in _AXES]
    if not others:
        return None
    known = {field.name for field in dataclasses.fields(InstanceOptions)}
    options = {key: value for key, value in manifest.postprocess.items() if key in known}
    alone = _with_outputs(manifest, others)
    return InstanceTask(dataclasses.replace(alone, task="instances", postprocess=options))


def _with_outputs(manifest: Manifest, outputs: Sequence[TensorSpec]) -> Manifest:
    """Return the manifest of a model of one graph that gives only these."""
    return dataclasses.replace(
        manifest,
        graphs=one_graph(manifest.inputs, tuple(outputs)),
        schedule=Schedule(),
        variants={},
    )
