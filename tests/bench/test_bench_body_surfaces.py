"""The surface of the drawn people: a metric in closed form, and parts where the person is."""

from dataclasses import replace

import numpy as np
import pytest

from edgeseg_bench.datasets import bodies, open_dataset, people
from edgeseg_bench.datasets.body_surfaces import (
    NUM_PARTS,
    TUBES,
    geodesic,
    places,
    surface_of_body,
)
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_bench.datasets.shapes import ShapesDataset
from edgeseg_bench.evaluation import METRICS
from edgeseg_runtime.results.surfaces import Surface

LEG = bodies.Leg(abduction=0.1, flexion=0.0, knee=0.0)
ARM = bodies.Arm(abduction=0.4, flexion=0.0, elbow=0.0, elbow_direction=(0.0, 0.0, -1.0))
STANDING = bodies.Body(
    legs=(LEG, LEG), arms=(ARM, ARM), spine=0.0, neck=0.0, nod=0.0, breadth=1.0,
    centre=(100.0, 110.0), scale=180.0, yaw=0.0, pitch=0.0, lean=0.0,
)  # fmt: skip


def points(*rows):
    parts, u, v = (np.array(column) for column in zip(*rows, strict=True))
    return places(parts.astype(np.int64), u.astype(float), v.astype(float))


def between(first, second):
    return float(geodesic(points(first), points(second))[0])


def random_points(count, seed):
    rng = np.random.default_rng(seed)
    return places(
        rng.integers(1, NUM_PARTS + 1, count), rng.uniform(0, 1, count), rng.uniform(0, 1, count)
    )


def test_every_part_belongs_to_one_tube():
    charts = [chart for tube in TUBES.values() for chart in set(tube.charts)]
    assert sorted(charts) == list(range(1, NUM_PARTS + 1))


def test_the_distance_is_a_metric():
    first, second, third = (random_points(3000, seed) for seed in range(3))
    direct = geodesic(first, second)
    np.testing.assert_allclose(direct, geodesic(second, first))
    assert (direct <= geodesic(first, third) + geodesic(third, second) + 1e-12).all()
    np.testing.assert_array_equal(geodesic(first, first), 0)
    assert direct.max() < 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((2, 0.5, 0.2), (2, 0.5, 0.7), 0.5 * bodies.TORSO),
        ((2, 0.5, 0.0), (1, 0.5, 0.0), 2 * bodies.SHOULDER_HALF_WIDTH),
        ((2, 1.0, 0.3), (1, 1.0, 0.3), 0.0),
        ((2, 0.0, 0.3), (1, 0.0, 0.3), 0.0),
        ((9, 0.5, 0.25), (13, 0.5, 0.5), 0.75 * bodies.THIGH + 0.5 * bodies.SHIN),
        ((23, 0.5, 0.5), (24, 0.5, 0.5), 0.11),
        ((3, 0.5, 0.0), (22, 0.5, 1.0), 0.0),
        (
            (18, 0.5, 0.0),
            (17, 0.5, 0.0),
            2 * bodies.SHOULDER_HALF_WIDTH,
        ),
    ],
    ids=[
        "along the trunk",
        "from the front to the back",
        "over the left seam",
        "over the right seam",
        "over the knee",
        "around the head",
        "at the wrist",
        "from shoulder to shoulder",
    ],
)
def test_distances_that_can_be_told_by_hand(first, second, expected):
    assert between(first, second) == pytest.approx(expected, abs=1e-9)


def test_a_person_who_stands_shows_the_front_and_from_behind_the_back():
    front = surface_of_body(STANDING, (230, 200))
    assert set(np.unique(front.parts)) == {0, 2, 3, 4, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22, 23, 24}
    back = surface_of_body(replace(STANDING, yaw=np.pi), (230, 200))
    assert {1, 7, 8, 11, 12, 15, 16, 19, 20} <= set(np.unique(back.parts))
    assert not {2, 9, 10} & set(np.unique(back.parts))


def test_u_goes_from_the_person_s_right_to_the_left_and_v_downwards():
    seen = surface_of_body(STANDING, (230, 200))
    for part in (2, 9, 10, 13, 14):
        rows, columns = np.nonzero(seen.parts == part)
        middle = rows == int(np.median(rows))
        order = np.argsort(columns[middle])
        assert (np.diff(seen.u[rows, columns][middle][order]) > 0).all(), part
        assert np.corrcoef(rows, seen.v[rows, columns])[0, 1] > 0.9, part
    right_thigh, left_thigh = (np.nonzero(seen.parts == part)[1].mean() for part in (9, 10))
    assert right_thigh < left_thigh, "their right is on the left of the picture"
    from_behind = surface_of_body(replace(STANDING, yaw=np.pi), (230, 200))
    assert np.nonzero(from_behind.parts == 7)[1].mean() > 100


