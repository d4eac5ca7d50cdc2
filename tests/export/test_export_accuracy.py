"""The shipped weights on unseen pictures: accurate enough, and equally so in every engine."""

import pytest

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.metrics.coco import coco_ap


@pytest.mark.slow
def test_the_tiny_model_meets_its_bars_in_torch_and_onnx_runtime(tiny_model, tiny_bundle):
    dataset = open_dataset("shapes", split="val", limit=200)
    truth = dataset.coco()
    with edgeseg_runtime.load(tiny_bundle, backend="onnxruntime", threads=1) as predictor:
        predictors = {"torch": edgeseg.torch_predictor(tiny_model), "onnxruntime": predictor}
        results = {name: [] for name in predictors}
        for sample in dataset:
            for name, run in predictors.items():
                results[name] += run(sample.image).to_coco(sample.image_id)
    ap = {
        (name, kind): coco_ap(truth, found, iou_type=kind)["AP"]
        for name, found in results.items()
        for kind in ("bbox", "segm")
    }
    assert 0.60 <= ap["torch", "bbox"] < 0.95
    assert 0.55 <= ap["torch", "segm"] < 0.95
    for kind in ("bbox", "segm"):
        assert ap["onnxruntime", kind] == pytest.approx(ap["torch", kind], abs=0.002)
