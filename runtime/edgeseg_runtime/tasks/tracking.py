"""Follows objects from frame to frame by what they look like, their class, box and score (VPSNet, track_head.py).

Shape suffixes: N detections of a frame, M remembered objects, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Detected", "TrackRule", "Tracks"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEW = 0
"""The column of a detection that is not a remembered object."""
_NONE = -1


@dataclass(frozen=True, kw_only=True)
class TrackRule:
    """How well a detection fits a remembered object, and how long objects are remembered.

    Attributes:
        score_weight: of the logarithm of the detection's score.
        overlap_weight: of the boxes' intersection over union.
        label_weight: of the two having one class.
        max_unseen: an object that was not seen for more frames is forgotten; 0 = never. Ids are not used again.
    """

    score_weight: float = 1.0
    overlap_weight: float = 2.0
    label_weight: float = 10.0
    max_unseen: int = 0


@dataclass(frozen=True)
class Detected:
    """What a frame shows, the best one first.

    Attributes:
        embeddings: (N, E), finite.
        boxes: (N, 4) x1 y1 x2 y2, the pixel at x2 y2 included.
        scores: (N,) above 0.
        labels: (N,).
    """

    embeddings: Floats
    boxes: Floats
    scores: Floats
    labels: Ints


class Tracks:
    """The objects of one stream."""

    def __init__(self, rule: TrackRule | None = None) -> None:
        self._rule = rule or TrackRule()
        self._frame = 0
        self._next_id = 0
        self._embeddings_ME = np.zeros((0, 0), np.float32)
        self._boxes_M4 = np.zeros((0, 4), np.float32)
        self._labels_M = np.zeros(0, np.int64)
        self._ids_M = np.zeros(0, np.int64)
        self._seen_M = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids_M)

    def follow(self, found: Detected) -> Ints:
        """Return the identity of each detection of the next frame, (N,), none twice.

        Every detection claims the object that it fits best, or none; of several that claim one, the best fitting has it. All
        others are new objects: first those that claimed none, then those that lost.
        """
        self._frame += 1
        fitness_NC = self._fitness(found)
        claims_N = fitness_NC.argmax(axis=1)  # the first one of equal ones
        ids_N = np.full(len(claims_N), _NONE, np.int64)
        for claim in np.unique(claims_N[claims_N != NEW]):
            rows = np.flatnonzero(claims_N == claim)
            row = rows[fitness_NC[rows, claim].argmax()]
            ids_N[row] = self._ids_M[claim - 1]
            # The label of an object stays what it was at first, as in the original.
            self._embeddings_ME[claim - 1] = found.embeddings[row]
            self._boxes_M4[claim - 1] = found.boxes[row]
            self._seen_M[claim - 1] = self._frame
        has_lost = (claims_N != NEW) & (ids_N == _NONE)
        added = np.concatenate([np.flatnonzero(claims_N == NEW), np.flatnonzero(has_lost)])
        ids_N[added] = self.new_ids(len(added))
        self._remember(found, added, ids_N[added])
        self._forget()
        return ids_N

    def new_ids(self, count: int) -> Ints:
        """Return identities that no object has had, in rising order."""
        self._next_id += count
        return np.arange(self._next_id - count, self._next_id)

    def _fitness(self, found: Detected) -> Floats:
        """Return how well each detection fits "new" and each object, (N, 1 + M)."""
        rule = self._rule
        count = len(found.scores)
        likeness = np.zeros((count, 1 + len(self)), np.float32)
        if len(self):
            likeness[:, 1:] = found.embeddings @ self._embeddings_ME.T
        fitness = _log_softmax(likeness)
        fitness += rule.score_weight * np.log(found.scores)[:, None]
        fitness[:, 1:] += rule.overlap_weight * _overlaps(found.boxes, self._boxes_M4)
        has_label = found.labels[:, None] == self._labels_M
        fitness += rule.label_weight * np.pad(has_label, ((0, 0), (1, 0)), constant_values=True)
        return fitness

    def _remember(self, found: Detected, rows: Ints, ids: Ints) -> None:
        """Add objects, which are these rows of the detections."""
        embeddings = found.embeddings[rows]
        if not len(self):
            self._embeddings_ME = np.zeros((0, embeddings.shape[1]), np.float32)
        self._embeddings_ME = np.concatenate([self._embeddings_ME, embeddings])
        self._boxes_M4 = np.concatenate([self._boxes_M4, found.boxes[rows]])
        self._labels_M = np.concatenate([self._labels_M, found.labels[rows]])
        self._ids_M = np.concatenate([self._ids_M, ids])
        self._seen_M = np.concatenate([self._seen_M, np.full(len(rows), self._frame)])

    def _forget(self) -> None:
        if not self._rule.max_unseen:
            return
        is_kept = self._frame - self._seen_M <= self._rule.max_unseen
        if is_kept.all():
            return
        for name in ("_embeddings_ME", "_boxes_M4", "_labels_M", "_ids_M", "_seen_M"):
            setattr(self, name, getattr(self, name)[is_kept])


def _log_softmax(values_NC: Floats) -> Floats:
    shifted = values_NC - values_NC.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)


def _overlaps(boxes_N4: Floats, others_M4: Floats) -> Floats:
    """Return intersection over union, (N, M); boxes end at their last pixels."""
    low = np.maximum(boxes_N4[:, None, :2], others_M4[None, :, :2])
    high = np.minimum(boxes_N4[:, None, 2:], others_M4[None, :, 2:])
    common = np.clip(high - low + 1, 0, None).prod(axis=2)
    area, other = ((b[:, 2:] - b[:, :2] + 1).prod(axis=1) for b in (boxes_N4, others_M4))
    return np.asarray(common / (area[:, None] + other - common), np.float32)
