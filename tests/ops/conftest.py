"""Runs one operator as an ONNX model, or compiles it with TensorRT-RTX."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseg.ops.pyramid_atlas import atlas_layout
from edgeseg_export.functions import add_functions


def single_node_model(op_type, inputs, attributes):
    def value(name, dtype, *axes):
        first = "O" if name in {"input_2", "input_3"} and op_type == "DeformConv2d" else "B"
        return helper.make_tensor_value_info(name, dtype, [first, *axes])

    names = ["" if array is None else f"input_{index}" for index, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if name}
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    outputs = {
        "Correlation": [value("likeness", types["input_0"], "D", "H", "W")],
        "DeformConv2d": [value("y", types["input_0"], "O", "R", "S")],
        "Nms": [value("indices", TensorProto.INT64, "K"), value("valid", TensorProto.BOOL, "K")],
        "Warp": [value("moved", types["input_0"], "C", "H", "W")],
    }[op_type]
    node = helper.make_node(
        op_type, names, [output.name for output in outputs], domain="edgeseg", **attributes
    )
    values = [value(name, types[name], *array.shape[1:]) for name, array in given.items()]
    return complete_model([node], values, outputs)


def complete_model(nodes, inputs, outputs, value_info=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, value_info=value_info)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(add_functions(model), full_check=True)
    return model


def pooling_model(features, rois, attributes, *, free_rows=False):
    """The levels' atlas, and boxes pooled from it, whose number is free or that of `rois`."""
    sizes = [level.shape[2:] for level in features]
    layout = atlas_layout(sizes)
    dtype = helper.np_dtype_to_tensor_dtype(features[0].dtype)

    def value(name, *axes, dtype=dtype):
        return helper.make_tensor_value_info(name, dtype, ["B", *axes])

    names = [f"level_{index}" for index in range(len(features))]
    sides = [side for size in sizes for side in size]
    nodes = [
        helper.make_node("PyramidAtlas", names, ["atlas"], domain="edgeseg"),
        helper.make_node(
            "AtlasRoiAlign",
            ["atlas", "rois"],
            ["pooled"],
            domain="edgeseg",
            level_sizes=sides,
            **attributes,
        ),
    ]
    rows = "rows" if free_rows else rois.shape[1]
    inputs = [
        *(value(name, *level.shape[1:]) for name, level in zip(names, features, strict=True)),
        value("rois", rows, 4, dtype=TensorProto.FLOAT),
    ]
    atlas = value("atlas", features[0].shape[1], layout.height, layout.width)
    outputs = [value("pooled", "R", "C", "PH", "PW")]
    return complete_model(nodes, inputs, outputs, [atlas])


def _run_model(model, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    given = [value for value in inputs if value is not None]
    return session.run(None, dict(zip(names, given, strict=True)))


@pytest.fixture
def run_onnx():
    """(op_type, inputs, **attributes) -> outputs in ONNX Runtime, batch axis free; None leaves an input out."""

    def run(op_type, inputs, **attributes):
        inputs = [None if value is None else np.asarray(value) for value in inputs]
        return _run_model(single_node_model(op_type, inputs, attributes), inputs)

    return run


@pytest.fixture
def pool_onnx():
    """(features, rois, **attributes) -> pooled in ONNX Runtime, which is the same if the number of boxes is free.

    To the last bit, unless adaptive sampling adds the samples up in another order.
    """

    def run(features, rois, **attributes):
        features, rois = [np.asarray(level) for level in features], np.asarray(rois)
        fixed, free = (
            _run_model(
                pooling_model(features, rois, attributes, free_rows=free_rows), [*features, rois]
            )
            for free_rows in (False, True)
        )
        atol = 0 if attributes["sampling_ratio"] else 1e-5
        np.testing.assert_allclose(free[0], fixed[0], rtol=0, atol=atol)
        return fixed[0]

    return run


@pytest.fixture
def run_model():
    """(model, inputs in their order) -> outputs in ONNX Runtime."""
    return _run_model


@pytest.fixture
def compile_rtx():
    """(model, *compute capabilities) -> plan in bytes."""
    trt = pytest.importorskip("tensorrt_rtx")

    def compile_(model, *capabilities):
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        plan = builder.build_serialized_network(network, config)
        assert plan is not None
        return bytes(plan)

    return compile_
