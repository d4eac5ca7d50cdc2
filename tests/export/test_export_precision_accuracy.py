"""What lower precisions cost every family, with the shipped weights and in official models."""

import functools

import numpy as np
import pytest
from graphs_in_memory import calibrate_one, graph_predictor
from half_rounding import rounding_predictor, rounding_session

import edgeseg
from edgeseg.models import get_spec, list_models, model_manifest
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import (
    compare_results,
    comparisons,
    dataset_kind,
    detect,
    measure_accuracy,
    pictures_seen,
)
from edgeseg_export.graph import complete_graph, in_one_graph, trace_graphs
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_export.sessions import cpu_session
from edgeseg_runtime.tasks import create_task

pytestmark = pytest.mark.slow

TINY = [name for name in list_models() if name.endswith("_tiny")]
OF_POINTS = ["hourglass_tiny", "landmarks_heatmap_tiny", "landmarks_regression_tiny"]
OF_DETECTIONS = [name for name in TINY if name not in OF_POINTS]
NUM_CALIBRATION = 16
NUM_COMPARED = 6
NUM_MEASURED = 60


def samples(manifest, split, limit):
    return open_dataset("shapes", split=split, kind=dataset_kind(manifest), limit=limit)


@pytest.fixture(scope="module")
def graph_of(traced):
    """Name of a model, and precision -> its complete graph, calibrated on the training split."""

    @functools.cache
    def lower(name, precision):
        plain, manifest = traced(name)
        complete = complete_graph(plain)
        if precision == "fp32":
            return complete
        training = samples(manifest, "train", NUM_CALIBRATION)
        seen = pictures_seen(manifest, training, limit=NUM_CALIBRATION)
        pictures = [picture.image for picture in seen]
        assignment = assign(plain, get_spec(name).precision, precision)
        magnitudes = calibrate_one(complete, manifest, pictures, values_needed(plain, assignment))
        return complete_graph(convert(plain, assignment, magnitudes))

    return lower


@pytest.fixture(scope="module")
def results(traced, graph_of):
    """Name of a model, precision and number of pictures -> what it finds in the validation split."""

    def find(name, precision, limit, *, predictor=graph_predictor):
        _, manifest = traced(name)
        found = predictor(graph_of(name, precision), manifest)
        pictures = samples(manifest, "val", limit)
        return [result for sample in pictures for result in detect(found, sample)]

    return find


@pytest.mark.parametrize(
    ("name", "precision", "bar"),
    [
        *((name, "fp16", 0.98) for name in OF_DETECTIONS),
        *((name, "mixed", 0.93) for name in OF_DETECTIONS),
    ],
)
def test_the_same_objects_are_found(traced, results, name, precision, bar):
    """Agreement AP with float32. Measured: at least 0.997 in fp16, 0.975 in mixed."""
    _, manifest = traced(name)
    expected = results(name, "fp32", NUM_COMPARED)
    found = results(name, precision, NUM_COMPARED, predictor=rounding_predictor)
    agreement = compare_results(
        comparisons(manifest),
        expected,
        found,
        images=samples(manifest, "val", NUM_COMPARED).coco()["images"],
    )
    assert agreement.num_reference >= 5
    assert min(agreement.ap.values()) >= bar


@pytest.mark.parametrize(
    ("name", "precision", "median", "most"),
    [
        *((name, "fp16", 0.5, 2.0) for name in OF_POINTS),
        ("hourglass_tiny", "mixed", 2.0, 6.0),  # its points move in steps of 2 pixels
        *((name, "mixed", 0.5, 2.0) for name in OF_POINTS[1:]),
    ],
)
def test_points_stay_where_they_are(traced, graph_of, name, precision, median, most):
    """Distance from float32 in pixels of the network's input, in the middle and of 95 %.

    Measured: at most 0.01 and 0.02 in fp16, 0.2 and 2.9 in mixed.
    """
    _, manifest = traced(name)
    sessions = [cpu_session(graph_of(name, "fp32")), rounding_session(graph_of(name, precision))]
    distances = []
    task = create_task(manifest)
    for picture in pictures_seen(manifest, samples(manifest, "val", NUM_COMPARED)):
        inputs, _ = task.preprocess(picture.image)
        expected, found = (session.run(None, inputs)[0][0, :, :2] for session in sessions)
        distances.append(np.linalg.norm(found - expected, axis=1))
    assert np.median(distances) <= median
    assert np.percentile(distances, 95) <= most


@pytest.mark.parametrize(
    ("name", "metric", "figure", "most"),
    [
        ("maskrcnn_tiny", "bbox", "AP", 0.02),
        ("landmarks_regression_tiny", "points", "NME", 0.005),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (
                *((n, "bbox", "AP", 0.02) for n in OF_DETECTIONS if n != "maskrcnn_tiny"),
                ("landmarks_heatmap_tiny", "points", "NME", 0.005),
                ("hourglass_tiny", "pckh", "PCKh", 0.02),
            )
        ),
    ],
)
def test_int8_is_as_accurate_as_float32(traced, results, name, metric, figure, most):
    """On 60 pictures, to be quick. Within 0.01 on 200 is recorded in benchmarks/results."""
    _, manifest = traced(name)
    truth = samples(manifest, "val", NUM_MEASURED).coco()
    full, lower = (
        measure_accuracy(manifest, truth, results(name, precision, NUM_MEASURED))
        for precision in ("fp32", "int8")
    )
    assert abs(lower[metric][figure] - full[metric][figure]) <= most


STAGES = {
    ("maskrcnn_resnet50_fpn", 128): ["p2", "p6", "rpn_logits_p3", "rpn_deltas_p3"],
    ("yolact_resnet50", 128): ["prototypes", "class_logits", "box_deltas", "mask_coefficients"],
    ("retinaface_mobilenet025", 96): ["class_logits", "box_deltas", "landmark_deltas"],
    ("centernet_resnet18_dcn", 64): ["heatmap", "size", "offset"],
    ("hourglass_stack2", 64): ["heatmaps0", "heatmaps"],
    ("landmarks_regression_pfld", 112): ["coordinates"],
}
"""An official model of every family and a small size -> what is compared, before rows are chosen."""


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "size"), STAGES)
def test_an_official_model_computes_the_same_in_half_precision(name, size):
    """With random weights: rows of equal scores change places, so the stages are compared.

    Measured: at most 0.001 of a stage's largest value.
    """
    model = edgeseg.create_model(name, image_size=size)
    manifest = in_one_graph(model_manifest(model))
    plain = trace_graphs(model, manifest)["main"]
    complete = complete_graph(plain)
    (sample,) = samples(manifest, "val", 1)
    assignment = assign(plain, get_spec(name).precision, "fp16")
    magnitudes = calibrate_one(complete, manifest, [sample.image], values_needed(plain, assignment))
    half = complete_graph(convert(plain, assignment, magnitudes))
    inputs, _ = create_task(manifest).preprocess(sample.image)
    outputs = [spec.name for spec in manifest.outputs]
    stages = STAGES[name, size]
    expected = cpu_session(complete).run(stages, inputs)
    found = rounding_session(half).run([*stages, *outputs], inputs)
    assert all(np.isfinite(array).all() for array in found)
    for wanted, array in zip(expected, found[: len(stages)], strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(array, wanted, rtol=0, atol=0.005 * scale)
