"""Average precision of surfaces: the numbers of the official evaluation, and what it is made of."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg_bench.metrics.surfaces import (
    SurfaceModel,
    condensed,
    iuv_of_record,
    point_similarity,
    surface_ap,
)

FOLDER = Path(__file__).parent.parent / "golden" / "densepose_gps"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))["cases"]
MEAN_DISTANCES = [0, 0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150]
COARSE_PARTS = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 8, 8]


class PairwiseDistances:
    """A distance for every pair, by its number: that of the recording."""

    def __getitem__(self, numbers):
        return (numbers * 2654435761 % 1000) / 2500.0


def surface_model(case):
    arrays = {name: np.array(values) for name, values in case["model"].items()}
    scales = np.array(MEAN_DISTANCES)[COARSE_PARTS]
    return SurfaceModel(**arrays, distances=PairwiseDistances(), scales=scales)


@pytest.mark.parametrize("mode", ["gps", "gpsm"])
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_average_precision_is_that_of_the_official_evaluation(case, mode):
    before = copy.deepcopy(case)
    found = surface_ap(
        case["truth"], case["records"], model=surface_model(case), masks=mode == "gpsm"
    )
    expected = case["expected"][mode]["stats"]
    assert 0.1 < expected["AP"] < 0.9
    for name, value in found.items():
        undefined = expected[name] == -1
        assert value == (None if undefined else pytest.approx(expected[name], abs=1e-9)), name
    assert case == before


def test_similarities_are_those_of_the_official_evaluation():
    case = CASES[0]
    model, truth = surface_model(case), case["truth"]
    num_compared = 0
    for image, table in zip(truth["images"], case["expected"]["gps"]["similarity"], strict=True):
        persons = [p for p in truth["annotations"] if p["image_id"] == image["id"]]
        found = [r for r in case["records"] if r["image_id"] == image["id"]]
        found.sort(key=lambda record: -record["score"])
        for record, row in zip(found, table if persons else [], strict=False):
            for person, expected in zip(persons, row, strict=True):
                if "dp_x" in person:
                    assert point_similarity(person, record, model) == pytest.approx(expected)
                    num_compared += 1
    assert num_compared > 20


def test_pairs_are_numbered_row_by_row_below_the_diagonal():
    pairs = np.array([(i, j) for i in range(6) for j in range(i)])
    np.testing.assert_array_equal(condensed(*pairs.T), np.arange(len(pairs)))
    np.testing.assert_array_equal(condensed(*pairs.T[::-1]), np.arange(len(pairs)))


def test_nothing_found_and_nothing_labelled():
    case = CASES[0]
    model, truth = surface_model(case), case["truth"]
    assert surface_ap(truth, [], model=model)["AP"] == 0
    empty = {**truth, "annotations": []}
    assert set(surface_ap(empty, case["records"], model=model).values()) == {None}


def test_a_person_without_a_surface_is_similar_to_nobody():
    case = CASES[0]
    record = {k: v for k, v in case["records"][0].items() if k != "densepose"}
    assert (iuv_of_record(record) == 0).all()
    person = case["truth"]["annotations"][0]
    assert point_similarity(person, record, surface_model(case)) == 0


@pytest.mark.parametrize(
    "stored",
    [{}, {"shape_chw": [3, 2, 2], "labels_uv_str": "AAAA"}, [1]],
    ids=["nothing", "no PNG", "a list"],
)
def test_a_record_that_holds_no_surface_is_refused(stored):
    record = {"bbox": [0, 0, 2, 2], "densepose": stored}
    with pytest.raises(ValueError, match="expected shape_chw and labels_uv_str, as Inst"):
        iuv_of_record(record)
