"""A model with its weights beside the protobuf is the same model, and copies of it share them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_cases import model_of, node

from edgeseg_export.onnx_model import OnnxModel, model_from_proto
from edgeseg_export.passes.drop_outputs import drop_outputs
from edgeseg_export.sessions import cpu_session
from edgeseg_export.weights import share_arrays

LARGE = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)
WEIGHTS = {
    "w": LARGE,
    "half": LARGE.astype(np.float16),
    "truths": LARGE > 3,
    "one": np.ones(1, np.float32),
}


@pytest.fixture
def proto():
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Add", ["x", "one"], ["z"])]
    return model_of(nodes, WEIGHTS, x=(1, [1, 32]), y=(1, [1, 32]))


def test_the_encoded_model_is_the_protobuf_s(proto):
    model = model_from_proto(proto)
    assert set(model.weights) == {"w", "half", "truths"}
    assert model.proto.ByteSize() < 2000
    assert model.to_bytes() == proto.SerializeToString(deterministic=True)
    assert model.to_proto() == proto


def test_an_engine_gets_the_weights(proto):
    model = drop_outputs(model_from_proto(proto), ["y"])
    onnx.checker.check_model(model.described())
    x = np.ones((1, 32), np.float32)
    session = cpu_session(model)
    del model
    np.testing.assert_allclose(session.run(["y"], {"x": x})[0], x @ LARGE)


def test_copies_share_weights_and_change_alone(proto):
    model = model_from_proto(proto)
    copy = model.copy()
    assert all(copy.weights[name] is value for name, value in model.weights.items())
    copy.add_initializer("more", LARGE.T)
    copy.keep_initializers({"w", "more"})
    assert [tensor.name for tensor in copy.graph.initializer] == ["w", "more"]
    assert model.to_proto() == proto
    whole = copy.to_proto().graph.initializer[1]
    np.testing.assert_array_equal(numpy_helper.to_array(whole), LARGE.T)


def test_models_traced_twice_have_one_array(proto):
    one, other = model_from_proto(proto), model_from_proto(proto)
    other.weights["half"] = other.weights["half"] + np.float16(1)
    share_arrays([one, other])
    assert other.weights["w"] is one.weights["w"]
    assert other.weights["half"] is not one.weights["half"]


def test_a_model_that_holds_everything_is_one_too(proto):
    assert OnnxModel(proto).to_bytes() == proto.SerializeToString(deterministic=True)
