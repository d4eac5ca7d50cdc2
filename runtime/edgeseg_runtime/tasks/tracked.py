"""Panoptic segmentation of videos: a contest for each pixel, and identities that things keep from frame to frame (VPSNet).

Outputs of the model: those of `tasks/contest.py`, and

    contender_embeddings (B, N, E): what each contender looks like; those of one object have a large product
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import Manifest, Schedule, one_graph
from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results import Panoptic
from edgeseg_runtime.tasks import Reader
from edgeseg_runtime.tasks.contest import CONTENDER_BOXES, ContestTask, Merged
from edgeseg_runtime.tasks.contest import Options as ContestOptions
from edgeseg_runtime.tasks.contract import describe, options_from_manifest, refuse
from edgeseg_runtime.tasks.tracking import Detected, TrackRule, Tracks

__all__ = ["CONTENDER_EMBEDDINGS", "Options", "TrackedContestTask"]

Ints = npt.NDArray[np.int64]

CONTENDER_EMBEDDINGS = "contender_embeddings"
MAX_FRAMES = 10**9
_DUMMY_LABEL = -1
_NO_TRACK = -1


@dataclass(frozen=True, kw_only=True)
class Options(ContestOptions):
    """The `postprocess` entries of a manifest: those of a contest, and two more.

    Attributes:
        track_frames: an object that was not seen for more frames is forgotten, and gets another identity when it
            returns; 0 = never (VPSNet).
        original_ids: give identities as the original's scripts do, with two faults: an object that nobody sees stands for
            a frame without detections, and things behind one that won no pixel get the identity of another one.
    """

    track_frames: int = 0
    original_ids: bool = False


class TrackedContestTask:
    """The task of VPSNet.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = _checked_options(manifest)
        self.contest = ContestTask(_manifest_of_contest(manifest))

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"TrackedContestTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a picture and where it lies in them; see `inputs`.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
        """
        return self.contest.preprocess(image)

    def open_reader(self) -> Reader[Panoptic]:
        """Return the reader of a new stream, which holds its objects."""
        return TrackReader(self)


class TrackReader:
    """Reads the frames of one stream in their order."""

    def __init__(self, task: TrackedContestTask) -> None:
        self._task = task
        self.tracks = Tracks(TrackRule(max_unseen=task.options.track_frames))

    def __call__(self, outputs: Tensors, geometry: Geometry) -> Panoptic:
        """Return the segments in source pixels, stuff first; things have the `track_ids` of their objects.

        What `ContestTask` says of numbers that are not finite holds. A contender whose embedding is not finite is a new
        object that nothing finds again.
        """
        contest = self._task.contest
        rows, _ = contest.contender_rows(outputs)
        track_of_row = np.full(outputs[CONTENDER_BOXES].shape[1], _NO_TRACK, np.int64)
        track_of_row[rows] = self._follow(outputs, rows)
        merged = contest.merge(outputs, geometry)
        return contest.result(
            merged, outputs, geometry, track_ids=self._track_ids(merged, track_of_row)
        )

    def _follow(self, outputs: Tensors, rows: npt.NDArray[np.intp]) -> Ints:
        """Return the identities of contenders."""
        labels = outputs["contender_labels"][0][rows].astype(np.int64)
        scores = outputs["contender_scores"][0][rows].astype(np.float32)
        if self._task.options.original_ids and not len(rows):
            # The first empty row looks like the original's stand-in: its box is 0, 0, 0, 0.
            empty = np.zeros(1, np.intp)
            self.tracks.follow(
                self._detected(outputs, empty, np.ones(1, np.float32), np.full(1, _DUMMY_LABEL))
            )
            return np.zeros(0, np.int64)
        is_finite = np.isfinite(outputs[CONTENDER_EMBEDDINGS][0][rows]).all(axis=1)
        ids = np.empty(len(rows), np.int64)
        ids[is_finite] = self.tracks.follow(
            self._detected(outputs, rows[is_finite], scores[is_finite], labels[is_finite])
        )
        ids[~is_finite] = self.tracks.new_ids(int((~is_finite).sum()))
        return ids

    def _detected(
        self,
        outputs: Tensors,
        rows: npt.NDArray[np.intp],
        scores: npt.NDArray[np.float32],
        labels: Ints,
    ) -> Detected:
        return Detected(
            embeddings=outputs[CONTENDER_EMBEDDINGS][0][rows].astype(np.float32),
            boxes=outputs[CONTENDER_BOXES][0][rows].astype(np.float32),
            scores=scores,
            labels=labels,
        )

    def _track_ids(self, merged: Merged, track_of_row: Ints) -> Ints:
        """Return the identity of each segment, -1 for stuff."""
        rows = np.array(merged.rows, np.intp)
        track_ids = np.where(rows < 0, _NO_TRACK, track_of_row[rows])
        if not self._task.options.original_ids:
            return track_ids
        # The original looks identities of the kept contenders up by the place among those that won a pixel
        # (cityscapes_vps.py, get_unified_pan_result).
        kept = track_of_row[list(merged.kept)]
        for segment, number in enumerate(merged.settled.instances):
            if number >= 0:
                track_ids[segment] = kept[merged.present.index(number)]
        return track_ids


def _checked_options(manifest: Manifest) -> Options:
    options = options_from_manifest(Options, manifest)
    values = vars(options)  # of whatever type a file gives them
    frames, is_original = values["track_frames"], values["original_ids"]
    if isinstance(frames, bool) or not isinstance(frames, int) or not 0 <= frames <= MAX_FRAMES:
        refuse(manifest, f"track_frames {frames!r}", f"a number in 0..{MAX_FRAMES}")
    if not isinstance(is_original, bool):
        refuse(manifest, f"original_ids {is_original!r}", "true or false")
    return options


def _manifest_of_contest(manifest: Manifest) -> Manifest:
    """Return the manifest of a model that finds the same but has no embeddings."""
    specs = {spec.name: spec for spec in manifest.outputs}
    embeddings, boxes = specs.pop(CONTENDER_EMBEDDINGS), specs.get(CONTENDER_BOXES)
    rows = None if boxes is None else boxes.shape[1]
    if len(embeddings.shape) != 3 or rows not in (None, embeddings.shape[1]):
        refuse(manifest, f"output {describe(embeddings)}", f"[1, {rows}, numbers]")
    known = {field.name for field in dataclasses.fields(ContestOptions)}
    return dataclasses.replace(
        manifest,
        graphs=one_graph(manifest.inputs, tuple(specs.values())),
        schedule=Schedule(),
        variants={},
        postprocess={key: value for key, value in manifest.postprocess.items() if key in known},
    )
