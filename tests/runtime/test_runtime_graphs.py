"""Graphs and schedules: what does not fit together is refused by name, and bundles of schema 1 load."""

import dataclasses
import json

import numpy as np
import pytest
from fake_model import FakeBackend, instance_manifest, instance_outputs

from edgeseg_runtime.bundle.graphs import (
    Graph,
    Rows,
    Schedule,
    TensorSpec,
    check_graphs,
    fed_of,
    given_of,
    staying_outputs,
    taken_outputs,
)
from edgeseg_runtime.bundle.manifest import Manifest, Variant
from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.session import Route, Session, rows_found
from edgeseg_runtime.tasks import create_task


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=(1, *shape))


IMAGE = spec("image", 8, 8, 3, dtype="uint8")
SCORES, BOXES, MAP = spec("scores", 9), spec("boxes", 9, 4), spec("map", 2, 4)
ROWS = Rows(counts="scores", maximum=9, buckets=(3, 9))


def detect(**changes):
    arguments = {"inputs": (IMAGE,), "outputs": (SCORES, BOXES, MAP), "kept": ("map",)}
    return Graph(**{**arguments, **changes})


def stage(**changes):
    arguments = {
        "inputs": (MAP, spec("boxes", -1, 4)),
        "outputs": (spec("masks", -1, 5),),
        "takes": {"map": "detect.map", "boxes": "detect.boxes"},
        "rows": ROWS,
    }
    return Graph(**{**arguments, **changes})


def writer(name="new", **changes):
    arguments = {
        "inputs": (IMAGE,),
        "outputs": (SCORES, spec(name, 2, 4)),
        "writes": {name: "old"},
        "kept": (name,),
    }
    return Graph(**{**arguments, **changes})


def reader(**changes):
    arguments = {
        "inputs": (IMAGE, spec("before", 2, 4)),
        "outputs": (SCORES,),
        "reads": {"before": "old"},
    }
    return Graph(**{**arguments, **changes})


def schedule(*first, then=None, **changes):
    return Schedule(first=first, then=then or first, **changes)


STAGED = {"detect": detect(), "mask": stage()}
VIDEO = {"key": writer(), "step": reader()}
KEY_STEP = schedule("key", then=("step",))


@pytest.mark.parametrize(
    ("graphs", "order"),
    [
        ({"main": detect(kept=())}, schedule("main")),
        (STAGED, schedule("detect", "mask")),
        (VIDEO, KEY_STEP),
        ({"seed": writer(), "main": reader()}, schedule("seed", "main", then=("main",))),
    ],
    ids=["one", "stages", "key and step", "seed and main"],
)
def test_graphs_that_fit_are_accepted(graphs, order):
    if "seed" in graphs:
        graphs = {"seed": writer(outputs=(spec("new", 2, 4),)), "main": reader()}
    check_graphs(graphs, order)


