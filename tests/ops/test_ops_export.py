"""The operators through torch.onnx.export: one node each, and what engines make of the bodies."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeseg.ops import atlas_roi_align, nms, pyramid_atlas, pyramid_roi_align
from edgeseg_export.functions import add_functions

STRIDES = [4, 8, 16]


class Heads(torch.nn.Module):
    """Suppression, then two poolings of the survivors: fixed sampling and adaptive."""

    def forward(self, fine, middle, coarse, boxes, scores, groups):
        indices, valid = nms(
            boxes, scores, groups, iou_threshold=0.3, max_output=20, score_threshold=0.1
        )
        rois = boxes.gather(1, indices[..., None].expand(-1, -1, 4))
        features = [fine, middle, coarse]
        atlas = pyramid_atlas(features)
        small, large = (
            atlas_roi_align(
                atlas,
                rois,
                level_sizes=[tuple(level.shape[2:]) for level in features],
                strides=STRIDES,
                output_size=size,
                sampling_ratio=ratio,
                aligned=ratio == 0,
                rois_last=ratio == 2,
            )
            for size, ratio in ((7, 2), ((14, 10), 0))
        )
        return indices, valid, small, large


def example(pictures):
    rng = torch.Generator().manual_seed(pictures)
    low = torch.rand(pictures, 300, 2, generator=rng) * 100
    boxes = torch.cat([low, low + torch.rand(pictures, 300, 2, generator=rng) * 100], 2)
    features = [torch.randn(pictures, 4, 160 // s, 192 // s, generator=rng) for s in STRIDES]
    groups = torch.randint(0, 2, (pictures, 300), generator=rng)
    return (*features, boxes, torch.rand(pictures, 300, generator=rng), groups)


class ManyBoxes(torch.nn.Module):
    """Suppression of more boxes than are unrolled."""

    def forward(self, boxes, scores, groups):
        return nms(boxes, scores, groups, iou_threshold=0.4, max_output=100, score_threshold=0.02)


def export(inputs, dynamic_shapes=None, module=None):
    with warnings.catch_warnings():
        # torch 2.13's exporter uses a name that its own pytree deprecates.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        program = torch.onnx.export(
            (module or Heads()).eval(),
            inputs,
            dynamo=True,
            opset_version=20,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    model = add_functions(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def exported():
    return export(example(2), [{0: torch.export.Dim.DYNAMIC}] * 6)


def test_each_operator_is_one_node_with_its_settings(exported):
    nodes = [node for node in exported.graph.node if node.domain == "edgeseg"]
    assert [node.op_type for node in nodes] == [
        "Nms_300to20",
        "PyramidAtlas_4x40x48",
        "AtlasRoiAlign_20x4x7x7",
        "AtlasRoiAlign_20x4x14x10",
    ]
    settings = {item.name: helper.get_attribute_value(item) for item in nodes[3].attribute}
    assert settings == {
        "level_sizes": [40, 48, 20, 24, 10, 12],
        "strides": STRIDES,
        "output_size": [14, 10],
        "sampling_ratio": 0,
        "aligned": 1,
        "level_rule": b"torchvision",
        "canonical_scale": 224.0,
        "canonical_level": 4,
        "rois_last": 0,
        "min_cells": 1.0,
    }


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_onnx_runtime_agrees_with_pytorch_at_every_batch_size(exported, run_model, pictures):
    inputs = example(pictures)
    expected = Heads()(*inputs)
    outputs = run_model(exported, [value.numpy() for value in inputs])
    np.testing.assert_array_equal(outputs[0], expected[0])
    np.testing.assert_array_equal(outputs[1], expected[1])
    for output, reference in zip(outputs[2:], expected[2:], strict=True):
        np.testing.assert_allclose(output, reference, rtol=0, atol=1e-4)


def test_a_second_call_changes_nothing(exported):
    before = exported.SerializeToString()
    assert add_functions(exported).SerializeToString() == before


def test_bodies_use_standard_operators_only(exported):
    for function in exported.functions:
        assert {(opset.domain, opset.version) for opset in function.opset_import} == {("", 20)}
        assert {node.domain for node in function.node} == {""}


def node_model(inputs, **attributes):
    node = helper.make_node("Nms", ["boxes", "scores"], ["i", "v"], domain="edgeseg", **attributes)
    twin = helper.make_node("Nms", ["boxes", "scores"], ["j", "w"], domain="edgeseg", **attributes)
    third = helper.make_node("Nms", ["boxes", "scores"], ["k", "x"], domain="edgeseg", **attributes)
    for item in third.attribute:
        if item.name == "iou_threshold":
            item.f = 0.75
    graph = helper.make_graph([node, twin, third], "g", inputs, [])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)]
    )


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


ATTRIBUTES = {"iou_threshold": 0.5, "max_output": 5, "score_threshold": 0.0}


def test_equal_nodes_share_a_body_and_others_of_the_size_have_their_own():
    model = node_model([floats("boxes", 1, 9, 4), floats("scores", 1, 9)], **ATTRIBUTES)
    add_functions(model)
    first, second = "Nms_9to5", "Nms_9to5_2"
    assert [node.op_type for node in model.graph.node] == [first, first, second]
    assert [body.name for body in model.functions] == [first, second]


def test_a_free_number_of_boxes_is_refused():
    model = node_model([floats("boxes", 1, "N", 4), floats("scores", 1, "N")], **ATTRIBUTES)
    with pytest.raises(ValueError, match=r"'boxes' of the Nms node .* \(1, -1, 4\): export with"):
        add_functions(model)


def test_an_unknown_operator_is_refused():
    model = node_model([floats("boxes", 1, 9, 4), floats("scores", 1, 9)], **ATTRIBUTES)
    model.graph.node[0].op_type = "Nsm"
    with pytest.raises(
        ValueError,
        match="is edgeseg::Nsm, expected one of AtlasRoiAlign, Correlation, DeformConv2d, Nms, "
        "PyramidAtlas, Warp",
    ):
        add_functions(model)


def test_half_features_are_sampled_in_single(pool_onnx):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 3, 20, 30)).astype(np.float16)
    rois = np.array([[[3, 4, 60, 70], [0, 0, 9, 9]]], np.float32)
    settings = {
        "strides": [4],
        "sampling_ratio": 0,
        "level_rule": "torchvision",
        "canonical_scale": 224.0,
        "canonical_level": 4,
    }
    pooled = pool_onnx([features], rois, output_size=[7, 7], aligned=1, **settings)
    expected = pyramid_roi_align(
        [torch.from_numpy(features)],
        torch.from_numpy(rois),
        output_size=7,
        aligned=True,
        **settings,
    )
    assert pooled.dtype == np.float16
    np.testing.assert_allclose(pooled, expected.numpy(), rtol=2e-3, atol=1e-3)


def test_tensorrt_rtx_compiles_all_of_it_for_every_target(compile_rtx):
    assert compile_rtx(export(example(1)), "SM75", "SM86", "SM89", "SM120")


def test_tensorrt_rtx_compiles_the_loop_over_many_boxes_for_every_target(compile_rtx):
    inputs = (
        torch.zeros(1, 1500, 4),
        torch.zeros(1, 1500),
        torch.zeros(1, 1500, dtype=torch.int64),
    )
    assert compile_rtx(export(inputs, module=ManyBoxes()), "SM75", "SM86", "SM89", "SM120")
