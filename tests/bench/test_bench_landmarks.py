"""Errors of landmarks against cases computed by hand."""

import numpy as np
import pytest

from edgeseg_bench.metrics.landmarks import (
    area_under_curve,
    cumulative_errors,
    failure_rate,
    landmark_scores,
    normalised_mean_errors,
)


def face(num_points, **points):
    """A face whose points all lie at (0, 0), but those given: p36=(x, y)."""
    labels = np.zeros((num_points, 2))
    for name, place in points.items():
        labels[int(name[1:])] = place
    return labels


OCULAR_68 = face(68, p36=(10, 20), p45=(40, 60))  # 30, 40: 50 pixels
PUPIL_68 = face(68, **{f"p{i}": (6 * (i - 36), 0) for i in range(36, 42)},
                **{f"p{i}": (100, 0) for i in range(42, 48)})  # 15 and 100  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "normalization", "size"),
    [
        pytest.param(OCULAR_68, "inter_ocular", 50, id="300W outer corners"),
        pytest.param(PUPIL_68, "inter_pupil", 85, id="300W means of the eyes"),
        pytest.param(face(98, p60=(5, 5), p72=(5, 25)), "inter_ocular", 20, id="WFLW corners"),
        pytest.param(face(98, p96=(5, 5), p97=(8, 9)), "inter_pupil", 5, id="WFLW pupils"),
        pytest.param(face(29, p8=(3, 0), p9=(13, 0)), "inter_ocular", 10, id="COFW corners"),
        pytest.param(face(5, p0=(0, 4), p1=(3, 0)), "inter_pupil", 5, id="five points"),
        pytest.param(face(19, p0=(-3, 0), p1=(3, 8)), "box_diagonal", 10, id="own extent"),
    ],
)
def test_an_error_is_measured_in_sizes_of_the_labelled_face(labels, normalization, size):
    moved = labels + np.array([3, 4])  # every point by 5 pixels
    (error,) = normalised_mean_errors(moved[None], labels[None], normalization=normalization)
    assert error == pytest.approx(5 / size)


def test_one_point_that_is_off_counts_for_its_share():
    moved = OCULAR_68.copy()
    moved[7, 0] += 34
    (error,) = normalised_mean_errors(moved[None], OCULAR_68[None])
    assert error == pytest.approx(34 / 68 / 50)


def test_the_diagonal_of_a_box():
    labels = face(19, p3=(7, 7))
    (error,) = normalised_mean_errors(
        labels[None] + 1, labels[None], normalization="box_diagonal",
        boxes=np.array([[10, 10, 40, 50]]),
    )  # fmt: skip
    assert error == pytest.approx(np.sqrt(2) / 50)


ERRORS = np.array([0.02, 0.04, 0.08, 0.16])


def test_the_curve_counts_what_lies_on_the_threshold():
    shares = cumulative_errors(ERRORS, [0, 0.02, 0.03, 0.08, 0.1, 0.2])
    assert shares.tolist() == [0, 0.25, 0.25, 0.75, 0.75, 1]


def test_the_area_under_the_curve_by_hand():
    # 1/4 from 0.02 on, 2/4 from 0.04 on, 3/4 from 0.08 on
    assert area_under_curve(ERRORS, 0.08) == pytest.approx((0.02 / 4 + 0.04 / 2) / 0.08)
    assert area_under_curve(ERRORS, 0.10) == pytest.approx(
        (0.02 / 4 + 0.04 / 2 + 0.02 * 0.75) / 0.1
    )


def test_the_area_is_what_the_curve_s_fine_sum_approaches():
    errors = np.random.default_rng(0).gamma(2, 0.03, 500)
    thresholds = (np.arange(20000) + 0.5) / 20000 * 0.1
    sampled = cumulative_errors(errors, thresholds).mean()
    assert area_under_curve(errors, 0.1) == pytest.approx(sampled, abs=1e-5)


def test_failures_lie_above_the_threshold():
    assert failure_rate(ERRORS, 0.08) == 0.25
    assert failure_rate(ERRORS, 0.079) == 0.5
    assert failure_rate(ERRORS, 0.2) == 0


def test_a_face_without_a_result_has_failed_but_has_no_error():
    labels = np.stack([OCULAR_68, OCULAR_68])
    found = labels + np.array([3, 4])
    found[1] = np.nan
    scores = landmark_scores(found, labels)
    assert scores["NME"] == pytest.approx(0.1)
    assert scores["failures@0.08"] == 1
    assert scores["failures@0.10"] == 0.5
    assert scores["AUC@0.08"] == scores["AUC@0.10"] == 0


def test_perfect_landmarks_and_no_faces_at_all():
    assert landmark_scores(OCULAR_68[None], OCULAR_68[None]) == {
        "NME": 0, "AUC@0.08": 1, "AUC@0.10": 1, "failures@0.08": 0, "failures@0.10": 0,
    }  # fmt: skip
    assert set(landmark_scores(np.empty((0, 68, 2)), np.empty((0, 68, 2))).values()) == {None}


@pytest.mark.parametrize(
    ("points", "labels", "options", "message"),
    [
        (np.zeros((1, 68, 2)), np.zeros((1, 98, 2)), {}, r"\(1, 68, 2\) and labels \(1, 98, 2\)"),
        (np.zeros((1, 19, 2)), np.zeros((1, 19, 2)), {}, "not known of 19 points, only of 29, 68"),
        (np.zeros((1, 68, 2)), np.zeros((1, 68, 2)), {}, "face 0 has the inter_ocular size 0"),
        (OCULAR_68[None], OCULAR_68[None], {"normalization": "iod"}, "normalization 'iod' found"),
        (OCULAR_68[None], OCULAR_68[None],
         {"normalization": "box_diagonal", "boxes": np.zeros((2, 4))}, r"boxes of shape \(2, 4\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(points, labels, options, message):
    with pytest.raises(ValueError, match=message):
        normalised_mean_errors(points, labels, **options)


@pytest.mark.parametrize("measure", [area_under_curve, failure_rate])
def test_there_is_no_figure_of_no_faces(measure):
    with pytest.raises(ValueError, match="at least one face"):
        measure(np.empty(0), 0.1)
    with pytest.raises(ValueError, match="at least one face"):
        cumulative_errors(np.empty(0), [0.1])
