"""Models that place points: a broken layer lowers their agreement and is named; auto keeps its bar."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeseg
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import dataset_kind
from edgeseg_bench.latency import Plan
from edgeseg_bench.pictures import calibration_pictures
from edgeseg_bench.report import markdown
from edgeseg_bench.runner import run_bench
from edgeseg_export.agreement import (
    ParityError,
    check_agreement,
    measure_agreement,
)
from edgeseg_export.compare import Side, compare
from edgeseg_export.comparison import open_pictures, open_sides
from edgeseg_export.sessions import graphs_predictor
from edgeseg_runtime import Manifest

NUM_PICTURES = 6
PLAN = Plan(warmup_runs=1, warmup_seconds=0, max_warmup_seconds=1, min_queries=1, min_seconds=0)
BROKEN = {
    "hourglass_tiny": "stem.residuals.0.conv2/Conv",
    "landmarks_regression_tiny": "stages8.0.expand.conv/Conv",
}
"""Model -> the convolution whose weights are multiplied."""


@pytest.fixture(scope="module", params=BROKEN)
def sides(request, bundle_of):
    """Return a sound export, and the same with one broken layer."""
    folder = bundle_of(request.param)
    manifest = Manifest.load(folder)
    sound = onnx.load(folder / "model.onnx")
    broken = with_scaled_weights(sound, BROKEN[request.param], 1.5)
    return (
        Side(name="sound", manifest=manifest, graphs={"main": sound}),
        Side(name="broken", manifest=manifest, graphs={"main": broken}),
    )


@pytest.fixture(scope="module")
def pictures(sides):
    return open_pictures("shapes", sides[0].manifest, NUM_PICTURES)[0]


@pytest.fixture(scope="module")
def report(sides, pictures):
    return compare(*sides, pictures, NUM_PICTURES, data="shapes")


def with_scaled_weights(model, name, factor):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (node,) = [node for node in copy.graph.node if node.name == name]
    (weight,) = [tensor for tensor in copy.graph.initializer if tensor.name == node.input[1]]
    value = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    return copy


def test_equal_graphs_place_the_same_points(sides, pictures):
    graphs = sides[0].graphs
    images = [picture.image for picture in pictures()]
    measured = measure_agreement(graphs, graphs, sides[0].manifest, images)
    assert (measured["ap"], measured["nme"]) == ({"points": 1}, 0)
    check_agreement(measured, "int8")


def test_a_broken_layer_lowers_the_agreement_and_is_named(sides, report):
    assert report.first_bad_tap == BROKEN[sides[0].manifest.name]
    assert [tap.name for tap in report.taps if tap.is_bad] == [report.first_bad_tap]
    assert report.metrics()["agreement_ap"] < 0.9
    assert report.metrics()["nme"] > 0.005
    assert report.steps[0].ap_to_previous == report.agreement.ap


def test_the_picture_whose_points_moved_furthest_is_the_worst(sides, pictures, report):
    predictors = [graphs_predictor(side.graphs, side.manifest) for side in sides]
    distances = {}
    for picture in pictures():
        (one,), (other,) = (p(picture.image).to_coco(0) for p in predictors)
        expected, found = (np.reshape(r["keypoints"], (-1, 3)) for r in (one, other))
        apart = np.linalg.norm(expected[:, :2] - found[:, :2], axis=1)
        size = max(picture.image.shape[:2])
        distances[picture.image_id] = np.average(apart, weights=expected[:, 2]) / size
    order = sorted(distances, key=lambda image_id: -distances[image_id])
    assert [picture.image_id for picture in report.agreement.worst] == order
    assert report.agreement.worst[0].quality < report.agreement.worst[-1].quality
    worst = 1 - report.agreement.worst[0].quality
    assert worst == pytest.approx(distances[order[0]], rel=1e-3)


def test_a_graph_that_places_other_points_is_refused(sides, pictures):
    sound, _ = sides
    images = [picture.image for picture in pictures()]
    stem = next(node.name for node in sound.graphs["main"].graph.node if node.op_type == "Conv")
    ruined = {"main": with_scaled_weights(sound.graphs["main"], stem, -1)}
    measured = measure_agreement(sound.graphs, ruined, sound.manifest, images)
    assert measured["num_detections"] == measured["num_matched"] == NUM_PICTURES
    with pytest.raises(
        ParityError, match=r"the int8 graph finds other things.* agreement of points"
    ):
        check_agreement(measured, "int8")


def test_bench_compares_the_points_of_every_labelled_box(sides):
    dataset = open_dataset("shapes", kind=dataset_kind(sides[0].manifest), limit=3)
    predictors = {side.name: graphs_predictor(side.graphs, side.manifest) for side in sides}
    report = run_bench(predictors, dataset, plan=PLAN)
    agreement = report.backends[1].agreement
    num_boxes = sum(len(sample.annotations) for sample in dataset)
    assert agreement.num_matched == agreement.num_reference == num_boxes > 3
    assert 0.4 < agreement.ap["points"] < 0.95
    assert len(agreement.worst) == 3
    assert "point agreement" in markdown(report)


@pytest.mark.parametrize("limit", [1, 5])
def test_of_a_data_set_the_model_sees_what_is_about_each_box(sides, limit):
    pictures, count, _ = open_pictures("shapes", sides[0].manifest, limit)
    seen = list(pictures())
    assert len(seen) == count == limit
    assert [picture.image_id for picture in seen] == list(range(1, limit + 1))
    assert len({picture.name for picture in seen}) == limit
    sizes = {max(picture.image.shape[:2]) for picture in seen}
    assert max(sizes) < 400, "whole pictures are larger"


def test_a_sound_int8_graph_has_no_bad_node_and_places_nearly_the_same_points(bundle_of, tmp_path):
    model = edgeseg.create_model("landmarks_regression_tiny", weights="shapes")
    seen = calibration_pictures("shapes", 16, model)
    folder = edgeseg.export_bundle(
        model, tmp_path / "int8", precision="int8", calibration=seen, num_images=2
    )
    sides = open_sides(str(bundle_of("landmarks_regression_tiny")), folder, weights=None)
    pictures, count, name = open_pictures("shapes", sides[1].manifest, 4)
    report = compare(*sides, pictures, count, data=name)
    assert report.first_bad_tap is None
    assert 0.8 < report.metrics()["agreement_ap"] < 1
    assert 0 < report.metrics()["nme"] < 0.01
    assert all(tap.num_levels > 30 for tap in report.taps if tap.precision == "int8")
    assert sides[1].manifest.parity["precision"]["agreement_with_fp32"]["ap"]["points"] > 0.8


def test_auto_keeps_the_agreement_of_points_above_its_bar(tmp_path):
    model = edgeseg.create_model("landmarks_regression_tiny", weights="shapes")
    seen = calibration_pictures("shapes", 8, model)
    folder = edgeseg.export_bundle(
        model, tmp_path / "auto", precision="auto", calibration=seen, num_images=2
    )
    lowered = Manifest.load(folder).parity["precision"]
    table = lowered["search"]
    assert 1 - table["max_drop"] <= table["agreement_ap"] <= 1
    assert table["agreement_ap_all_int8"] <= table["agreement_ap"]
    alone = [row["agreement_ap_alone"] for row in table["modules"]]
    assert len(set(alone)) > len(alone) / 2
    assert {row["precision"] for row in table["modules"]} >= {"int8"}
    assert set(lowered["agreement_with_fp32"]["ap"]) == {"points"}
