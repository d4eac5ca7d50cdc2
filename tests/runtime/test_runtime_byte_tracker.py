"""Tracking: identities stay with their objects, and go where results go."""

import json

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, instance_manifest, instance_outputs, task_manifest
from tiny_bundle import HEIGHT, WIDTH

from edgeseg_runtime import ByteTracker, Instances
from edgeseg_runtime.__main__ import main
from edgeseg_runtime.results.draw import colour_from_number

pytest.importorskip("trackers")


def moving(number, *, scores=(0.9, 0.8), order=(0, 1)):
    """Two boxes that move towards one another, in any order."""
    boxes = np.float32(
        [[10 + 4 * number, 20, 40 + 4 * number, 50], [150 - 4 * number, 80, 190, 120]]
    )
    rows = list(order)
    found = Instances(boxes[rows], np.float32(scores)[rows], [1, 2], image_size=(200, 300))
    return found.replace(labels=found.labels[rows])


def ids(tracker, frames):
    return [tracker.update(found).track_ids.tolist() for found in frames]


def test_an_object_keeps_its_identity_whatever_its_row():
    found = ids(ByteTracker(), [moving(0), moving(1), moving(2, order=(1, 0)), moving(3)])
    assert found == [[-1, -1], [1, 2], [2, 1], [1, 2]]
    assert ids(ByteTracker(min_frames=1), [moving(0), moving(1)])[1] in ([1, 2], [-1, -1])


def test_a_detection_that_becomes_unsure_stays_what_it_was():
    frames = [moving(0), moving(1), moving(2, scores=(0.9, 0.3)), moving(3)]
    assert ids(ByteTracker(), frames)[2:] == [[1, 2], [1, 2]]
    unsure = [moving(n, scores=(0.9, 0.3)) for n in range(3)]
    assert ids(ByteTracker(), unsure)[2] == [1, -1], "an unsure one begins no track"


def test_frames_without_anything_and_short_absences_are_borne():
    none = moving(0)[:0]
    found = ids(ByteTracker(), [none, moving(0), moving(1), none, none, moving(4), none])
    assert found == [[], [-1, -1], [1, 2], [], [], [1, 2], []]
    lost = ids(ByteTracker(lost_seconds=0), [moving(0), moving(1), none, moving(3), moving(4)])
    assert lost[-1] == [3, 4], "what was away for too long is another one"


def test_a_new_stream_gives_new_identities():
    tracker = ByteTracker()
    first = ids(tracker, [moving(0), moving(1)])
    tracker.reset()
    assert ids(tracker, [moving(0), moving(1)]) == [[-1, -1], [3, 4]]
    assert first[1] == [1, 2]
    other = [moving(n).replace(image_size=(201, 300)) for n in range(2)]
    assert ids(tracker, other) == [[-1, -1], [5, 6]], "a frame of another size begins one"


def test_everything_else_of_a_result_stays():
    found = moving(0).replace(extra={"fill": [0.5, 0.25]}, label_names=("", "cat", "dog"))
    tracked = ByteTracker().update(found)
    assert "track_id" not in tracked.records(1)[0]
    assert [r | {"track_id": 0} for r in tracked.records(1)] == [
        r | {"track_id": 0} for r in found.records(1)
    ]


def test_what_has_no_identity_is_drawn_like_its_class_and_written_without_one():
    found = moving(0).replace(track_ids=[7, -1])
    assert [record.get("track_id") for record in found.records(1)] == [7, None]
    assert [entry.get("track_id") for entry in found.to_dict()["detections"]] == [7, None]
    drawn = found.draw(np.zeros((200, 300, 3), np.uint8), labels=False, scores=False)
    assert (drawn[40, 10] == colour_from_number(7)).all()
    assert (drawn[100, 150] == colour_from_number(2)).all()
    captions = [
        found.replace(track_ids=i).draw(np.zeros((200, 300, 3), np.uint8))
        for i in ([7, -1], [7, -2])
    ]
    np.testing.assert_array_equal(*captions)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(
        ValueError, match="min_frames 0 found; expected more than 0, at least 0, at least 1"
    ):
        ByteTracker(min_frames=0)


# ---------------------------------------------------------------- streams


def test_a_stream_is_tracked(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    outputs = instance_outputs(
        boxes=[[1, 1, 30, 30], [31, 10, 60, 40]],
        scores=[0.9, 0.8],
        labels=[1, 1],
        masks=np.ones((2, 8, 8)),
    )
    predictor = fake_predictor(instance_manifest(rows=2), outputs)
    found = [r.track_ids.tolist() for r in predictor.stream(tmp_path, tracker=ByteTracker())]
    assert found == [[-1, -1], [1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        (
            "landmarks",
            {"points": (2, 2), "scores": (2,)},
            "of the task 'landmarks'; expected one of",
        ),
        (
            "instances",
            {"boxes": (3, 4), "scores": (3,), "labels": (3,), "track_ids": (3,)},
            "fake gives identities itself; leave tracking out",
        ),
    ],
)
def test_a_model_that_cannot_be_followed_is_refused(tmp_path, task, outputs, message):
    preprocess = {"resize": "stretch", "rounding": "floor"}
    dtypes = {"track_ids": "int32"} if "track_ids" in outputs else None
    manifest = task_manifest(task, outputs, preprocess=preprocess, dtypes=dtypes)
    predictor = fake_predictor(manifest, {n: np.zeros((1, *s), "f4") for n, s in outputs.items()})
    with pytest.raises(ValueError, match=message):
        predictor.stream_frames(tmp_path, tracker=ByteTracker())


def test_run_writes_and_draws_identities(tiny, tmp_path):
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    writer.release()
    out = tmp_path / "out"
    arguments = ("run", tiny, clip, "-o", out, "--track", "--save-lines", "-q")
    assert main([str(argument) for argument in arguments]) == 0
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text("utf-8").splitlines()]
    found = [[entry.get("track_id") for entry in line["detections"]] for line in lines]
    assert found == [[None] * 3, [1, 2, None], [1, 2, None]], "the third one is unsure"
    records = json.loads((out / "predictions.json").read_text("utf-8"))
    assert {record.get("track_id") for record in records} == {None, 1, 2}
