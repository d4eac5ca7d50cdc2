"""Runs one operator as an ONNX model, or compiles it with TensorRT-RTX."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseg_export.functions import add_functions


def single_node_model(op_type, inputs, attributes):
    def value(name, dtype, *axes):
        return helper.make_tensor_value_info(name, dtype, ["B", *axes])

    types = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in inputs]
    names = [f"input_{index}" for index in range(len(inputs))]
    outputs = {
        "Nms": [value("indices", TensorProto.INT64, "K"), value("valid", TensorProto.BOOL, "K")],
        "PyramidRoiAlign": [value("pooled", types[0], "R", "C", "PH", "PW")],
    }[op_type]
    node = helper.make_node(
        op_type, names, [output.name for output in outputs], domain="edgeseg", **attributes
    )
    graph = helper.make_graph(
        [node],
        "single",
        [
            value(name, dtype, *array.shape[1:])
            for name, dtype, array in zip(names, types, inputs, strict=True)
        ],
        outputs,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(add_functions(model), full_check=True)
    return model


def _run_model(model, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


@pytest.fixture
def run_onnx():
    """(op_type, inputs, **attributes) -> outputs in ONNX Runtime, batch axis free."""

    def run(op_type, inputs, **attributes):
        inputs = [np.asarray(value) for value in inputs]
        return _run_model(single_node_model(op_type, inputs, attributes), inputs)

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
