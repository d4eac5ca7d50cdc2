"""What TensorRT's parser is given: a model without functions where the release knows none."""

from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from edgeseg_runtime.errors import EngineBuildError
from edgeseg_runtime.tensorrt import engines


def fake_tensorrt(version, name="tensorrt"):
    """Return a TensorRT of a release; its parser keeps what it is given in `network.given`."""

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    class OnnxParser:
        def __init__(self, network, logger):
            self.network = network

        def parse(self, content):
            self.network.given.append(content)
            return True

    members = {"__version__": version, "ILogger": ILogger, "OnnxParser": OnnxParser}
    return type(name, (), members)


def model_with_a_function(opset):
    """Return an encoded model whose only node calls a function of two nodes."""
    opsets = [helper.make_opsetid("edgeseg", 1), helper.make_opsetid("", opset)]
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Abs", ["b"], ["c"])]
    graph = helper.make_graph(
        [helper.make_node("Positive", ["x"], ["y"], domain="edgeseg")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    function = helper.make_function("edgeseg", "Positive", ["a"], ["c"], body, opsets)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "version", "opset", "is_inlined"),
    [
        ("tensorrt", "8.5.2.2", 17, True),
        ("tensorrt", "8.6.2", 17, True),
        ("tensorrt", "9.3.0", 19, True),
        ("tensorrt", "10.3.0", 20, False),
        ("tensorrt", "11.4.1", 20, False),
        ("tensorrt_rtx", "1.7.1.116", 20, False),
    ],
)
def test_a_release_that_knows_no_functions_gets_their_bodies(name, version, opset, is_inlined):
    content, network = model_with_a_function(opset), SimpleNamespace(given=[])
    engines.parse(fake_tensorrt(version, name), network, content)
    (given,) = network.given
    assert (given != content) is is_inlined
    model = onnx.load_from_string(given)
    onnx.checker.check_model(model)
    operators = ["Relu", "Abs"] if is_inlined else ["Positive"]
    assert [node.op_type for node in model.graph.node] == operators
    assert len(model.functions) == (0 if is_inlined else 1)


@pytest.mark.parametrize(
    ("version", "opset", "newest"),
    [("8.5.2.2", 18, 17), ("8.6.2", 20, 17), ("9.3.0", 20, 19)],
)
def test_an_opset_that_a_release_does_not_read_is_refused(version, opset, newest):
    network = SimpleNamespace(given=[])
    with pytest.raises(EngineBuildError) as info:
        engines.parse(fake_tensorrt(version), network, model_with_a_function(opset))
    assert str(info.value) == (
        f"found a model of opset {opset}, but TensorRT {version} reads up to opset {newest}. "
        "Export it again with --opset 17, or use backend='onnxruntime'."
    )
    assert info.value.exit_code == 4
    assert network.given == []
