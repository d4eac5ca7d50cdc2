"""The shipped weights on unseen pictures: accurate enough, and equally so in every engine."""

import pytest

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.metrics.coco import coco_ap


@pytest.mark.slow
@pytest.mark.parametrize("limit", [50, pytest.param(200, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    ("name", "bars"),
    [
        ("maskrcnn_tiny", {"bbox": 0.60, "segm": 0.55}),
        ("yolact_tiny", {"bbox": 0.30, "segm": 0.30}),
        ("centernet_tiny", {"bbox": 0.55}),
    ],
)
def test_a_tiny_model_meets_its_bars_in_torch_and_onnx_runtime(name, bars, limit, bundle_of):
    dataset = open_dataset("shapes", split="val", limit=limit)
    truth = dataset.coco()
    model = edgeseg.create_model(name, weights="shapes")
    with edgeseg_runtime.load(bundle_of(name), backend="onnxruntime", threads=1) as predictor:
        predictors = {"torch": edgeseg.torch_predictor(model), "onnxruntime": predictor}
        results = {backend: [] for backend in predictors}
        for sample in dataset:
            for backend, run in predictors.items():
                results[backend] += run(sample.image).to_coco(sample.image_id)
    for kind, bar in bars.items():
        in_torch, in_onnx_runtime = (
            coco_ap(truth, found, iou_type=kind)["AP"] for found in results.values()
        )
        assert bar <= in_torch < 0.95
        assert in_onnx_runtime == pytest.approx(in_torch, abs=0.002)