def test_parts_cover_the_person_and_nothing_else():
    shares = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = people.make_scene(rng)
        scene = replace(scene, people=scene.people[-1:], obstacles=())
        _, masks, _ = people.render(scene, rng)
        outfit = scene.people[0].outfit
        seen = surface_of_body(scene.people[0].body, masks.shape[1:])
        is_part, is_person = seen.parts > 0, masks[0]
        shares.append((is_part & is_person).sum() / is_part.sum())
        if not outfit.long_hair:  # hair that hangs down is on no chart
            shares.append((is_part & is_person).sum() / is_person.sum())
        assert (seen.u[~is_part] == 0).all()
        assert 0 <= seen.u.min() <= seen.u.max() <= 1
    assert min(shares) > 0.93, shares


# ---------------------------------------------------------------- the data set


@pytest.fixture(scope="module")
def samples():
    return list(open_dataset("shapes", kind="densepose", limit=5))


def mask_of(person, sample):
    size = {"height": sample.height, "width": sample.width}
    return mask_from_segmentation(person["segmentation"], **size)


def test_labelled_points_lie_on_the_person_and_are_the_same_every_time(samples):
    num_points = 0
    for sample in samples:
        for person in sample.annotations:
            left, top, width, height = person["bbox"]
            column = (left + np.array(person["dp_x"]) * width / 255).astype(int)
            row = (top + np.array(person["dp_y"]) * height / 255).astype(int)
            assert mask_of(person, sample)[row, column].all()
            assert set(person["dp_I"]) <= set(range(1, NUM_PARTS + 1))
            num_points += len(row)
    assert num_points > 500
    again = open_dataset("shapes", kind="densepose", limit=5)[3]
    np.testing.assert_array_equal(again.image, samples[3].image)
    assert again.annotations == samples[3].annotations


def perfect(sample, *, shift=0.0):
    """Records of what is labelled, u moved by some part of a chart."""
    records = []
    for number, person in enumerate(sample.annotations):
        left, top, width, height = person["bbox"]
        iuv = np.zeros((3, int(height), int(width)), np.uint8)
        row = (np.array(person["dp_y"]) * height / 255).astype(int)
        column = (np.array(person["dp_x"]) * width / 255).astype(int)
        iuv[0] = 2
        iuv[0, row, column] = person["dp_I"]
        for channel, values in ((1, np.array(person["dp_U"]) + shift), (2, person["dp_V"])):
            iuv[channel, row, column] = np.clip(np.array(values) * 255, 0, 255)
        mask = mask_of(person, sample)
        inside = mask[int(top) : int(top + height), int(left) : int(left + width)]
        iuv[0] *= inside
        surface = Surface(int(left), int(top), iuv[0], iuv[1] / 255, iuv[2] / 255)
        records.append(
            {
                "image_id": sample.image_id,
                "category_id": 1,
                "bbox": person["bbox"],
                "score": 0.9 - number / 100,
                "densepose": surface.record(),
            }
        )
    return records


def test_what_is_labelled_is_perfect_and_what_is_moved_is_worse(samples):
    truth = ShapesDataset("val", kind="densepose", limit=5).coco()
    scores = {}
    for shift in (0.0, 0.5):
        results = [record for sample in samples for record in perfect(sample, shift=shift)]
        for metric in METRICS:
            if metric.data == "densepose":
                assert metric.is_labelled(truth)
                scores[metric.name, shift] = metric.score(truth, results)["AP"]
    assert scores["gps", 0.0] > 0.95
    assert scores["gpsm", 0.0] > 0.95
    assert scores["gps", 0.5] < scores["gps", 0.0] - 0.02


def test_without_the_files_of_a_surface_gps_is_left_out_with_a_warning(tmp_path, caplog):
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "surface": str(tmp_path)}]}
    (gps,) = (metric for metric in METRICS if metric.name == "gps")
    assert gps.score(truth, []) == {"AP": None}
    assert "GPS is left out. There is no" in caplog.text
