"""inline_functions: the same results without functions, and a refusal of what it cannot do."""

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeseg_runtime.errors import BundleError, CorruptArtifact
from edgeseg_runtime.onnx.inline import inline_functions

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, **attributes)


def call(name, inputs, outputs):
    return helper.make_node(name, inputs, outputs, domain="own", name=f"call_{name}")


def function(name, inputs, outputs, nodes):
    return helper.make_function("own", name, inputs, outputs, nodes, OPSETS)


def subgraph(nodes, inputs, outputs, *constants):
    def value(name):
        return helper.make_tensor_value_info(name, KINDS.get(name, TensorProto.FLOAT), None)

    return helper.make_graph(
        nodes,
        "body",
        [value(name) for name in inputs],
        [value(name) for name in outputs],
        [numpy_helper.from_array(np.float32(number), name) for name, number in constants],
    )


KINDS = {"step": TensorProto.INT64, "goes_on": TensorProto.BOOL, "on": TensorProto.BOOL}


def model_of(nodes, functions):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.array([2, 3, 4], np.float32), "t")],
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8, functions=functions)
    onnx.checker.check_model(model)
    return model


# `t` and `x` are also names of the graph around: a body's own values must not meet them.
ADD_TWICE = function(
    "AddTwice",
    ["a", "b"],
    ["sum"],
    [node("Add", ["a", "b"], ["t"], name="same_name"), node("Add", ["t", "b"], ["sum"])],
)
OPTIONAL = function("Clipped", ["a", "low"], ["y"], [node("Clip", ["a", "low"], ["y"])])
NESTED = function(
    "Nested",
    ["x"],
    ["y"],
    [call("AddTwice", ["x", "x"], ["t"]), call("AddTwice", ["t", "x"], ["y"])],
)
LOOP = function(
    "Power",
    ["x", "factor"],
    ["y"],
    [
        node("Constant", [], ["count"], value_int=3),
        node("Constant", [], ["on"], value=helper.make_tensor("on", TensorProto.BOOL, [], [True])),
        node(
            "Loop",
            ["count", "on", "x"],
            ["y"],
            body=subgraph(
                [
                    node("Identity", ["on"], ["goes_on"]),
                    node("Mul", ["state", "factor"], ["t"]),  # factor belongs to the function
                    node("Add", ["t", "tenth"], ["next"]),
                ],
                ["step", "on", "state"],
                ["goes_on", "next"],
                ("tenth", 0.1),
            ),
        ),
    ],
)
MODELS = {
    "one call": ([call("AddTwice", ["x", "t"], ["y"])], [ADD_TWICE]),
    "two calls": (
        [call("AddTwice", ["x", "t"], ["z"]), call("AddTwice", ["z", "x"], ["y"])],
        [ADD_TWICE],
    ),
    "an optional input": ([call("Clipped", ["x", ""], ["y"])], [OPTIONAL]),
    "a function that calls another": ([call("Nested", ["x"], ["y"])], [ADD_TWICE, NESTED]),
    "a loop with a body": ([call("Power", ["x", "t"], ["y"])], [LOOP]),
    "a function that nobody calls": ([node("Relu", ["x"], ["y"])], [ADD_TWICE]),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_inlined_model_computes_the_same_without_functions(name):
    model = model_of(*MODELS[name])
    found = onnx.load_from_string(inline_functions(model.SerializeToString()))
    onnx.checker.check_model(found, full_check=True)
    assert not found.functions
    assert not any(item.domain == "own" for item in found.graph.node)
    x = np.array([-1.5, 0.25, 7], np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(ReferenceEvaluator(found).run(None, {"x": x})[0], expected)


def test_what_lies_outside_of_nodes_stays_as_it_is():
    model = model_of(*MODELS["two calls"])
    found = onnx.load_from_string(inline_functions(model.SerializeToString()))
    for part in ("input", "output", "initializer", "name"):
        assert getattr(found.graph, part) == getattr(model.graph, part)
    assert found.opset_import == model.opset_import


def test_a_model_without_functions_is_the_same_object():
    content = model_of([node("Relu", ["x"], ["y"])], []).SerializeToString()
    assert inline_functions(content) is content


def test_a_body_that_depends_on_the_attributes_of_its_call_is_refused():
    reader = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT)
    reader.ref_attr_name = "slope"
    leaky = node("LeakyRelu", ["a"], ["y"])
    leaky.attribute.append(reader)
    function_ = helper.make_function("own", "Leak", ["a"], ["y"], [leaky], OPSETS, ["slope"])
    slope = helper.make_node("Leak", ["x"], ["y"], domain="own", slope=0.5)
    with pytest.raises(CorruptArtifact, match="the attribute 'slope' of a call is used"):
        inline_functions(model_of([slope], [function_]).SerializeToString())


def test_functions_that_call_each_other_in_a_circle_are_refused():
    circle = function("Circle", ["a"], ["y"], [call("Circle", ["a"], ["y"])])
    model = model_of([call("AddTwice", ["x", "x"], ["y"])], [ADD_TWICE])
    model.functions.append(circle)
    model.graph.node[0].op_type = "Circle"
    del model.graph.node[0].input[1]
    with pytest.raises(CorruptArtifact, match="more than 16 levels of calls"):
        inline_functions(model.SerializeToString())


CONTENT = model_of(*MODELS["a loop with a body"]).SerializeToString()


@given(position=st.integers(0, len(CONTENT) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_model_or_an_error_of_the_bundle(position, value):
    content = bytearray(CONTENT)
    content[position] = value
    with contextlib.suppress(BundleError):
        assert inline_functions(bytes(content))