REFUSED_ALONE = {
    "no inputs": (lambda: detect(inputs=()), "inputs is '0 tensors'; expected 1..256 tensors"),
    "no outputs": (
        lambda: detect(outputs=(), kept=()),
        "outputs is '0 tensors'; expected 1..256 tensors",
    ),
    "an input twice": (
        lambda: detect(inputs=(IMAGE, IMAGE)),
        "inputs is 'image'; expected each name once",
    ),
    "no spec": (lambda: detect(inputs=("image",)), "inputs[0] is 'image'; expected a TensorSpec"),
    "taken by no input": (
        lambda: stage(takes={"atlas": "detect.map"}),
        "takes is 'atlas'; expected one of boxes, map",
    ),
    "read by no input": (
        lambda: reader(reads={"atlas": "old"}),
        "reads is 'atlas'; expected one of before, image",
    ),
    "written by no output": (
        lambda: writer(writes={"atlas": "old"}),
        "writes is 'atlas'; expected one of new, scores",
    ),
    "taken and read": (
        lambda: reader(takes={"before": "key.new"}),
        "reads is 'before'; expected an input that is not taken as well",
    ),
    "one state twice": (
        lambda: writer(writes={"new": "old", "scores": "old"}),
        "writes is ['old', 'old']; expected each state tensor once",
    ),
    "kept and no output": (
        lambda: detect(kept=("atlas",)),
        "kept is 'atlas'; expected one of boxes, map, scores",
    ),
    "a state of no name": (
        lambda: writer(writes={"new": "a b"}),
        "writes is 'a b'; expected a name of letters",
    ),
    "rows and no free axis": (lambda: detect(rows=ROWS), "rows is Rows("),
    "a free axis and no rows": (
        lambda: stage(rows=None),
        "rows is None; expected given if and only if the second axis of a tensor is free (-1)",
    ),
    "rows that the picture gives": (
        lambda: stage(takes={"map": "detect.map"}),
        "inputs is 'boxes with free rows'; expected only taken or read ones to have them",
    ),
    "rows of another kind": (lambda: stage(rows=9), "rows is 9; expected a Rows"),
    "buckets without the maximum": (
        lambda: Rows(counts="scores", maximum=9, buckets=(3, 8)),
        "buckets is (3, 8); expected ascending numbers up to 9",
    ),
    "buckets beyond the maximum": (
        lambda: Rows(counts="scores", maximum=9, buckets=(9, 12)),
        "buckets[1] is 12; expected an integer in 1..9",
    ),
    "buckets out of order": (
        lambda: Rows(counts="scores", maximum=9, buckets=(5, 3, 9)),
        "expected ascending numbers up to 9",
    ),
    "no buckets": (
        lambda: Rows(counts="scores", maximum=9, buckets=()),
        "buckets is '0 numbers'; expected 1..16 numbers of rows",
    ),
    "no row": (
        lambda: Rows(counts="scores", maximum=0, buckets=(0,)),
        "maximum is 0; expected an integer in 1..32768",
    ),
    "a schedule of nothing": (
        lambda: Schedule(first=()),
        "first is '0 graphs'; expected 1..16 graphs",
    ),
    "a graph twice in a frame": (
        lambda: Schedule(then=("main", "main")),
        "then is ('main', 'main'); expected each graph once",
    ),
    "an interval of nothing": (
        lambda: Schedule(first_every=0),
        "first_every is 0; expected an integer in 1..2147483647",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED_ALONE.values(), ids=REFUSED_ALONE.keys())
def test_what_is_wrong_by_itself_is_refused(make, message):
    with pytest.raises(ManifestError) as caught:
        make()
    assert message in str(caught.value)


STAGES = schedule("detect", "mask")
REFUSED_TOGETHER = {
    "no graphs": ({}, schedule("main"), "graphs is '0 graphs'; expected 1..16 graphs"),
    "many graphs": (
        {f"g{n}": detect() for n in range(17)},
        schedule("g0"),
        "graphs is '17 graphs'; expected 1..16 graphs",
    ),
    "a dot in a name": (
        {"a.b": detect()},
        schedule("a.b"),
        "graphs is 'a.b'; expected a name without a dot",
    ),
    "no Graph": ({"main": 1}, schedule("main"), "graphs.main is 1; expected a Graph"),
    "unknown in the schedule": (
        STAGED,
        schedule("detect", "masks"),
        "schedule.first is 'masks'; expected one of detect, mask",
    ),
    "never run": (STAGED, schedule("detect"), "schedule is 'no mask'; expected every graph in it"),
    "taken before it is made": (
        STAGED,
        schedule("mask", "detect"),
        "graphs.mask.takes is 'detect.map'; expected what exists by then",
    ),
    "taken from another frame": (
        {
            "detect": detect(outputs=(SCORES, BOXES, MAP, spec("masks", 9, 5))),
            "mask": stage(outputs=(SCORES, BOXES, spec("masks", -1, 5))),
        },
        Schedule(first=("detect",), then=("mask",)),
        "graphs.mask.takes is 'detect.map'; expected what exists by then",
    ),
    "taken of another shape": (
        {"detect": detect(), "mask": stage(inputs=(spec("map", 2, 5), spec("boxes", -1, 4)))},
        STAGES,
        "graphs.mask.takes is 'float32 [1, 2, 4] for map'; expected float32 [1, 2, 5]",
    ),
    "taken of another dtype": (
        {
            "detect": detect(),
            "mask": stage(inputs=(spec("map", 2, 4, dtype="float16"), spec("boxes", -1, 4))),
        },
        STAGES,
        "expected float16 [1, 2, 4]",
    ),
    "taken with fewer rows than the stage runs with": (
        {"detect": detect(), "mask": stage(rows=Rows(counts="scores", maximum=12, buckets=(12,)))},
        STAGES,
        "graphs.mask.takes is 'float32 [1, 9, 4] for boxes'; expected float32 [1, 12, 4]",
    ),
    "rows counted by nothing": (
        {"detect": detect(), "mask": stage(rows=dataclasses.replace(ROWS, counts="found"))},
        STAGES,
        "graphs.mask.rows.counts is 'found'; expected an output float32 [1, 9], or longer, of an ",
    ),
    "rows counted by boxes": (
        {"detect": detect(), "mask": stage(rows=dataclasses.replace(ROWS, counts="boxes"))},
        STAGES,
        "graphs.mask.rows.counts is 'boxes'",
    ),
    "rows counted by what is kept": (
        {"detect": detect(kept=("map", "scores")), "mask": stage()},
        STAGES,
        "graphs.mask.rows.counts is 'scores'",
    ),
    "read before it is written": (
        VIDEO,
        schedule("step", then=("key",)),
        "graphs.step.reads is 'old'; expected what exists by then",
    ),
    "read in a first frame that does not write it": (
        VIDEO,
        schedule("step", "key"),
        "graphs.step.reads is 'old'; expected what exists by then",
    ),
    "read of another shape": (
        {"key": writer(), "step": reader(inputs=(IMAGE, spec("before", 9)))},
        KEY_STEP,
        "graphs.step.reads is 'float32 [1, 2, 4] for before'; expected float32 [1, 9]",
    ),
    "written in two shapes": (
        {
            "seed": writer(),
            "main": Graph(
                inputs=(IMAGE,),
                outputs=(BOXES, spec("other", 3)),
                writes={"other": "old"},
                kept=("other",),
            ),
        },
        schedule("seed", "main"),
        "graphs.main.writes is 'old'; expected one dtype and shape, without free rows",
    ),
    "free rows as state": (
        {"detect": detect(), "mask": stage(writes={"masks": "old"})},
        STAGES,
        "graphs.mask.writes is 'old'; expected one dtype and shape, without free rows",
    ),
    "one input in two forms": (
        {"detect": detect(), "other": detect(inputs=(spec("image", 9, 9, 3, dtype="uint8"),))},
        Schedule(first=("detect",), then=("other",)),
        "inputs is 'image in two forms'; expected one dtype and shape for each name",
    ),
    "one output twice in a frame": (
        {"detect": detect(), "other": detect()},
        schedule("detect", "other"),
        "outputs is 'scores'; expected each name from one graph of a frame",
    ),
    "other outputs in other frames": (
        {"key": writer(), "step": reader(outputs=(SCORES, BOXES))},
        KEY_STEP,
        "schedule is 'boxes in some frames only'; expected the same outputs in every frame",
    ),
}


@pytest.mark.parametrize(
    ("graphs", "order", "message"), REFUSED_TOGETHER.values(), ids=REFUSED_TOGETHER.keys()
)
def test_graphs_that_do_not_fit_are_refused(graphs, order, message):
    with pytest.raises(ManifestError) as caught:
        check_graphs(graphs, order)
    assert message in str(caught.value)


def test_what_comes_in_what_goes_out_and_what_stays():
    assert fed_of(STAGED) == (IMAGE,)
    assert [(s.name, s.shape) for s in given_of(STAGED, ("detect", "mask"))] == [
        ("scores", (1, 9)),
        ("boxes", (1, 9, 4)),
        ("masks", (1, 9, 5)),
    ]
    assert staying_outputs(STAGED, "detect") == taken_outputs(STAGED, "detect") == {"map", "boxes"}
    assert staying_outputs(STAGED, "mask") == set()
    assert (staying_outputs(VIDEO, "key"), taken_outputs(VIDEO, "key")) == ({"new"}, set())
    assert [graph.needs_state for graph in (*STAGED.values(), *VIDEO.values())] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(("rows", "bucket"), [(1, 3), (3, 3), (4, 9), (9, 9)])
def test_the_next_larger_bucket_holds_the_rows(rows, bucket):
    assert ROWS.bucket(rows) == bucket


@pytest.mark.parametrize(
    ("scores", "threshold", "rows"),
    [
        ([[0, 0, 0]], 0.0, 0),
        ([[0.9, 0.5, 0]], 0.0, 2),
        ([[0.9, 0.5, 0.1]], 0.5, 1),
        ([[0.9, 0.9, 0.9]], 0.0, 3),
        ([[0.9, 0, 0], [0.8, 0.7, 0]], 0.0, 2),
        ([[np.nan, 0.5, 0]], 0.0, 2),
        ([[np.nan, np.nan, np.nan]], 0.0, 0),
    ],
    ids=["none", "padding", "threshold", "all", "batch", "NaN first", "only NaN"],
)
def test_rows_reach_up_to_the_last_one_above_the_threshold(scores, threshold, rows):
    found = {"scores": np.array(scores, np.float32)}
    assert rows_found(found, Rows(counts="scores", maximum=3, buckets=(3,)), threshold) == rows


def test_a_stage_may_run_for_the_best_rows_only():
    best = Rows(counts="scores", maximum=2, buckets=(2,))
    check_graphs({"detect": detect(), "mask": stage(rows=best)}, STAGES)
    scores = np.float32([[0.9, 0.8, 0.7]])
    assert rows_found({"scores": scores}, best, 0.0) == 2
    assert rows_found({"scores": scores}, best, 0.85) == 1


@pytest.mark.parametrize(
    ("first_every", "numbers"),
    [(None, [0, 1, 2, 3, 4, 5]), (1, [0, 0, 0, 0, 0, 0]), (3, [0, 1, 2, 0, 1, 2])],
    ids=str,
)
def test_frames_count_from_the_last_key_frame(first_every, numbers):
    order, found = Schedule(first=("key",), then=("step",), first_every=first_every), [0]
    while len(found) < len(numbers):
        found.append(order.following(found[-1]))
    assert found == numbers
    assert [order.graphs(number) for number in (0, 1, 7)] == [("key",), ("step",), ("step",)]


# ---------------------------------------------------------------- in a manifest


def staged_manifest():
    plain = instance_manifest(rows=9, cells=5)
    boxes, scores, labels, masks = plain.outputs
    free = dataclasses.replace(boxes, name="boxes", shape=(-1, -1, 4))
    graphs = {
        "detect": Graph(inputs=plain.inputs, outputs=(boxes, scores, labels)),
        "mask": Graph(
            artifact="mask",
            weights="weights",
            inputs=(free,),
            outputs=(dataclasses.replace(masks, shape=(-1, -1, 5, 5)),),
            takes={"boxes": "detect.boxes"},
            rows=ROWS,
        ),
    }
    order = Schedule(first=("detect", "mask"), then=("detect", "mask"), first_every=7)
    return dataclasses.replace(plain, graphs=graphs, schedule=order)


def test_graphs_and_variants_survive_the_round_trip():
    manifest = staged_manifest()
    portrait = Variant(
        preprocess=dataclasses.replace(manifest.preprocess, height=64, width=48),
        graphs=manifest.graphs,
        schedule=manifest.schedule,
    )
    manifest = dataclasses.replace(manifest, variants={"portrait": portrait})
    found = Manifest.from_json(manifest.to_json())
    assert found == manifest
    assert found.graphs["mask"].rows == ROWS
    assert [view.preprocess.height for view in found.views] == [48, 64]
    assert all(view.variants == {} for view in found.views)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["graphs"]["mask"].update(shiny=1), "unknown key 'shiny' in graphs.mask"),
        (
            lambda d: d["graphs"]["mask"]["rows"].update(maximum="9"),
            "graphs.mask.rows.maximum is '9'; expected an integer",
        ),
        (
            lambda d: d["graphs"]["mask"]["takes"].update(boxes="detect.masks"),
            "graphs.mask.takes is 'detect.masks'; expected what exists by then",
        ),
        (lambda d: d["schedule"].update(first="detect"), "schedule.first is 'detect'; expected a"),
        (
            lambda d: d["graphs"]["mask"].update(takes=["boxes"]),
            "graphs.mask.takes is ['boxes']; expected an object",
        ),
        (lambda d: d.update(graphs={}), "graphs is '0 graphs'; expected 1..16 graphs"),
        (lambda d: d["graphs"]["mask"].update(weights="a b"), "graphs.mask.weights is 'a b'"),
    ],
    ids=["unknown key", "rows", "taken", "no list", "no object", "none", "weights"],
)
def test_a_document_whose_graphs_do_not_fit_is_refused(change, message):
    document = json.loads(staged_manifest().to_json())
    del document["digest"]
    change(document)
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(document))
    assert message in str(caught.value)


