"""The panoptic task: from outputs of a model to segments, and what its manifests must hold."""

import tracemalloc

import numpy as np
import pytest
from fake_model import fake_predictor
from fake_panoptic import HEIGHT, OPTIONS, ROWS, WIDTH, panoptic_manifest, panoptic_outputs

from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.picture.geometry import Geometry
from edgeseg_runtime.tasks import create_task

IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


def test_things_lie_on_stuff_the_best_one_in_front():
    found = fake_predictor(panoptic_manifest(), panoptic_outputs())(IMAGE)
    assert [s.name for s in found.segments] == ["dog", "cat", "sky", "ground"]
    assert found.is_thing.tolist() == [True, True, False, False]
    np.testing.assert_allclose(found.scores, [0.9, 0.6, 1, 1])
    assert found.ids[10, 20] == 1
    assert found.ids[10, 30] == 2
    assert (found.ids[2, 2], found.ids[40, 2]) == (3, 4)
    assert found.areas.sum() == HEIGHT * WIDTH
    assert found.backend
    assert found.semantic is None
    assert found.records(1)[2]["category_id"] == 187


def test_a_picture_without_anything_is_void():
    semantic = np.zeros((1, 3, HEIGHT // 4, WIDTH // 4), np.float32)
    semantic[:, 0] = 1
    nothing = panoptic_outputs(semantic, scores=np.zeros((1, ROWS), np.float32))
    found = fake_predictor(panoptic_manifest(), nothing)(IMAGE)
    assert len(found) == 0
    assert found.ids.shape == (HEIGHT, WIDTH)


def test_what_has_a_low_score_or_little_area_is_left_out():
    options = {**OPTIONS, "score_threshold": 0.7, "stuff_area": HEIGHT * WIDTH // 2 - 200}
    found = fake_predictor(panoptic_manifest(postprocess=options), panoptic_outputs())(IMAGE)
    assert [s.name for s in found.segments] == ["dog", "ground"]
    assert found.ids[2, 2] == 0


def test_the_semantic_map_is_there_where_it_is_asked_for():
    semantic = panoptic_outputs()["semantic_logits"].copy()
    semantic[0, 0, :, :4] = 9
    options = {**OPTIONS, "keeps_semantic": True}
    found = fake_predictor(panoptic_manifest(postprocess=options), panoptic_outputs(semantic))(
        IMAGE
    )
    assert (found.semantic[2, 2], found.semantic[2, 60], found.semantic[40, 60]) == (-1, 2, 3)
    assert set(np.unique(found.semantic)) == {-1, 2, 3}


def test_numbers_that_are_not_finite_lose_and_are_counted():
    semantic = panoptic_outputs()["semantic_logits"].copy()
    semantic[0, 1, 0, 0] = np.nan
    boxes = panoptic_outputs()["boxes"].copy()
    boxes[0, 1, 0] = np.inf
    found = fake_predictor(panoptic_manifest(), panoptic_outputs(semantic, boxes=boxes))(IMAGE)
    assert [s.name for s in found.segments] == ["dog", "sky", "ground"]
    assert found.num_nonfinite == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": {"semantic_logits": None}}, "expected semantic_logits among them"),
        ({"outputs": {"masks": None}}, "expected masks among them"),
        (
            {"outputs": {"semantic_logits": ("float32", (1, 3, 12))}},
            r"expected semantic_logits float32 \[1, classes, h, w\]",
        ),
        ({"outputs": {"semantic_logits": ("int32", (1, 3, 12, 16))}}, "semantic_logits float32"),
        ({"classes": 5}, "has 4 labels; expected those of things, then of the 4 stuff classes"),
        ({"resize": "center"}, "resize 'center'; expected a rule that puts the picture at the top"),
        ({"postprocess": {**OPTIONS, "merge": "best"}}, "option 'merge'; expected one of"),
        ({"postprocess": {**OPTIONS, "overlap_threshold": 2}}, "overlap_threshold 2; expected a"),
        (
            {"postprocess": {**OPTIONS, "stuff_area": 0.5}},
            "stuff_area 0.5; expected 0 to 64000000 pixels",
        ),
        ({"postprocess": {**OPTIONS, "stuff_area": 2**40}}, "stuff_area 1099511627776; expected"),
        ({"postprocess": {**OPTIONS, "keeps_semantic": 1}}, "keeps_semantic 1; expected true or"),
        ({"outputs": {"other": ("float32", (1, 7))}}, "output other"),
    ],
)
def test_manifests_that_are_none_of_the_task_are_refused(changes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(panoptic_manifest(**changes))


def test_memory_has_no_room_for_a_map_of_each_class_or_instance():
    size, classes, instances = (1024, 2048), 54, 100
    spec = panoptic_manifest(
        size=size,
        classes=classes,
        labels=tuple(f"class {number}" for number in range(80 + classes - 1)),
        category_ids=tuple(range(80 + classes - 1)),
        outputs={
            "boxes": ("float32", (1, instances, 4)),
            "scores": ("float32", (1, instances)),
            "labels": ("int32", (1, instances)),
            "masks": ("float32", (1, instances, 28, 28)),
        },
    )
    task = create_task(spec)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.7, (instances, 2)) * (size[1], size[0])
    given = {
        "boxes": np.concatenate([corners, corners + 300], axis=1)[None].astype(np.float32),
        "scores": np.linspace(0.9, 0.5, instances, dtype=np.float32)[None],
        "labels": rng.integers(0, 80, (1, instances)).astype(np.int32),
        "masks": rng.random((1, instances, 28, 28), np.float32),
        "semantic_logits": rng.random((1, classes, size[0] // 4, size[1] // 4), np.float32),
    }
    geometry = Geometry.at_top_left(source=size, resized=size, network=size)
    tracemalloc.start()
    found = task.postprocess(given, geometry)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) > 20
    assert peak_bytes < 100e6 < instances * size[0] * size[1] < 4 * classes * size[0] * size[1]
