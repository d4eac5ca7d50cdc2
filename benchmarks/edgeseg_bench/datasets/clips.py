"""Short drawn videos of the shapes data set: landscapes with moving figures, their identities, the exact flow."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgeseg_bench.datasets import landscapes
from edgeseg_bench.datasets.base import Category, Sample, coco_from_samples
from edgeseg_bench.datasets.face_files import check_limit
from edgeseg_bench.datasets.landscapes import Flow, Landscape

NUM_FRAMES = 12
"""Of a clip."""
SPLIT_SIZES = {"train": 1_000, "val": 50}
"""Clips."""
KINDS = ("clips", "instance_clips")
SEED_NUMBER = 1_000  # where other kinds of pictures have their place in KINDS


class ClipsDataset:
    """The frames of the clips of one split, clip after clip.

    A frame is a pure function of (seed, split, index). Its "video_id" is the number of the clip, from 1; segments of one
    figure have the same "track_id" in all frames of a clip, also after it has been away.

    Args:
        split: "train" or "val"; no clip is in both.
        kind: what is labelled: "clips" for all segments, "instance_clips" for the figures alone.
        limit: use only the first frames; None = all.
        seed: another seed is another, disjoint data set.

    Raises:
        ValueError: there is no such split or kind, or the limit is not positive.
    """

    def __init__(
        self,
        split: str = "val",
        *,
        kind: str = "clips",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if split not in SPLIT_SIZES:
            raise ValueError(
                f"Data set shapes has no split {split!r}: choose from {list(SPLIT_SIZES)}."
            )
        if kind not in KINDS:
            raise ValueError(f"There are no clips of kind {kind!r}: choose from {list(KINDS)}.")
        check_limit(limit)
        self.split = split
        self.kind = kind
        self.seed = seed
        size = NUM_FRAMES * SPLIT_SIZES[split]
        self._length = min(limit or size, size)

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"shapes:{self.split}:{self.kind}"

    @property
    def categories(self) -> tuple[Category, ...]:
        """COCO categories, with "isthing"."""
        return tuple(filter(self._is_labelled, landscapes.CATEGORIES))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        clip, frame = self._place(index)
        landscape = self.landscape(clip)
        canvas_HW3, numbers_HW = landscapes.view(landscape, frame)
        image_id = clip * NUM_FRAMES + frame + 1
        annotations = landscapes.panoptic_annotations(landscape, numbers_HW, image_id=image_id)
        return Sample(
            image=landscapes.photographed(landscape, canvas_HW3, self._rng(clip, 1 + frame)),
            image_id=image_id,
            file_name=f"{clip + 1:04d}/{frame:05d}.png",
            annotations=tuple(filter(self._is_labelled, annotations)),
            video_id=clip + 1,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self._length))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth as a COCO data set; draws every frame."""
        return coco_from_samples(self, self.categories)

    def landscape(self, clip: int) -> Landscape:
        """Return what is drawn in clip number `clip`, from 0."""
        return _landscape(self.seed, list(SPLIT_SIZES).index(self.split), clip)

    def flow(self, index: int, other: int) -> Flow:
        """Return where the pixels of one frame are in another one of the same clip.

        Args:
            index: of the frame that the pixels are of.
            other: of the frame they are looked for in, such as the one before.

        Raises:
            ValueError: the frames are of different clips.
        """
        (clip, frame), (other_clip, other_frame) = self._place(index), self._place(other)
        if clip != other_clip:
            raise ValueError(
                f"Frame {index} is of clip {clip}, frame {other} of clip {other_clip}: give two of one clip."
            )
        return landscapes.flow(self.landscape(clip), frame, other_frame)

    def _is_labelled(self, entry: Mapping[str, Any]) -> bool:
        """Tell whether a category or annotation is of the kind."""
        return self.kind == "clips" or bool(entry["isthing"])

    def _place(self, index: int) -> tuple[int, int]:
        if not -self._length <= index < self._length:
            raise IndexError(f"Frame {index} of {self._length}.")
        return divmod(index % self._length, NUM_FRAMES)

    def _rng(self, clip: int, number: int) -> np.random.Generator:
        split_number = list(SPLIT_SIZES).index(self.split)
        return np.random.default_rng((self.seed, split_number, clip, SEED_NUMBER, number))


@functools.lru_cache(maxsize=16)
def _landscape(seed: int, split_number: int, clip: int) -> Landscape:
    rng = np.random.default_rng((seed, split_number, clip, SEED_NUMBER, 0))
    return landscapes.invent_landscape(rng, num_frames=NUM_FRAMES)