def test_a_document_of_schema_1_is_a_model_of_one_graph():
    manifest = instance_manifest()
    document = json.loads(manifest.to_json())
    for key in ("graphs", "schedule", "variants", "digest"):
        del document[key]
    document |= {
        "schema": "1.3",
        "inputs": [dataclasses.asdict(item) for item in manifest.inputs],
        "outputs": [dataclasses.asdict(item) for item in manifest.outputs],
        "state": [],
    }
    assert Manifest.from_json(json.dumps(document)) == manifest
    document["state"] = [{"name": "map"}]
    with pytest.raises(ManifestError, match=r"state is .*; expected an empty list, as every rel"):
        Manifest.from_json(json.dumps(document))


def variant_of(manifest, **changes):
    return Variant(**{"preprocess": manifest.preprocess, "graphs": manifest.graphs, **changes})


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a b": variant_of(instance_manifest())}, "variants is 'a b'; expected a name"),
        ({"p": 1}, "variants.p is 1; expected a Variant"),
        (
            {"p": variant_of(instance_manifest(joints=2))},
            "variants.p is 'another output keypoint_heatmaps'; expected the same outputs",
        ),
        (
            {f"v{n}": variant_of(instance_manifest()) for n in range(9)},
            "variants is '9 entries'; expected at most 8",
        ),
    ],
    ids=["name", "kind", "outputs", "many"],
)
def test_variants_that_do_not_fit_are_refused(variants, message):
    with pytest.raises(ManifestError) as caught:
        dataclasses.replace(instance_manifest(), variants=variants)
    assert message in str(caught.value)


