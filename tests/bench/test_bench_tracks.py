"""Track scores: HOTA and IDF1 of what a tracker makes of labelled clips."""

import numpy as np
import pytest

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.clips import NUM_FRAMES
from edgeseg_bench.metrics.tracks import track_scores
from edgeseg_runtime import ByteTracker, Instances

pytest.importorskip("trackers")


def followed(*track_ids):
    boxes = [[0, 0, 10, 10], [20, 20, 40, 40]]
    return Instances(boxes, [0.9, 0.8], [1, 1], track_ids=track_ids)


TRUTH = [{70: [0, 0, 10, 10], 5: [20, 20, 20, 20]}] * 4


@pytest.mark.parametrize(
    ("found", "idf1"),
    [
        ([(1, 2)] * 4, 1.0),
        ([(8, 3)] * 4, 1.0),
        ([(1, 2), (1, 2), (2, 1), (2, 1)], 0.5),
        ([(1, 2), (1, 2), (1, 3), (1, 3)], 0.75),
        ([(1, -1)] * 4, 2 / 3),
    ],
    ids=["same", "other numbers", "swapped half-way", "one lost half-way", "one without"],
)
def test_scores_fall_where_identities_change(found, idf1):
    scores = track_scores(TRUTH, [followed(*ids) for ids in found])
    assert scores["IDF1"] == pytest.approx(idf1)
    assert (scores["HOTA"] == pytest.approx(1)) == (idf1 == 1)


def test_results_without_identities_are_refused():
    with pytest.raises(ValueError, match="a result has no track_ids; expected those of a tracker"):
        track_scores(TRUTH[:1], [Instances([[0, 0, 1, 1]], [0.5], [1])])


def test_identities_on_drawn_clips_are_those_of_the_labels():
    """Labelled boxes, moved by some pixels and given in another order, with scores and without some."""
    rng = np.random.default_rng(0)
    dataset = open_dataset("shapes", kind="instance_clips", limit=4 * NUM_FRAMES)
    tracker, truth, found = ByteTracker(frames_per_second=10), [], []
    for number, sample in enumerate(dataset):
        if number % NUM_FRAMES == 0:
            tracker.reset()
        entries = sample.annotations
        truth.append({e["track_id"] + 1000 * (number // NUM_FRAMES): e["bbox"] for e in entries})
        rows = [row for row in rng.permutation(len(entries)) if rng.random() > 0.05]
        xywh = np.reshape([entries[row]["bbox"] for row in rows], (-1, 4)) + rng.normal(
            0, 1, (len(rows), 4)
        )
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + np.maximum(xywh[:, 2:], 1)], axis=1)
        size = (sample.height, sample.width)
        scores = rng.uniform(0.7, 1, len(rows))
        found.append(
            tracker.update(Instances(boxes, scores, np.ones(len(rows), int), image_size=size))
        )
    scores = track_scores(truth, found)
    assert scores["IDF1"] > 0.75
    shuffled = [f.replace(track_ids=rng.permutation(len(f)) + 1) for f in found]
    assert track_scores(truth, shuffled)["IDF1"] < scores["IDF1"] - 0.2
