"""Segments with identities: the task of VPSNet on outputs that are known."""

import numpy as np
import pytest

from edgeseg_runtime import Manifest
from edgeseg_runtime.bundle.manifest import Preprocess, TensorSpec, one_graph
from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.tasks import create_task

SIZE = (32, 64)
ROWS, NUM_STUFF, NUM_THINGS = 4, 2, 2
PERSON, CAR = 1, 2
LABELS = ("__background__", "person", "car", "road", "sky")


def manifest(**changes):
    outputs = {
        "semantic_logits": (NUM_STUFF + NUM_THINGS, SIZE[0] // 4, SIZE[1] // 4),
        "contender_boxes": (ROWS, 4),
        "contender_scores": (ROWS,),
        "contender_labels": (ROWS,),
        "contender_masks": (ROWS, 28, 28),
        "contender_embeddings": (ROWS, 3),
        **changes.pop("outputs", {}),
    }
    postprocess = {
        "num_stuff": NUM_STUFF,
        "stuff_area": 1,
        "has_unknown": False,
        **changes,
    }
    return Manifest(
        name="fake",
        task="panoptic",
        precision="fp32",
        graphs=one_graph(
            (
                TensorSpec(name="image", dtype="uint8", shape=(1, *SIZE, 3)),
                TensorSpec(name="image_size", dtype="int32", shape=(1, 2)),
            ),
            tuple(
                TensorSpec(
                    name=name,
                    dtype="int32" if name == "contender_labels" else "float32",
                    shape=(1, *shape),
                )
                for name, shape in outputs.items()
            ),
        ),
        preprocess=Preprocess(height=SIZE[0], width=SIZE[1], resize="letterbox"),
        postprocess=postprocess,
        labels=LABELS,
        category_ids=tuple(range(len(LABELS))),
    )


def outputs_of(*things, semantic=0):
    """Outputs with these things (left, label, embedding[, mask logit]), each 12 pixels square, on one kind of stuff."""
    found = {
        "semantic_logits": np.full((1, NUM_STUFF + NUM_THINGS, 8, 16), -5, np.float32),
        "contender_boxes": np.zeros((1, ROWS, 4), np.float32),
        "contender_scores": np.zeros((1, ROWS), np.float32),
        "contender_labels": np.zeros((1, ROWS), np.int32),
        "contender_masks": np.full((1, ROWS, 28, 28), 20, np.float32),
        "contender_embeddings": np.zeros((1, ROWS, 3), np.float32),
    }
    found["semantic_logits"][0, semantic] = 5
    for row, (left, label, embedding, *logit) in enumerate(things):
        found["contender_boxes"][0, row] = left, 8, left + 11, 19
        found["contender_scores"][0, row] = 0.9 - 0.05 * row
        found["contender_labels"][0, row] = label
        found["contender_embeddings"][0, row] = embedding
        cells = slice(left // 4, -(-(left + 12) // 4))
        found["semantic_logits"][0, NUM_STUFF + label - 1, 2:5, cells] = 9
        found["contender_masks"][0, row] = logit or 20
    return found


RED, GREEN, BLUE = np.eye(3, dtype=np.float32) * 4


@pytest.fixture
def read():
    """(outputs, ..., **options of the task) -> results of the frames of one stream."""

    def read_all(*frames, **options):
        task = create_task(manifest(**options))
        _, geometry = task.preprocess(np.zeros((*SIZE, 3), np.uint8))
        reader = task.open_reader()
        return [reader(frame, geometry) for frame in frames]

    return read_all


def tracks(result):
    return {
        (segment.name, round(segment.box[0])): segment.track_id
        for segment in result.segments
        if segment.is_thing
    }


def test_things_keep_their_identity_and_stuff_has_none(read):
    first, second, third = read(
        outputs_of((0, PERSON, RED), (20, CAR, GREEN)),
        outputs_of((22, CAR, GREEN), (3, PERSON, RED), (40, PERSON, BLUE)),
        outputs_of((40, PERSON, BLUE)),
    )
    assert tracks(first) == {("person", 0): 0, ("car", 20): 1}
    assert tracks(second) == {("person", 3): 0, ("car", 22): 1, ("person", 40): 2}
    assert tracks(third) == {("person", 40): 2}
    (road,) = (segment for segment in first.segments if not segment.is_thing)
    assert (road.name, road.track_id) == ("road", None)


def test_a_stream_of_its_own_counts_from_zero(read):
    for _ in range(2):
        assert tracks(read(outputs_of((5, CAR, GREEN)))[0]) == {("car", 5): 0}


def test_a_frame_without_detections_is_stuff(read):
    frames = outputs_of(), outputs_of((5, CAR, GREEN)), outputs_of(), outputs_of((6, CAR, GREEN))
    empty, first, _, second = read(*frames)
    assert len(empty) == 1
    assert tracks(first) == {("car", 5): 0}
    assert tracks(second) == {("car", 6): 0}
    # The original's stand-in is the first object, and may be found again in the next empty frame.
    _, first, _, second = read(*frames, original_ids=True)
    assert tracks(first) == {("car", 5): 1}
    assert tracks(second) == {("car", 6): 1}


def test_what_was_not_seen_for_long_is_another_thing(read):
    car, nothing = outputs_of((5, CAR, GREEN)), outputs_of()
    results = read(car, nothing, nothing, car, track_frames=1)
    assert tracks(results[-1]) == {("car", 5): 1}
    results = read(car, nothing, nothing, car, track_frames=2)
    assert tracks(results[-1]) == {("car", 5): 0}


def test_the_original_mixes_up_identities_behind_one_that_wins_no_pixel(read):
    """Its list is indexed by the place among those that are seen."""
    things = [(0, PERSON, RED), (0, CAR, GREEN, 1), (30, PERSON, BLUE)]
    (result,) = read(outputs_of(*things))
    assert tracks(result) == {("person", 0): 0, ("person", 30): 2}
    (result,) = read(outputs_of(*things), original_ids=True)
    assert tracks(result) == {("person", 0): 0, ("person", 30): 1}


def test_an_embedding_that_is_not_finite_is_a_thing_that_nothing_finds_again(read):
    broken = outputs_of((0, PERSON, RED), (20, CAR, np.nan))
    results = read(outputs_of((20, CAR, GREEN)), broken, broken)
    assert [tracks(result)[("car", 20)] for result in results] == [0, 2, 3]
    assert [tracks(result)[("person", 0)] for result in results[1:]] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track_frames": -1}, "track_frames -1; expected a number in 0"),
        ({"track_frames": True}, "track_frames True; expected"),
        ({"original_ids": 1}, "original_ids 1; expected true or false"),
        ({"no_such": 1}, "option 'no_such'; expected one of .*track_frames"),
        ({"outputs": {"contender_embeddings": (ROWS + 1, 3)}}, r"expected \[1, 4, numbers\]"),
        ({"outputs": {"contender_embeddings": (ROWS,)}}, r"expected \[1, 4, numbers\]"),
    ],
)
def test_a_manifest_of_another_form_is_refused(changes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(manifest(**changes))
