"""Identities over the frames of a video, for models that give none: ByteTrack, by the library trackers."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.results import Instances

__all__ = ["ByteTracker", "Tracker", "check_trackable"]

Found = TypeVar("Found")


class Tracker(Protocol[Found]):
    """Follows the objects of one stream."""

    def update(self, found: Found) -> Found:
        """Return the same result of the next frame with `track_ids`, negative where there is none."""
        ...

    def reset(self) -> None:
        """Begin a new stream."""
        ...


class ByteTracker:
    """Follows instances by their boxes: what overlaps where an object was expected is that object.

    Sure detections are matched first, unsure ones then continue tracks that are left. An object gets
    its identity when it was seen in `min_frames` frames in a row; until then, and for unsure detections
    that belong to no track, `track_ids` has -1. Labels take no part in the matching. Identities are not
    given twice, also after `reset`.

    Args:
        activation: score from which on a detection may begin a track.
        sure: score from which on a detection is matched among the first.
        min_iou: overlap with the expected box that a match needs.
        lost_seconds: for how long a track without a match is kept.
        min_frames: in how many frames in a row an object is seen before it has an identity.
        frames_per_second: of the video.

    Raises:
        ModuleNotFoundError: if trackers is not installed.
        ValueError: for a number that makes no sense.
    """

    def __init__(
        self,
        *,
        activation: float = 0.7,
        sure: float = 0.6,
        min_iou: float = 0.1,
        lost_seconds: float = 1.0,
        min_frames: int = 2,
        frames_per_second: float = 30.0,
    ) -> None:
        if not (frames_per_second > 0 and lost_seconds >= 0 and min_frames >= 1):
            raise ValueError(
                f"frames_per_second {frames_per_second}, lost_seconds {lost_seconds}, min_frames {min_frames} "
                "found; expected more than 0, at least 0, at least 1"
            )
        try:
            library = import_library("trackers")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"tracking needs the library trackers ({error}): pip install trackers"
            ) from error
        self._detections = import_library("supervision").Detections
        self._tracker: Any = library.ByteTrackTracker(
            lost_track_buffer=round(30 * lost_seconds),  # the library counts frames at 30 a second
            frame_rate=frames_per_second,
            track_activation_threshold=activation,
            minimum_consecutive_frames=min_frames,
            minimum_iou_threshold=min_iou,
            high_conf_det_threshold=sure,
        )
        self._num_given = self._last_id = 0
        self._size: tuple[int, int] | None = None

    def update(self, found: Instances) -> Instances:
        """Return the instances of the next frame with `track_ids`; a frame of another size begins anew."""
        if found.image_size != self._size:
            self.reset()
            self._size = found.image_size
        given = self._detections(
            xyxy=found.boxes.astype(np.float64),
            confidence=found.scores.copy(),
            class_id=found.labels.copy(),
            data={"row": np.arange(len(found))},
        )
        tracked = self._tracker.update(given)
        track_ids = np.full(len(found), -1, np.int64)
        if len(tracked):  # in another order, and without a row where nothing is followed
            track_ids[tracked.data["row"]] = self._numbered(tracked.tracker_id)
        return found.replace(track_ids=track_ids)

    def reset(self) -> None:
        """Begin a new stream; its identities follow those that were given."""
        self._tracker.reset()
        self._num_given = self._last_id
        self._size = None

    def _numbered(self, track_ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return identities from 1 on, after those of earlier streams; the library's begin at 0."""
        ids = np.where(track_ids >= 0, track_ids + 1 + self._num_given, -1).astype(np.int64)
        self._last_id = max(self._last_id, int(ids.max(initial=0)))
        return ids


def check_trackable(manifest: Manifest) -> None:
    """Refuse a model whose results cannot be followed, or that follows them itself.

    Raises:
        ValueError: it is one.
    """
    names = {spec.name for spec in manifest.outputs}
    if manifest.task != "instances":
        raise ValueError(
            f"{manifest.name} is a model of the task {manifest.task!r}; expected one of the task 'instances', "
            "whose boxes can be followed"
        )
    if "track_ids" in names:
        raise ValueError(f"{manifest.name} gives identities itself; leave tracking out")
