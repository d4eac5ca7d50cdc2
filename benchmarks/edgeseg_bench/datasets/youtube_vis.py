"""Reads and writes clips in the file layout of YouTube-VIS."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg_bench.datasets.base import (
    Annotation,
    Category,
    Dataset,
    DatasetError,
    Sample,
    coco_from_parts,
)
from edgeseg_bench.datasets.coco_content import read_annotation_file
from edgeseg_bench.datasets.face_files import check_folder, check_limit, write_picture
from edgeseg_runtime.picture.image import read_image

SPLITS = ("valid", "train")
OTHER_NAMES = {"val": "valid"}
FILES = ("{split}/instances.json", "{split}.json", "instances_{split}.json")
LAYOUT = "Expected FOLDER/SPLIT/instances.json or FOLDER/SPLIT.json, and the frames in FOLDER/SPLIT/JPEGImages/VIDEO/."
REQUIRED_KEYS = {
    "videos": {"id", "file_names", "height", "width"},
    "annotations": {"id", "video_id", "category_id", "segmentations"},
    "categories": {"id", "name"},
}


class YoutubeVis:
    """The frames of YouTube-VIS, clip by clip, and the instances in them.

    An annotation is one instance in one frame; its "track_id" is the same in all frames. Frames are read when they are
    asked for and numbered from 1 in their order.

    Args:
        folder: see LAYOUT.
        split: "valid" (also "val") or "train"; None = valid.
        limit: use only the first frames; None = all.

    Raises:
        DatasetError: a file is missing, damaged or contradicts itself.
        ValueError: there is no such split, or the limit is not positive.
    """

    def __init__(
        self, folder: str | Path, split: str | None = None, *, limit: int | None = None
    ) -> None:
        split = OTHER_NAMES.get(split or "", split) or SPLITS[0]
        if split not in SPLITS:
            raise ValueError(f"YouTube-VIS has no split {split!r}: choose from {list(SPLITS)}.")
        check_limit(limit)
        self._folder = Path(folder)
        check_folder(self._folder, LAYOUT)
        self._split = split
        source = self._source()
        content = read_annotation_file(source, REQUIRED_KEYS)
        self._categories = tuple(content["categories"])
        tracks: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            tracks[annotation["video_id"]].append(annotation)
        self._frames = [
            (video, frame)
            for video in content["videos"]
            for frame in range(len(video["file_names"]))
        ][:limit]
        if not self._frames:
            raise DatasetError(f"{source} has no videos. {LAYOUT}")
        self._annotations: list[tuple[Annotation, ...]] = []
        next_id = 1
        for number, (video, frame) in enumerate(self._frames, 1):
            labelled = _labels_of(video, frame, tracks[video["id"]], source)
            self._annotations.append(
                tuple(
                    {"id": next_id + row, "image_id": number, **annotation}
                    for row, annotation in enumerate(labelled)
                )
            )
            next_id += len(labelled)

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"youtube-vis:{self._split}"

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories of the annotation file."""
        return self._categories

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Frame {index} of {len(self)}.")
        index %= len(self)
        video, frame = self._frames[index]
        path = self._folder / self._split / "JPEGImages" / video["file_names"][frame]
        image = read_image(path)
        if image.shape[:2] != (video["height"], video["width"]):
            raise DatasetError(
                f"{path} has {image.shape[0]} x {image.shape[1]} pixels (height x width), its annotations are for "
                f"{video['height']} x {video['width']}: use the original frames."
            )
        return Sample(
            image=image,
            image_id=index + 1,
            file_name=video["file_names"][frame],
            annotations=self._annotations[index],
            video_id=video["id"],
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth as a COCO data set; reads no frame."""
        images = [
            {
                "id": number,
                "file_name": video["file_names"][frame],
                "height": video["height"],
                "width": video["width"],
                "video_id": video["id"],
            }
            for number, (video, frame) in enumerate(self._frames, 1)
        ]
        annotations = (a for labelled in self._annotations for a in labelled)
        return coco_from_parts(images, annotations, self.categories)

    def _source(self) -> Path:
        candidates = [self._folder / pattern.format(split=self._split) for pattern in FILES]
        for path in candidates:
            if path.is_file():
                return path
        raise DatasetError(f"{self._folder} has no labels for {self._split!r}. {LAYOUT}")


def write_youtube_vis(dataset: Dataset, folder: str | Path, *, split: str = "valid") -> Path:
    """Write clips in the layout of YouTube-VIS; `youtube-vis:FOLDER:SPLIT` reads them back.

    Frames are written as PNG: nothing is lost, and readers go by the file's content. Annotations of stuff are left out.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
        ValueError: a picture does not belong to a clip, or an annotation has no track.
    """
    folder = Path(folder)
    videos: dict[int, dict[str, Any]] = {}
    tracks: dict[tuple[int, int], dict[str, Any]] = {}
    for sample in dataset:
        if sample.video_id is None:
            raise ValueError(
                f"{sample.file_name} does not belong to a clip; give a data set of clips."
            )
        video = videos.setdefault(
            sample.video_id,
            {
                "id": sample.video_id,
                "file_names": [],
                "height": sample.height,
                "width": sample.width,
            },
        )
        frame = len(video["file_names"])
        video["file_names"].append(f"{sample.video_id:06d}/{frame:05d}.png")
        write_picture(folder / split / "JPEGImages" / video["file_names"][-1], sample.image)
        for annotation in sample.annotations:
            if annotation.get("isthing", 1):
                _add_to_track(tracks, sample.video_id, frame, annotation)
    for (video_id, _), track in tracks.items():
        length = len(videos[video_id]["file_names"])
        for key in ("segmentations", "bboxes", "areas"):
            track[key] = [track[key].get(frame) for frame in range(length)]
    for video in videos.values():
        video["length"] = len(video["file_names"])
    categories = [category for category in dataset.categories if category.get("isthing", 1)]
    content = {
        "videos": list(videos.values()),
        "annotations": list(tracks.values()),
        "categories": categories,
    }
    target = folder / split / "instances.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content), encoding="utf-8")
    return folder


def _add_to_track(
    tracks: dict[tuple[int, int], dict[str, Any]],
    video_id: int,
    frame: int,
    annotation: Annotation,
) -> None:
    if "track_id" not in annotation:
        raise ValueError(f"An annotation, {annotation['id']}, has no track_id; expected clips.")
    track = tracks.setdefault(
        (video_id, annotation["track_id"]),
        {
            "id": len(tracks) + 1,
            "video_id": video_id,
            "category_id": annotation["category_id"],
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "segmentations": {},
            "bboxes": {},
            "areas": {},
        },
    )
    track["segmentations"][frame] = annotation["segmentation"]
    track["bboxes"][frame] = annotation["bbox"]
    track["areas"][frame] = annotation["area"]


def _labels_of(
    video: dict[str, Any], frame: int, tracks: list[dict[str, Any]], source: Path
) -> list[Annotation]:
    """Return the annotations of one frame, without ids."""
    found = []
    for track in tracks:
        for key in ("segmentations", "bboxes", "areas"):
            if key in track and len(track[key]) != len(video["file_names"]):
                raise DatasetError(
                    f"{source}: annotation {track['id']} has {len(track[key])} {key}, its video "
                    f"{len(video['file_names'])} frames. Download it again."
                )
        segmentation = track["segmentations"][frame]
        if segmentation is None:
            continue
        box = track["bboxes"][frame] if track.get("bboxes") else None
        box = [0.0, 0.0, 0.0, 0.0] if box is None else box
        area = track["areas"][frame] if track.get("areas") else None
        found.append(
            {
                "category_id": track["category_id"],
                "bbox": box,
                "area": float(np.prod(box[2:])) if area is None else area,
                "iscrowd": int(track.get("iscrowd", 0)),
                "segmentation": segmentation,
                "track_id": track["id"],
            }
        )
    return found
