"""Identities over the frames of a stream, against VPSNet's own walk through the detections."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg_runtime.tasks.tracking import Detected, TrackRule, Tracks

GOLDEN = Path(__file__).parents[1] / "golden" / "vpsnet" / "dev"


def detected(count, seed=0, *, num_labels=2, num_kinds=None):
    """Random detections; those of few kinds look alike, and contend."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(num_kinds or max(count, 1), size=count)
    corner = rng.uniform(0, 80, (count, 2))
    return Detected(
        embeddings=(np.eye(40)[kinds] * 3 + rng.normal(0, 0.3, (count, 40))).astype(np.float32),
        boxes=np.hstack([corner, corner + rng.uniform(0, 40, (count, 2))]).astype(np.float32),
        scores=np.sort(rng.uniform(0.6, 1, count))[::-1].astype(np.float32),
        labels=rng.integers(1, 1 + num_labels, count),
    )


class Walk:
    """The original's rules, detection by detection and object by object, in float64."""

    def __init__(self):
        self.objects = []  # embedding, box, label

    def follow(self, found):
        known = len(self.objects)
        ids = [None] * len(found.scores)
        best, holder = [-100.0] * known, [None] * known
        for row, score in enumerate(found.scores):
            fits = self._fits(found, row, score, known)
            claim = int(np.argmax(fits))
            me = [found.embeddings[row], found.boxes[row], found.labels[row]]
            if claim == 0:
                ids[row] = len(self.objects)
                self.objects.append(me)
            elif fits[claim] > best[claim - 1]:
                if holder[claim - 1] is not None:
                    ids[holder[claim - 1]] = None
                best[claim - 1], holder[claim - 1] = fits[claim], row
                ids[row] = claim - 1
                self.objects[claim - 1][:2] = me[:2]
        for row in range(len(ids)):
            if ids[row] is None:
                ids[row] = len(self.objects)
                self.objects.append([found.embeddings[row], found.boxes[row], found.labels[row]])
        return ids

    def _fits(self, found, row, score, known):
        # All objects as they were before this frame: the walk must not see what it has just replaced.
        if row == 0:
            self.before = [list(thing) for thing in self.objects[:known]]
        embedding = found.embeddings[row].astype(np.float64)
        match = np.array([0.0] + [embedding @ thing[0] for thing in self.before])
        fits = match - match.max() - np.log(np.exp(match - match.max()).sum()) + np.log(score)
        fits[0] += 10
        for number, (_, other, label) in enumerate(self.before, 1):
            box = found.boxes[row]
            low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
            common = np.prod(np.maximum(high - low + 1, 0))
            union = np.prod(box[2:] - box[:2] + 1) + np.prod(other[2:] - other[:2] + 1) - common
            fits[number] += 2 * common / union + 10 * (label == found.labels[row])
        return fits


@pytest.mark.parametrize("seed", range(5))
def test_contests_end_as_in_the_original_s_walk(seed):
    """With as many claims on one object as chance makes; frames without detections among them."""
    rng = np.random.default_rng(seed)
    tracks, walk = Tracks(), Walk()
    contested = 0
    for frame in range(8):
        found = detected(0 if frame == 5 else rng.integers(1, 25), 100 * seed + frame, num_kinds=12)
        ids, before = tracks.follow(found), len(walk.objects)
        assert ids.tolist() == walk.follow(found)
        contested += len(ids) - len(set(ids.tolist())) + int((ids >= before).sum())
    assert contested > 5
    assert len(tracks) == len(walk.objects)


@pytest.mark.parametrize("seed", range(3))
def test_no_identity_is_given_twice_in_a_frame(seed):
    tracks = Tracks(TrackRule(max_unseen=2))
    for frame in range(10):
        ids = tracks.follow(detected(20, 50 * seed + frame, num_kinds=4))
        assert len(np.unique(ids)) == 20


def alone(kind):
    """One detection, which nothing of another kind looks like."""
    return Detected(
        embeddings=10 * np.eye(3, dtype=np.float32)[[kind]],
        boxes=np.array([[5, 5, 20, 20]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([kind]),
    )


@pytest.mark.parametrize(("max_unseen", "expected"), [(0, 0), (3, 0), (2, 2)])
def test_objects_return_after_an_absence_unless_they_are_forgotten(max_unseen, expected):
    tracks = Tracks(TrackRule(max_unseen=max_unseen))
    found = [tracks.follow(alone(kind)).tolist() for kind in (0, 1, 1, 1, 0)]
    assert found == [[0], [1], [1], [1], [expected]]


def test_memory_is_bounded_by_what_was_seen_lately():
    """A thousand frames of strangers: no more are remembered than the last frames showed."""
    tracks, sizes = Tracks(TrackRule(max_unseen=5)), []
    for frame in range(1000):
        tracks.follow(detected(4, frame))
        sizes.append(len(tracks))
    assert max(sizes) <= 4 * 6
    assert tracks.new_ids(1)[0] > 100, "identities count on"


def test_the_original_s_frame_has_its_identities():
    """Frame 2 of VPSNet's recorded clip, from its own scores of each detection for each object."""
    case = json.loads((GOLDEN / "case.json").read_text(encoding="utf-8"))
    with np.load(GOLDEN / "outputs.npz") as arrays:
        before, boxes, labels, scores, ids, fits = (
            arrays[name]
            for name in (
                "f1_det_obj_ids", "f2_det_boxes", "f2_det_labels", "f2_det_scores", "f2_det_obj_ids",
                "f2_comp_score",
            )
        )  # fmt: skip
    assert case["config"]["match_coeff"] == [1.0, 2.0, 10.0]
    tracks = _GivenFitness(fits)
    tracks.follow(detected(fits.shape[1] - 1))  # as many objects
    found = tracks.follow(
        Detected(np.zeros((len(ids), 40), np.float32), boxes[:, 1:], scores, labels)
    )
    assert found.tolist() == ids.tolist()
    assert before.max() + 1 == fits.shape[1] - 1


class _GivenFitness(Tracks):
    """Takes the original's figures for its own from the second frame on."""

    def __init__(self, fitness):
        super().__init__()
        self.given = fitness

    def _fitness(self, found):
        return self.given if len(self) else super()._fitness(found)
