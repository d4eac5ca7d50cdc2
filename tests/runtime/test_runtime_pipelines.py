"""FacePipeline: what the detector finds is what the landmark model looks at."""

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, instance_manifest, instance_outputs, task_manifest

from edgeseg_runtime import FacePipeline, Probe
from edgeseg_runtime.errors import ImageError

PICTURE = np.full((48, 64, 3), 50, np.uint8)  # the detector's input size
BOXES = [[8, 4, 24, 20], [30, 10, 60, 40], [40, 40, 30, 30], [0, 0, 10, 10], [0, 0, 0, 0]]
SCORES = [0.9, 0.8, 0.7, 0.2, 0.0]
POINTS = np.float32([[0, 0], [32, 32]])  # of a 64 x 64 input


class Steps(Probe):
    def __init__(self):
        self.names = []

    def ran(self, graph, inputs, outputs, rows):
        self.names.append("place" if "points" in outputs else "detect")


def detector(scores=SCORES, **changes):
    outputs = instance_outputs(
        boxes=BOXES, scores=scores, labels=np.ones(5), masks=np.ones((5, 8, 8))
    )
    return fake_predictor(instance_manifest(rows=5, **changes), outputs)


def landmark_model(points=POINTS, **changes):
    manifest = task_manifest(
        "landmarks",
        {"points": (2, 2), "scores": (2,)},
        **{"keypoint_names": ("corner", "middle"), "skeleton": ((0, 1),), **changes},
    )
    return fake_predictor(manifest, {"points": points[None], "scores": np.ones((1, 2), "f4")})


def test_landmarks_of_the_second_model_belong_to_the_faces_of_the_first():
    found = FacePipeline(detector(), landmark_model())(PICTURE)
    np.testing.assert_array_equal(found.boxes, BOXES[:2])
    expected = [[[6, 2], [16, 12]], [[26.25, 6.25], [45, 25]]]
    np.testing.assert_allclose(found.landmarks, expected, atol=1e-4)
    assert found.has_masks, "what the detector found stays"
    assert (found.keypoint_names, found.skeleton) == (("corner", "middle"), ((0, 1),))
    assert found.draw(PICTURE).shape == PICTURE.shape


def test_a_stream_finds_what_single_pictures_do(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), PICTURE)
    pipeline = FacePipeline(detector(), landmark_model())
    expected = pipeline(PICTURE).records(1)
    assert [found.records(1) for found in pipeline.stream(tmp_path)] == [expected] * 3
    indices = [frame.index for frame, _ in pipeline.stream_frames(tmp_path)]
    assert indices == [0, 1, 2]
    with pipeline.session() as session:
        session.reset()
        assert session(PICTURE).records(1) == expected
    with pytest.raises(ValueError, match="the session is closed"):
        session(PICTURE)


def test_both_models_are_timed_and_warmed_up():
    pipeline = FacePipeline(detector(), landmark_model())
    found, times = pipeline.profile(PICTURE, paste_masks=True)
    assert found.records(1) == pipeline(PICTURE).records(1)
    assert min(times.preprocess_ms, times.model_ms, times.postprocess_ms) > 0
    before = [p.backend.backend.num_runs for p in (pipeline.detector, pipeline.landmarks)]
    assert pipeline.warm_up(num_runs=3) > 0
    after = [p.backend.backend.num_runs for p in (pipeline.detector, pipeline.landmarks)]
    assert np.subtract(after, before).tolist() == [3, 3]
    steps = Steps()
    with pipeline.session(probe=steps) as session:
        session(PICTURE)
    assert steps.names == ["detect", "place", "place"], "the probe is told of both"


def test_each_face_costs_one_run_and_unsure_ones_none():
    landmarks = landmark_model()
    FacePipeline(detector(), landmarks)(PICTURE)
    assert landmarks.backend.backend.num_runs == 2
    assert len(FacePipeline(detector(), landmarks, score=0.1)(PICTURE)) == 3
    assert len(FacePipeline(detector(), landmarks, score=0.95)(PICTURE)) == 0


def test_no_face_gives_shaped_nothing():
    landmarks = landmark_model()
    found = FacePipeline(detector(scores=[0.0] * 5), landmarks)(PICTURE)
    assert found.landmarks.shape == (0, 2, 2)
    assert landmarks.backend.backend.num_runs == 0


def test_what_is_not_finite_is_counted_over_both_models():
    points = np.float32([[np.nan, 0], [1, 1]])
    scores = [np.nan, 0.8, 0.7, 0.2, 0.0]
    found = FacePipeline(detector(scores=scores), landmark_model(points))(PICTURE)
    assert (len(found), found.num_nonfinite) == (1, 2)


def test_a_picture_of_another_layout_is_refused():
    with pytest.raises(ImageError, match="COLOR_GRAY2BGR"):
        FacePipeline(detector(), landmark_model())(PICTURE[..., 0])


def test_leaving_a_pipeline_closes_both_engines():
    with FacePipeline(detector(), landmark_model()) as pipeline:
        pipeline(PICTURE)
    pipeline.close()
    for predictor in (pipeline.detector, pipeline.landmarks):
        assert predictor.backend.backend.num_closed == 1
    assert repr(pipeline).startswith("FacePipeline(Predictor(fake, instances")


def test_predictors_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match="the detector predictor fake is one of the task 'landm"):
        FacePipeline(landmark_model(), detector())
    with pytest.raises(ValueError, match=r"the landmarks predictor fake .*; expected 'landmarks'"):
        FacePipeline(detector(), detector())
    stretched = landmark_model(preprocess={"resize": "stretch", "rounding": "floor"})
    with pytest.raises(ValueError, match=r"looks at whole pictures \(resize .stretch.\)"):
        FacePipeline(detector(), stretched)
