"""Panoptic segmentation: every pixel to a thing or to stuff, from instances and a semantic map.

Outputs of a model that lays instances on stuff (Panoptic FPN): those of the task `instances`, masks among them, and

    semantic_logits (B, C, h, w): of a map that covers the network's input; class 0 is "some thing", classes 1 .. C - 1
    are the stuff, whose labels follow those of the things

A model whose instances compete with the stuff has an output contender_boxes: see `tasks/contest.py`. One that tracks
them has contender_embeddings, too: see `tasks/tracked.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.manifest import MAX_PIXELS, SAMPLED_RESIZES, Manifest, one_graph
from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.results import Panoptic
from edgeseg_runtime.tasks import Reader
from edgeseg_runtime.tasks.contest import CONTENDER_BOXES, ContestTask
from edgeseg_runtime.tasks.contract import describe, options_from_manifest, refuse
from edgeseg_runtime.tasks.instances import InstanceTask
from edgeseg_runtime.tasks.instances import Options as InstanceOptions
from edgeseg_runtime.tasks.merge import labels_from_logits, stack_segments
from edgeseg_runtime.tasks.tracked import CONTENDER_EMBEDDINGS, TrackedContestTask

__all__ = ["Options", "PanopticTask", "panoptic_task"]

Ids = npt.NDArray[np.int32]

SEMANTIC = "semantic_logits"


def panoptic_task(manifest: Manifest) -> PanopticTask | ContestTask | TrackedContestTask:
    """Return the task of the kind of head that a model has.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """
    names = {spec.name for spec in manifest.outputs}
    if CONTENDER_EMBEDDINGS in names:
        return TrackedContestTask(manifest)
    return ContestTask(manifest) if CONTENDER_BOXES in names else PanopticTask(manifest)


@dataclass(frozen=True, kw_only=True)
class Options(InstanceOptions):
    """The `postprocess` entries of a manifest: those of the task `instances`, and three more.

    Attributes:
        overlap_threshold: an instance is dropped if more than this share of it is covered by better ones.
        stuff_area: stuff of fewer pixels becomes void.
        keeps_semantic: the result has the semantic map, too.
    """

    overlap_threshold: float = 0.5
    stuff_area: int = 4096
    keeps_semantic: bool = False


class PanopticTask:
    """The task of Panoptic FPN.

    Raises:
        ManifestError: if the manifest's tensors or options are not those of the task.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.options = _checked_options(manifest)
        self._instances = InstanceTask(_manifest_of_instances(manifest))
        self._num_things = _num_things(manifest)

    def __repr__(self) -> str:
        size = f"{self.manifest.preprocess.height}x{self.manifest.preprocess.width}"
        return f"PanopticTask({self.manifest.name!r}, {size})"

    def preprocess(self, image: Image) -> tuple[Tensors, Geometry]:
        """Return the model's inputs for a picture and where it lies in them; see `inputs`.

        Raises:
            ImageError: if the picture is not (H, W, 3) uint8.
        """
        return self._instances.preprocess(image)

    def open_reader(self) -> Reader[Panoptic]:
        """Return `postprocess`: every picture is read alone."""
        return self.postprocess

    def postprocess(self, outputs: Tensors, geometry: Geometry) -> Panoptic:
        """Return the segments in source pixels.

        Instances are those of the task `instances`; a NaN among the semantic logits loses its pixel to
        other classes, and the map then counts once as not finite.
        """
        found = self._instances.postprocess(outputs, geometry)
        logits = outputs[SEMANTIC][0].astype(np.float32, copy=False)
        semantic = labels_from_logits(logits, geometry)
        stacked = stack_segments(
            found.mask_crops,
            semantic,
            overlap=self.options.overlap_threshold,
            stuff_area=self.options.stuff_area,
        )
        things = np.array(stacked.instances, np.intp)
        stuff = np.array(stacked.stuff, np.int64)
        return Panoptic(
            stacked.ids,
            np.arange(1, 1 + len(things) + len(stuff)),
            np.concatenate([found.labels[things], stuff + self._num_things - 1]),
            np.arange(len(things) + len(stuff)) < len(things),
            np.concatenate([found.scores[things], np.ones(len(stuff), np.float32)]),
            semantic=self._labels(semantic) if self.options.keeps_semantic else None,
            label_names=self.manifest.labels,
            category_ids=self.manifest.category_ids,
            num_nonfinite=found.num_nonfinite + int(not np.isfinite(logits).all()),
        )

    def _labels(self, semantic_HW: Ids) -> Ids:
        """Return label numbers for classes of the semantic map; -1 for its class 0, some thing."""
        shift = np.int32(self._num_things - 1)
        return np.where(semantic_HW == 0, np.int32(-1), semantic_HW + shift)


def _checked_options(manifest: Manifest) -> Options:
    options = options_from_manifest(Options, manifest)
    values = vars(options)  # of whatever type a file gives them
    share, area, keeps = (
        values[name] for name in ("overlap_threshold", "stuff_area", "keeps_semantic")
    )
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        refuse(manifest, f"overlap_threshold {share!r}", "a number in 0..1")
    if isinstance(area, bool) or not isinstance(area, int) or not 0 <= area <= MAX_PIXELS:
        refuse(manifest, f"stuff_area {area!r}", f"0 to {MAX_PIXELS} pixels")
    if not isinstance(keeps, bool):
        refuse(manifest, f"keeps_semantic {keeps!r}", "true or false")
    return options


def _num_things(manifest: Manifest) -> int:
    """Return the number of thing labels, which come before those of the stuff."""
    (spec,) = (spec for spec in manifest.outputs if spec.name == SEMANTIC)
    num_stuff = spec.shape[1] - 1
    if len(manifest.labels) <= num_stuff:
        refuse(
            manifest,
            f"{len(manifest.labels)} labels",
            f"those of things, then of the {num_stuff} stuff classes of {SEMANTIC}",
        )
    return len(manifest.labels) - num_stuff


def _manifest_of_instances(manifest: Manifest) -> Manifest:
    """Return the manifest of the instances alone, which their task reads."""
    specs = {spec.name: spec for spec in manifest.outputs}
    spec = specs.pop(SEMANTIC, None)
    if spec is None:
        refuse(manifest, f"outputs {sorted(specs)}", f"{SEMANTIC} among them")
    if "masks" not in specs:
        refuse(manifest, f"outputs {sorted(specs)}", "masks among them")
    if spec.dtype != "float32" or len(spec.shape) != 4 or spec.shape[1] < 2:
        refuse(manifest, f"output {describe(spec)}", f"{SEMANTIC} float32 [1, classes, h, w]")
    if manifest.preprocess.resize in SAMPLED_RESIZES:
        refuse(
            manifest,
            f"resize {manifest.preprocess.resize!r}",
            "a rule that puts the picture at the top left",
        )
    known = {field.name for field in dataclasses.fields(InstanceOptions)}
    return Manifest(
        name=manifest.name,
        task="instances",
        precision=manifest.precision,
        graphs=one_graph(manifest.inputs, tuple(specs.values())),
        preprocess=manifest.preprocess,
        postprocess={key: value for key, value in manifest.postprocess.items() if key in known},
        labels=manifest.labels,
        category_ids=manifest.category_ids,
    )
