"""Runs one operator as an ONNX model, or compiles it with TensorRT-RTX."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseg_export.functions import add_functions


def single_node_model(op_type, inputs, attributes):
    def value(name, dtype, *axes):
        first = "O" if name in {"input_2", "input_3"} and op_type == "DeformConv2d" else "B"
        return helper.make_tensor_value_info(name, dtype, [first, *axes])

    names = ["" if array is None else f"input_{index}" for index, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if name}
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    outputs = {
        "DeformConv2d": [value("y", types["input_0"], "O", "R", "S")],
        "Nms": [value("indices", TensorProto.INT64, "K"), value("valid", TensorProto.BOOL, "K")],
        "PyramidRoiAlign": [value("pooled", types["input_0"], "R", "C", "PH", "PW")],
    }[op_type]
    node = helper.make_node(
        op_type, names, [output.name for output in outputs], domain="edgeseg", **attributes
    )
    graph = helper.make_graph(
        [node],
        "single",
        [value(name, types[name], *array.shape[1:]) for name, array in given.items()],
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
