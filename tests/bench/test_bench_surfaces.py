"""Average precision of surfaces: the numbers of the official evaluation, and what it is made of."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from edgeseg_bench.datasets.base import DatasetError
from edgeseg_bench.datasets.matlab import write_matlab
from edgeseg_bench.metrics.agreement import agreement_ap
from edgeseg_bench.metrics.surface_files import load_surface_model
from edgeseg_bench.metrics.surfaces import (
    MAP_SCALE,
    SurfaceModel,
    condensed,
    iuv_of_record,
    map_similarity,
    point_similarity,
    surface_ap,
)
from edgeseg_runtime.results.surfaces import Surface

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


# ---------------------------------------------------------------- agreement of two results


def surface_record(part=3, u=0.5, *, left=10, top=20, size=(8, 6), score=0.9, image_id=1):
    """A person all of whose box shows one point of a part."""
    values = np.full(size, u, np.float32)
    surface = Surface(left, top, np.full(size, part, np.uint8), values, values)
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": [left + 0.4, top + 0.2, *size[::-1]],
        "score": score,
        "densepose": surface.record(),
    }


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, 1.0),
        ({"part": 4}, 0.0),
        ({"left": 100}, 0.0),
        ({"left": 13}, 1 / 3),  # half of each box is beside the other one
        ({"u": 0.5 + MAP_SCALE / np.sqrt(2)}, np.exp(-0.5)),
        ({"part": 0}, 0.0),
    ],
    ids=["same", "another part", "elsewhere", "beside", "other u and v", "nothing"],
)
def test_surfaces_are_as_similar_as_their_pixels(other, expected):
    first, second = surface_record(), surface_record(**other)
    assert map_similarity(first, second) == pytest.approx(expected, abs=0.02)
    assert map_similarity(second, first) == pytest.approx(expected, abs=0.02)


def agreement_of(reference, candidate):
    images = [{"id": 1, "height": 60, "width": 80}]
    found = agreement_ap(reference, candidate, images=images, kinds=["bbox", "surfaces"])
    return found.ap["surfaces"]


def test_surfaces_that_differ_lower_the_agreement_of_surfaces():
    reference = [surface_record(), surface_record(left=40, score=0.6)]
    assert agreement_of(reference, reference) == pytest.approx(1)
    worse = [reference[0], surface_record(left=40, score=0.6, part=4)]
    assert 0.4 < agreement_of(reference, worse) < 0.6
    assert agreement_of([], reference) == 0
    assert agreement_of([], []) is None


def test_more_persons_than_the_official_evaluation_counts_agree_with_themselves():
    many = [surface_record(left=3 * n, size=(3, 2), score=0.9 - n / 100) for n in range(25)]
    assert agreement_of(many, many) == pytest.approx(1)


def test_who_has_no_surface_on_either_side_counts_for_nothing():
    reference = [surface_record(), surface_record(left=40)]
    del reference[1]["densepose"]
    assert agreement_of(reference, reference) == pytest.approx(1)


# ---------------------------------------------------------------- the official files


def write_surface(folder, *, num_corners=30, num_distances=435, num_vertices=40):
    rng = np.random.default_rng(0)
    corners = rng.integers(1, num_corners + 1, num_vertices)
    corners[0] = num_corners
    parts = (np.arange(40) % 24 + 1).astype(np.float64)[:, None]
    uv = rng.uniform(0, 1, (2, 40, 1))
    write_matlab(
        folder / "SMPL_subdiv.mat",
        {"Part_ID_subdiv": parts, "U_subdiv": uv[0], "V_subdiv": uv[1]},
    )
    write_matlab(folder / "SMPL_SUBDIV_TRANSFORM.mat", {"index": corners.astype(float)[:, None]})
    distances = rng.uniform(0, 2, (num_distances, 1))
    content = pickle.dumps({"Pdist_matrix": distances}, protocol=2)
    (folder / "Pdist_matrix.pkl").write_bytes(content)
    return parts.ravel(), uv, corners, distances


def test_the_official_files_are_read_whichever_way_the_distances_are_stored(tmp_path):
    parts, uv, corners, distances = write_surface(tmp_path)
    models = [load_surface_model(tmp_path)]
    np.save(tmp_path / "Pdist_matrix.npy", distances)
    (tmp_path / "Pdist_matrix.pkl").unlink()
    models.append(load_surface_model(str(tmp_path)))
    pairs = np.array([(i, j) for i in range(40) for j in range(40)])
    for model in models:
        np.testing.assert_array_equal(model.parts, parts)
        np.testing.assert_allclose([model.u, model.v], uv[..., 0])
        found = model.between(*pairs.T)
        for (i, j), value in zip(pairs, found, strict=True):
            low, high = sorted((corners[i] - 1, corners[j] - 1))
            expected = 0 if low == high else distances[high * (high - 1) // 2 + low, 0]
            assert value == pytest.approx(expected)
    assert models[0].scales[[0, 1, 2, 24]].tolist() == [0, 0.351, 0.351, 0.150]


@pytest.mark.parametrize(
    "name", ["SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat", "Pdist_matrix.pkl"]
)
def test_a_file_that_is_not_there_is_named_with_where_to_get_it(tmp_path, name):
    write_surface(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DatasetError, match=f"no .*{name}: GPS needs .*fbaipublicfiles.*/{name}"):
        load_surface_model(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"num_distances": 434}, {"num_vertices": 39}], ids=["distances", "vertices"]
)
def test_files_of_different_surfaces_are_refused(tmp_path, changes):
    write_surface(tmp_path, **changes)
    with pytest.raises(DatasetError, match=r"are not of one surface: .* Download them again"):
        load_surface_model(tmp_path)


def test_a_pickle_of_something_else_is_refused(tmp_path):
    write_surface(tmp_path)
    (tmp_path / "Pdist_matrix.pkl").write_bytes(pickle.dumps({"other": np.zeros(3)}))
    with pytest.raises(DatasetError, match="holds no array 'Pdist_matrix'"):
        load_surface_model(tmp_path)