# ---------------------------------------------------------------- variants at work


def one_found():
    return instance_outputs(
        boxes=[[0, 0, 8, 8]], scores=[0.9], labels=[1], masks=np.ones((1, 8, 8))
    )


def landscape_and_portrait():
    """Return a manifest of two shapes, and the routes that were opened so far."""
    own = instance_manifest(
        size=(48, 64), rows=1, preprocess={"resize": "letterbox", "min_size": None}
    )
    other = instance_manifest(
        size=(64, 48), rows=1, preprocess={"resize": "letterbox", "min_size": None}
    )
    manifest = dataclasses.replace(own, variants={"portrait": variant_of(other)})
    opened = []

    def open_variant(view):
        opened.append(view)
        return Route.of(view, create_task(view), FakeBackend(one_found()))

    predictor = Predictor(
        manifest, create_task(manifest), FakeBackend(one_found()), open_variant=open_variant
    )
    return predictor, opened


@pytest.mark.parametrize(
    ("size", "is_portrait"),
    [((48, 64), False), ((64, 48), True), ((1, 500), False), ((500, 1), True), ((100, 100), False)],
    ids=str,
)
def test_a_picture_goes_where_it_is_shrunk_least(size, is_portrait):
    predictor, opened = landscape_and_portrait()
    assert opened == [], "no engine is loaded before a picture needs it"
    for _ in range(3):
        result = predictor(np.zeros((*size, 3), np.uint8))
    assert len(opened) == is_portrait, "and then once"
    if min(size) > 1:
        height, width = (64, 48) if is_portrait else (48, 64)
        scale = min(height / size[0], width / size[1])
        assert result.boxes[0, 2] == pytest.approx(8 / scale)


