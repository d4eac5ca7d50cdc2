"""The task of heads in which instances and stuff compete: what a result holds, and what manifests must hold."""

import numpy as np
import pytest
from fake_model import fake_predictor, task_manifest

from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.tasks import create_task
from edgeseg_runtime.tasks.contest import ContestTask

HEIGHT, WIDTH, ROWS, CELLS = 48, 64, 3, 8
LABELS = ("__background__", "cat", "dog", "sky", "ground")
OPTIONS = {"num_stuff": 2, "stuff_area": 100}
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
CONTENDERS = {
    "semantic_logits": (4, HEIGHT // 4, WIDTH // 4),
    "contender_boxes": (ROWS, 4),
    "contender_scores": (ROWS,),
    "contender_labels": (ROWS,),
    "contender_masks": (ROWS, CELLS, CELLS),
}
INSTANCES = {
    "boxes": (ROWS, 4),
    "scores": (ROWS,),
    "labels": (ROWS,),
    "masks": (ROWS, CELLS, CELLS),
}


def manifest(outputs=None, *, instances=False, **changes):
    """Return a manifest; an output that is None is left out."""
    shapes = {**CONTENDERS, **(INSTANCES if instances else {}), **(outputs or {})}
    arguments = {
        "size": (HEIGHT, WIDTH),
        "preprocess": {"resize": "stretch", "rounding": "floor"},
        "dtypes": {"contender_labels": "int32"},
        "postprocess": {**OPTIONS, **({"mask_paste": "expanded_box"} if instances else {})},
        "labels": LABELS,
        "category_ids": (0, 17, 18, 187, 191),
    }
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    return task_manifest("panoptic", known, **{**arguments, **changes})


def outputs(**changes):
    """Return a dog and, behind it, a cat, over sky and, from the middle on, ground."""
    logits = np.full((1, 4, HEIGHT // 4, WIDTH // 4), -9, np.float32)
    logits[0, 0, : HEIGHT // 8] = logits[0, 1, HEIGHT // 8 :] = 5
    logits[0, 3, 2:6, 2:6] = logits[0, 2, 2:6, 4:10] = 8
    arrays = {
        "semantic_logits": logits,
        "contender_boxes": np.array([[[8, 8, 23, 23], [16, 8, 39, 23], [0, 0, 0, 0]]], np.float32),
        "contender_scores": np.array([[0.9, 0.7, 0]], np.float32),
        "contender_labels": np.array([[2, 1, 0]], np.int32),
        "contender_masks": np.full((1, ROWS, CELLS, CELLS), 20, np.float32),
    }
    return {**arrays, **changes}


def test_stuff_comes_first_and_the_first_of_equal_things_wins():
    found = fake_predictor(manifest(), outputs())(IMAGE)
    assert [s.name for s in found.segments] == ["sky", "ground", "dog", "cat"]
    assert found.is_thing.tolist() == [False, False, True, True]
    np.testing.assert_allclose(found.scores, [1, 1, 0.9, 0.7])
    assert found.ids[10, 20] == 3
    assert found.ids[10, 30] == 4
    assert (found.ids[2, 2], found.ids[40, 2]) == (1, 2)
    assert found.instances is None
    assert found.records(1)[3]["category_id"] == 17


def test_contenders_below_the_threshold_do_not_compete():
    options = {**OPTIONS, "score_threshold": 0.8}
    found = fake_predictor(manifest(postprocess=options), outputs())(IMAGE)
    assert [s.name for s in found.segments] == ["sky", "ground", "dog"]


def test_without_contenders_the_stuff_is_left():
    logits = np.minimum(outputs()["semantic_logits"], 5)
    logits[:, 2:] = -9
    scores = np.zeros((1, ROWS), np.float32)
    nothing = outputs(contender_scores=scores, semantic_logits=logits)
    found = fake_predictor(manifest(), nothing)(IMAGE)
    assert [s.name for s in found.segments] == ["sky", "ground"]
    assert found.areas.sum() == HEIGHT * WIDTH
    task = create_task(manifest())
    _, geometry = task.preprocess(IMAGE)
    rows = np.zeros((1, 0, CELLS, CELLS), np.float32)  # the stage did not run
    assert len(task.postprocess({**nothing, "contender_masks": rows}, geometry)) == 2


def test_what_is_stuff_by_the_semantic_map_turns_into_it():
    logits = outputs()["semantic_logits"].copy()
    logits[:, 2:] = -9
    found = fake_predictor(manifest(), outputs(semantic_logits=logits))(IMAGE)
    assert [s.name for s in found.segments] == ["sky", "ground"]
    assert found.areas.sum() == HEIGHT * WIDTH


def test_a_thing_that_no_contender_has_is_void():
    logits = outputs()["semantic_logits"].copy()
    logits[0, 3, :, 12:] = 30
    found = fake_predictor(manifest(), outputs(semantic_logits=logits))(IMAGE)
    assert found.ids[2, 60] == 0
    options = {**OPTIONS, "has_unknown": False}
    found = fake_predictor(manifest(postprocess=options), outputs(semantic_logits=logits))(IMAGE)
    assert found.ids[2, 60] == 1


@pytest.mark.parametrize(("settles_at", "stuff"), [("source", ["sky", "ground"]), ("network", [])])
def test_the_area_of_stuff_counts_where_segments_are_settled(settles_at, stuff):
    options = {**OPTIONS, "stuff_area": 2000, "settles_at": settles_at}
    picture = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
    found = fake_predictor(manifest(postprocess=options), outputs())(picture)
    assert [s.name for s in found.segments] == [*stuff, "dog", "cat"]
    assert found.ids.shape == picture.shape[:2]


def test_a_settled_thing_without_a_pixel_in_the_source_is_left_out():
    boxes = np.array([[[9, 8, 10, 23], [16, 8, 39, 23], [0, 0, 0, 0]]], np.float32)
    logits = outputs()["semantic_logits"].copy()
    logits[0, 0] = 5
    given = outputs(contender_boxes=boxes, semantic_logits=logits)
    options = {**OPTIONS, "has_unknown": False, "settles_at": "network"}
    predictor = fake_predictor(manifest(postprocess=options), given)
    assert [s.name for s in predictor(IMAGE).segments][-2:] == ["dog", "cat"]
    found = predictor(np.ascontiguousarray(IMAGE[::4, ::4]))
    assert [s.name for s in found.segments] == ["sky", "cat"]
    assert (found.ids[3, 2], found.ids[3, 7]) == (1, 2)
    np.testing.assert_allclose(found.scores, [1, 0.7])


def test_the_semantic_map_has_label_numbers():
    options = {**OPTIONS, "keeps_semantic": True}
    logits = outputs()["semantic_logits"].copy()
    logits[0, 2, :, 12:] = 30
    found = fake_predictor(manifest(postprocess=options), outputs(semantic_logits=logits))(IMAGE)
    assert (found.semantic[2, 2], found.semantic[40, 2], found.semantic[2, 60]) == (3, 4, 1)


def test_numbers_that_are_not_finite_are_left_out_and_counted():
    boxes, masks = outputs()["contender_boxes"].copy(), outputs()["contender_masks"].copy()
    logits = outputs()["semantic_logits"].copy()
    boxes[0, 0, 0] = np.inf
    masks[0, 1, 0, 0] = np.nan
    logits[0, 1, 0, 0] = np.nan
    broken = outputs(contender_boxes=boxes, contender_masks=masks, semantic_logits=logits)
    found = fake_predictor(manifest(), broken)(IMAGE)
    assert [s.name for s in found.segments] == ["sky", "ground"]
    assert found.num_nonfinite == 3


def test_instances_come_beside_the_segments_and_are_filtered_with_them():
    detections = {
        "boxes": np.array([[[8, 8, 24, 24], [16, 8, 40, 24], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0.3, 0]], np.float32),
        "labels": np.array([[2, 1, 0]], np.int32),
        "masks": np.ones((1, ROWS, CELLS, CELLS), np.float32),
    }
    found = fake_predictor(manifest(instances=True), outputs(**detections))(IMAGE)
    assert [found.instances.label_name(row) for row in range(2)] == ["dog", "cat"]
    assert found.instances.masks[1][10, 20]
    assert found.instances.backend == found.backend != ""
    few = found.filter(score=0.5)
    assert (len(few.instances), len(few)) == (1, 4)
    assert "with instances" in repr(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": {"contender_masks": None}}, "expected contender_masks among them"),
        ({"outputs": {"contender_scores": (4,)}}, r"contender_scores float32 .*expected \[1, 3\]"),
        ({"labels": LABELS[1:], "category_ids": (1, 2, 3, 4)}, "has 4 labels, num_stuff 2"),
        ({"postprocess": {"num_stuff": 4}}, "num_stuff 4 and semantic_logits"),
        ({"postprocess": {}}, "num_stuff 0; expected a number in 1"),
        ({"postprocess": {**OPTIONS, "stuff_area": -1}}, "stuff_area -1; expected a number in 0"),
        ({"postprocess": {**OPTIONS, "settles_at": 1}}, "settles_at 1; expected one of source, "),
        ({"postprocess": {**OPTIONS, "has_unknown": 1}}, "has_unknown 1; expected true or false"),
        ({"postprocess": {**OPTIONS, "overlap_threshold": 2}}, "overlap_threshold 2; expected"),
        ({"outputs": {"semantic_logits": (4, 10, 16)}}, "smaller by the same whole factor"),
        (
            {"preprocess": {"resize": "center", "rounding": "floor"}},
            "resize 'center'; expected a rule that puts the picture at the top",
        ),
        ({"outputs": {"boxes": (ROWS, 4)}}, "expected scores among them"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(manifest(**changes))


def test_the_outputs_decide_which_task_it_is():
    assert isinstance(create_task(manifest()), ContestTask)
    assert "ContestTask('fake', 48x64)" in repr(create_task(manifest()))
