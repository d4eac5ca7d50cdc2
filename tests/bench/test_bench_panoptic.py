"""Panoptic quality of pictures and clips, and the agreement of two panoptic results."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.segment_files import annotations_of
from edgeseg_bench.metrics.panoptic import (
    SegmentLabel,
    SegmentMap,
    agreement_of_segments,
    map_from_records,
    match_segments,
    panoptic_quality,
    panoptic_scores,
    video_panoptic_quality,
    video_panoptic_scores,
)
from edgeseg_runtime.results import Panoptic

GOLDEN = Path(__file__).parents[1] / "golden" / "panoptic_quality"
ORIGINAL = json.loads((GOLDEN / "scores.json").read_text(encoding="utf-8"))
CATEGORIES = ORIGINAL["categories"]
IS_THING = {category["id"]: bool(category["isthing"]) for category in CATEGORIES}
SUFFIXES = {"All": "", "Things": "th", "Stuff": "st"}


def panoptic_of(ids, segments, **rows):
    """Return a result whose labels are the categories."""
    categories = [segment["category_id"] for segment in segments]
    return Panoptic(
        ids,
        np.array([segment["id"] for segment in segments], np.int64),
        np.array(categories, np.int64),
        np.array([IS_THING[category] for category in categories], np.bool_),
        **{"scores": np.ones(len(segments)), **rows},
    )


def golden_records(name):
    """Return labels, as a COCO data set, and results of a case of the original."""
    case = ORIGINAL["cases"][name]
    with np.load(GOLDEN / "scenes.npz") as arrays:
        truth, found = arrays[f"{name}:truth"], arrays[f"{name}:found"]
    images, annotations, results = [], [], []
    for index in range(len(truth)):
        height, width = truth[index].shape
        images.append({"id": index + 1, "height": height, "width": width})
        labelled, seen = case["truth"][index], case["found"][index]
        annotations += annotations_of(
            panoptic_of(truth[index], labelled),
            image_id=index + 1,
            is_crowd=[bool(segment["iscrowd"]) for segment in labelled],
        )
        results += panoptic_of(found[index], seen).records(index + 1)
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, results


@pytest.mark.parametrize("name", ORIGINAL["cases"])
def test_qualities_are_those_of_the_original(name):
    scores = panoptic_scores(*golden_records(name))
    expected = ORIGINAL["cases"][name]["scores"]
    for part, suffix in SUFFIXES.items():
        for quality in ("pq", "sq", "rq"):
            assert scores[f"{quality.upper()}{suffix}"] == pytest.approx(
                expected[part][quality], abs=1e-9
            ), (part, quality)


@pytest.mark.parametrize("name", ["everything", "crowd"])
def test_each_category_has_the_quality_of_the_original(name):
    truth, results = golden_records(name)
    for category in CATEGORIES:
        scores = panoptic_scores({**truth, "categories": [category]}, results)
        expected = ORIGINAL["cases"][name]["scores"]["per_class"][str(category["id"])]
        if scores["PQ"] is None:
            assert category["name"] == "cow, never there"
            continue
        assert [scores[key] for key in ("PQ", "SQ", "RQ")] == pytest.approx(
            [expected[key] for key in ("pq", "sq", "rq")], abs=1e-9
        )


def test_the_cases_hold_what_can_go_wrong():
    kinds = {
        name: {
            "crowd": any(s["iscrowd"] for picture in case["truth"] for s in picture),
            "void": case["scores"]["All"]["rq"] < 1,
        }
        for name, case in ORIGINAL["cases"].items()
    }
    assert kinds["crowd"]["crowd"]
    assert kinds["everything"] == {"crowd": True, "void": True}
    assert ORIGINAL["cases"]["equal"]["scores"]["All"]["pq"] == 1
    assert ORIGINAL["cases"]["nothing found"]["scores"]["All"]["pq"] == 0


def test_nothing_labelled_and_nothing_found_has_no_quality():
    empty = SegmentMap(numbers=np.zeros((4, 5), np.int32), segments=())
    assert set(panoptic_quality([(empty, empty)], CATEGORIES).values()) == {None}
    assert set(panoptic_quality([], CATEGORIES).values()) == {None}


def test_results_of_another_picture_are_refused():
    maps = [SegmentMap(numbers=np.zeros((4, w), np.int32), segments=()) for w in (5, 6)]
    with pytest.raises(ValueError, match=r"The labels are \(4, 5\) pixels, the result \(4, 6\)"):
        match_segments(*maps)


def test_half_of_a_segment_is_no_match():
    numbers = np.ones((1, 4), np.int32)
    truth = SegmentMap(numbers=numbers, segments=(SegmentLabel(category_id=1, area=4),))
    half = SegmentMap(
        numbers=np.array([[1, 1, 0, 0]]), segments=(SegmentLabel(category_id=1, area=2),)
    )
    matches = match_segments(truth, half)
    assert (matches.same, matches.false_negatives, matches.false_positives) == ((), (0,), (0,))


# ---------------------------------------------------------------- clips


def clip_records(name, *, swaps=0):
    """Return a golden case as one clip, in which segments with one id are one tube."""
    truth, results = golden_records(name)
    truth = {**truth, "images": [{**image, "video_id": 3} for image in truth["images"]]}
    rng = np.random.default_rng(0)
    for record in (*truth["annotations"], *results):
        record["track_id"] = record["segment_id"] + int(rng.integers(0, 1 + swaps))
    return truth, results


def tall_picture(truth, results, images):
    """Return frames of a clip below each other, as one picture: an independent way to see tubes."""
    maps = []
    for records in (truth["annotations"], results):
        tubes, rows = {}, []
        for image in images:
            own = [r for r in records if r["image_id"] == image["id"]]
            frame = map_from_records(own, (image["height"], image["width"]))
            table = np.zeros(1 + len(own), np.int32)
            for number, record in enumerate(own, 1):
                track = record["track_id"] if record["isthing"] else "stuff"
                key = (record["category_id"], record.get("iscrowd", 0), track)
                table[number] = tubes.setdefault(key, len(tubes) + 1)
            rows.append(table[frame.numbers])
        numbers = np.concatenate(rows)
        areas = np.bincount(numbers.ravel(), minlength=len(tubes) + 1)[1:].tolist()
        segments = tuple(
            SegmentLabel(category_id=category, is_crowd=bool(is_crowd), area=area)
            for (category, is_crowd, _), area in zip(tubes, areas, strict=True)
        )
        maps.append(SegmentMap(numbers=numbers, segments=segments))
    return tuple(maps)


@pytest.mark.parametrize("name", ["moved", "everything"])
def test_a_window_is_one_tall_picture(name):
    truth, results = clip_records(name)
    scores = video_panoptic_scores(truth, results)
    images = truth["images"]
    windows = {}
    for length in (1, 2, 3, 4):
        pairs = [
            tall_picture(truth, results, images[first : first + length])
            for first in range(len(images) - length + 1)
        ]
        expected = panoptic_quality(pairs, CATEGORIES)
        windows[length] = expected["PQ"]
        for suffix in ("", "th", "st"):
            assert scores[f"VPQ{length}{suffix}"] == pytest.approx(
                expected[f"PQ{suffix}"], abs=1e-12
            )
    assert scores["VPQ"] == pytest.approx(np.mean(list(windows.values())))
    assert scores["VPQ2"] != pytest.approx(scores["VPQ1"], abs=1e-3)


def test_a_window_of_one_frame_is_a_picture():
    truth = open_dataset("shapes", kind="clips", limit=3).coco()
    results = [{**a, "image_id": 1 + a["image_id"] % 3} for a in truth["annotations"]]
    scores, expected = video_panoptic_scores(truth, results), panoptic_scores(truth, results)
    assert 0 < scores["VPQ1"] < 1
    assert scores["VPQ1"] == pytest.approx(expected["PQ"], abs=1e-12)
    assert scores["VPQ1th"] == pytest.approx(expected["PQth"], abs=1e-12)


def test_equal_clips_are_perfect_and_lost_identities_cost_only_longer_windows():
    truth, _ = clip_records("everything")
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    equal = [{**a, "score": 1.0} for a in truth["annotations"]]
    perfect = video_panoptic_scores(truth, equal)
    assert {value for value in perfect.values() if value is not None} == {1.0}
    same_everywhere = [{**a, "track_id": 7} for a in truth["annotations"]]
    followed = {**truth, "annotations": same_everywhere}
    lost = [{**r, "track_id": 100 + r["image_id"]} for r in equal]
    scores = video_panoptic_scores(followed, lost)
    assert scores["VPQ2th"] < 1
    assert scores["VPQ4th"] < scores["VPQ2th"] or scores["VPQ4th"] == 0


def test_windows_stay_within_their_clip():
    truth, results = clip_records("moved")
    assert len(truth["images"]) == 4
    apart = [{**image, "video_id": index // 2} for index, image in enumerate(truth["images"])]
    scores = video_panoptic_scores({**truth, "images": apart}, results)
    assert scores["VPQ3"] is None
    assert scores["VPQ"] == pytest.approx(np.mean([scores["VPQ1"], scores["VPQ2"]]))
    by_hand = [tall_picture(truth, results, truth["images"][first : first + 2]) for first in (0, 2)]
    assert scores["VPQ2"] == pytest.approx(panoptic_quality(by_hand, CATEGORIES)["PQ"])
    assert set(video_panoptic_quality([], CATEGORIES).values()) == {None}


# ---------------------------------------------------------------- agreement


def scene(sky=0.5, cat=0.9, cats=1, category=1, moved=0):
    """Return a sky over void, and cats of some score in it."""
    ids = np.zeros((20, 40), np.int32)
    ids[:10] = 1
    for number in range(cats):
        left = 2 + 12 * number + moved
        ids[12:18, left : left + 8] = 2 + number
    segments = [{"id": 1, "category_id": 90}]
    segments += [{"id": 2 + n, "category_id": category} for n in range(cats)]
    return panoptic_of(ids, segments, scores=np.array([sky] + [cat] * cats))


IMAGES = [{"id": 1, "height": 20, "width": 40}]


def agreement(reference, candidate, **options):
    return agreement_of_segments(
        reference.records(1), candidate.records(1), images=IMAGES, **options
    )


def test_a_result_agrees_with_itself():
    found = agreement(scene(), scene(), kinds=("pq", "vpq"))
    assert found.ap == {"pq": 1.0, "vpq": 1.0}
    assert (found.num_reference, found.num_matched, found.num_label_flips) == (2, 2, 0)
    assert (found.mean_iou, found.score_mae, found.count_delta) == (1.0, 0.0, 0)
    assert found.worst[0].quality == 1


@pytest.mark.parametrize(
    ("candidate", "ap", "flips", "delta"),
    [
        (scene(cats=0), 0.5, 0, -1),
        (scene(cats=2), (1 + 1 / 1.5) / 2, 0, 1),  # the second one lies on what is void
        (scene(category=3), 1 / 3, 1, 0),
        (scene(moved=2), (1 + 36 / 60) / 2, 0, 0),
    ],
    ids=["one is missing", "one more", "another category", "moved"],
)
def test_what_differs_costs_agreement(candidate, ap, flips, delta):
    found = agreement(scene(), candidate)
    assert found.ap["pq"] == pytest.approx(ap)
    assert (found.num_label_flips, found.count_delta) == (flips, delta)
    assert found.worst[0].quality < 1


def test_what_the_reference_is_not_sure_of_is_not_judged():
    unsure = scene(cat=0.1)
    assert agreement(unsure, scene(cats=0)).ap["pq"] == 1
    assert agreement(unsure, unsure).ap["pq"] == 1
    assert agreement(unsure, scene(cats=1)).ap["pq"] == 1


def test_nothing_to_compare_is_told_from_nothing_found():
    void = Panoptic.empty((20, 40))
    assert agreement(void, void).ap == {"pq": None}
    assert agreement(void, scene()).ap == {"pq": 0.0}
    assert agreement(scene(), void).ap == {"pq": 0.0}