def test_without_a_way_to_open_variants_a_predictor_is_refused():
    manifest = landscape_and_portrait()[0].manifest
    with pytest.raises(ValueError, match="fake has variants; give what opens them"):
        Predictor(manifest, create_task(manifest), FakeBackend(one_found()))


def test_closing_closes_every_shape_and_opens_none():
    predictor, opened = landscape_and_portrait()
    predictor(np.zeros((48, 64, 3), np.uint8))
    predictor.close()
    predictor.close()
    with pytest.raises(ValueError, match="the predictor is closed; load the bundle again"):
        predictor(np.zeros((64, 48, 3), np.uint8))
    assert opened == []
    assert predictor.backend.backend.num_closed == 1


class CountingState:
    def __init__(self, states):
        self.num_closed = 0
        states.append(self)

    def close(self):
        self.num_closed += 1


class StatefulBackend(FakeBackend):
    """Gives the same outputs, and counts the states that it opened."""

    def __init__(self, outputs, states):
        super().__init__(outputs)
        self.states = states

    def open_state(self):
        return CountingState(self.states)


def test_pictures_of_two_shapes_in_turns_make_one_state_for_each():
    own = staged_manifest()
    free = dataclasses.replace(own.preprocess, resize="letterbox", min_size=None)
    own = dataclasses.replace(own, preprocess=free)
    states = []
    found = {**one_found(), "masks": np.ones((1, 1, 5, 5), np.float32)}
    for name in ("boxes", "scores", "labels"):
        found[name] = np.repeat(found[name], 9, axis=1)
    found["scores"][:, 1:] = 0
    routes = {
        (48, 64): Route.of(own, create_task(own), StatefulBackend(found, states)),
        (64, 48): Route.of(own, create_task(own), StatefulBackend(found, states)),
    }
    with Session(routes.__getitem__) as session:
        for size in [(48, 64), (64, 48)] * 4:
            session(np.zeros((*size, 3), np.uint8))
        assert len(states) == 2
        assert all(state.num_closed == 0 for state in states)
    assert [state.num_closed for state in states] == [1, 1]
