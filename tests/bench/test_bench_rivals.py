"""The comparison with rivals: same weights, the right result called faster, results that can be told apart."""

import json

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgeseg
from edgeseg.models.maskrcnn.spec import key_table
from edgeseg_bench.latency import Latency
from edgeseg_runtime.environment import read_environment
from edgeseg_runtime.results import Instances
from rivals.maskrcnn import (
    COMPARISONS,
    EAGER,
    FP32,
    INT8,
    Record,
    compare,
    markdown,
    open_torchvision,
    to_json,
    torchvision_state,
)

SIZE = 40, 60


def instances(*, shift=0):
    boxes = np.array([[2, 3, 20, 30], [25, 5, 50, 35]], np.float32) + shift
    masks = np.zeros((2, *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return Instances(boxes, [0.9, 0.6], [3, 1], masks=masks)


def record_of(samples_ms):
    return Record(
        settings={"size": "40x60", "threads": 2},
        exporter={"torch": "2.12.1", "torchvision": "0.27.1"},
        sha256={},
        agreement={name: compare(instances(), instances()) for name in samples_ms},
        latencies={
            name: Latency(samples_ns=tuple(round(ms * 1e6) for ms in samples))
            for name, samples in samples_ms.items()
        },
        others_share=0.125,
        environment=read_environment(),
    )


def test_torchvision_gets_every_weight_under_its_own_name():
    with torch.device("meta"):
        model = edgeseg.create_model("maskrcnn_resnet50_fpn")
    state = torchvision_state(model)
    table = key_table("maskrcnn_resnet50_fpn")
    assert len(state) == len(model.state_dict())
    for original, value in state.items():
        assert value.shape == model.state_dict()[table.ours_from_original(original)].shape
    assert "roi_heads.mask_predictor.conv5_mask.weight" in state


def test_the_same_detections_agree_in_any_order():
    agreement = compare(instances(), instances()[[1, 0]])
    assert agreement.ap == {"bbox": 1.0, "segm": 1.0}
    assert agreement.num_matched == agreement.num_reference == 2


def test_shifted_detections_agree_less():
    assert compare(instances(), instances(shift=5)).ap["bbox"] < 0.5


def test_ratios_say_how_much_longer_the_first_takes():
    record = record_of({EAGER: [400, 420, 410], FP32: [200, 210, 205], INT8: [100, 105, 102.5]})
    ratios = record.ratios()
    assert list(ratios) == [pair for pair in COMPARISONS if set(pair) <= {EAGER, FP32, INT8}]
    assert ratios[FP32, INT8].median == pytest.approx(2.0)
    page = markdown(record)
    assert f"| {EAGER} | {FP32} | 2.00 | 3 pairs, too few |" in page
    assert "other processes took while measuring: 12%" in page
    assert "torch 2.12.1 with torchvision 0.27.1" in page
    saved = json.loads(to_json(record))
    assert saved["latencies"][INT8]["samples_ns"] == [100_000_000, 105_000_000, 102_500_000]
    assert saved["ratios"][f"{FP32} / {INT8}"]["median"] == pytest.approx(2.0)


def test_torchvisions_graph_is_fed_rgb_in_0_to_1_and_its_masks_are_cut_at_a_half(tmp_path):
    """A graph that gives its picture's channels as masks tells what it was fed."""
    constants = {
        "boxes": np.array([[0, 0, 4, 4]] * 3, np.float32),
        "scores": np.array([0.9, 0.8, 0.7], np.float32),
        "labels": np.array([1, 2, 3]),
        "axis": np.array([1]),
    }
    nodes = [helper.make_node("Unsqueeze", ["image", "axis"], ["masks"])]
    nodes += [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in constants.items()
    ]
    nodes.sort(key=lambda node: node.op_type)
    floats = {"boxes": [3, 4], "scores": [3], "masks": [3, 1, 4, 4]}
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in floats.items()]
    outputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [3]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [3, 4, 4])
    graph = helper.make_graph(nodes, "g", [image], outputs)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[0, 0] = 0, 127, 128  # blue, green, red
    result = open_torchvision(path, 1)(picture)
    assert result.labels.tolist() == [1, 2, 3]
    assert result.masks[:, 0, 0].tolist() == [True, False, False]
    assert result.masks.sum() == 1
