"""Labelled data sets by name: "shapes" draws its own pictures, others read their standard file layouts."""

from __future__ import annotations

import functools
import importlib
import logging
from pathlib import Path

from edgeseg_bench.datasets.base import Annotation, Category, Dataset, DatasetError, Sample
from edgeseg_bench.datasets.checked import OnPicture, check_pictures

__all__ = [
    "Annotation",
    "Category",
    "Dataset",
    "DatasetError",
    "Sample",
    "open_dataset",
    "open_training_split",
]

SCHEMES = ("coco", "wider", "300w", "wflw", "cityscapes", "cityscapes-vps", "youtube-vis")
OPENERS = {
    "wider": "wider:open_wider",
    "300w": "ibug:open_300w",
    "wflw": "wflw:open_wflw",
    "cityscapes": "cityscapes:open_cityscapes",
    "cityscapes-vps": "cityscapes:open_cityscapes_vps",
    "youtube-vis": "youtube_vis:YoutubeVis",
}
"""Scheme -> "module:function" that opens it, imported on first use."""
KINDS = {"cityscapes": "panoptic", "cityscapes-vps": "panoptic", "youtube-vis": "instances"}
"""Scheme -> what is labelled, where these are not faces."""

_log = logging.getLogger(__name__)


def open_dataset(
    name: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    kind: str | None = None,
    on_picture: OnPicture | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        name: "shapes", or "SCHEME:FOLDER" or "SCHEME:FOLDER:SPLIT", where the scheme says which layout the
            folder has: "coco" (also "coco:FILE.json"), "wider" (WIDER FACE), "300w", "wflw", "cityscapes",
            "cityscapes-vps" or "youtube-vis".
        split: "train" or "val" for shapes, WIDER FACE and Cityscapes, such as "val2017" for COCO, "train", "full",
            "common", "challenging" or "private" for 300W, "train" or "test" for WFLW, "train" or "valid" for
            YouTube-VIS; None = the one for validation.
        limit: use only the first pictures; None = all.
        kind: what is labelled: "instances", "person_keypoints", "densepose", "faces" or "panoptic". Shapes draws pictures of
            it, or "clips" with segments or "instance_clips"; a COCO data set reads `annotations/KIND_SPLIT.json`; None = instances. The other schemes have
            one kind: faces, panoptic (Cityscapes) or instances (YouTube-VIS). Of files, clips of instances are instances.
        on_picture: read the pictures of files now and leave out those that cannot be read, see `check_pictures`.
            None = they are read when they are asked for, and one that cannot be read is an error then.

    Raises:
        ValueError: no data set has this name, or it has no such split or kind.
        DatasetError: the files on disk are not such a data set.
    """
    if name == "shapes" and kind in {"clips", "instance_clips"}:
        from edgeseg_bench.datasets.clips import ClipsDataset

        return ClipsDataset(split or "val", kind=kind, limit=limit)
    if name == "shapes":
        from edgeseg_bench.datasets.shapes import ShapesDataset

        return ShapesDataset(split or "val", kind=kind or "instances", limit=limit)
    scheme, _, place = name.partition(":")
    if scheme not in SCHEMES or not place:
        raise ValueError(
            f"There is no data set {name!r}: give 'shapes', 'coco:FOLDER' or 'coco:FOLDER:SPLIT', "
            f"or the same with {', '.join(SCHEMES[1:-1])} or {SCHEMES[-1]}."
        )
    folder, named_split = _split_place(place)
    if named_split and split and named_split != split:
        raise ValueError(f"{name!r} names the split {named_split!r}, but split is {split!r}.")
    dataset = _open_files(scheme, folder, named_split or split, limit=limit, kind=kind)
    return dataset if on_picture is None else check_pictures(dataset, on_picture=on_picture)


def open_training_split(
    name: str,
    *,
    limit: int | None = None,
    kind: str | None = None,
    on_picture: OnPicture | None = None,
) -> Dataset:
    """Open a data set's split for training, or the split that its name says.

    A data set without one is opened as `open_dataset` does, and a warning is logged.

    Args:
        name: see `open_dataset`; so are the others.
        limit: use only the first pictures; None = all.
        kind: what is labelled.
        on_picture: read the pictures now.

    Raises:
        ValueError: no data set has this name, or it has no such split or kind.
        DatasetError: the files on disk are not such a data set.
    """
    _, _, place = name.partition(":")
    opened = functools.partial(open_dataset, name, limit=limit, kind=kind, on_picture=on_picture)
    if place and (_split_place(place)[1] or Path(place).is_file()):
        return opened()
    try:
        return opened(split="train")
    except DatasetError as error:
        dataset = opened()
        _log.warning(
            "%s has no training split (%s) and %s is used: measure accuracy on other pictures",
            name,
            error,
            dataset.name,
        )
        return dataset


def _open_files(
    scheme: str, folder: Path, split: str | None, *, limit: int | None, kind: str | None
) -> Dataset:
    if kind == "instance_clips":
        kind = "instances"
    if scheme == "coco" and kind == "panoptic":
        from edgeseg_bench.datasets.coco_panoptic import open_coco_panoptic

        return open_coco_panoptic(folder, split, limit=limit)
    if scheme == "coco":
        from edgeseg_bench.datasets.coco import CocoDataset

        return CocoDataset(folder, split, limit=limit, kind=kind or "instances")
    own = KINDS.get(scheme, "faces")
    if kind not in {None, own}:
        raise ValueError(f"Data sets of {scheme!r} have labelled {own}, kind is {kind!r}.")
    module, _, name = OPENERS[scheme].partition(":")
    opener = getattr(importlib.import_module(f"edgeseg_bench.datasets.{module}"), name)
    dataset: Dataset = opener(folder, split, limit=limit)
    return dataset


def _split_place(place: str) -> tuple[Path, str | None]:
    """Separate FOLDER:SPLIT; a folder or file whose own name has a colon stays whole."""
    folder, colon, split = place.rpartition(":")
    if not colon or Path(place).exists() or "/" in split or "\\" in split:
        return Path(place), None
    return Path(folder), split
