"""check_self_contained: finds a reference to another file wherever ONNX allows one."""

import contextlib
import time

import numpy as np
import pytest
from onnx import TensorProto, TrainingInfoProto, helper, numpy_helper
from tiny_bundle import tiny_model

from edgeseg_runtime.errors import BundleError, CorruptArtifact
from edgeseg_runtime.onnx_check import check_self_contained


def tensor(*, is_external=True):
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "weight")
    if is_external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="weights.bin")
    return weight


def graph_of(*nodes, **options):
    output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [2, 2])
    return helper.make_graph(nodes, "graph", [], [output], **options)


def constant(**attributes):
    return helper.make_node("Constant", [], ["weight"], **attributes)


def in_initializer(weight):
    return helper.make_model(graph_of(initializer=[weight]))


def in_sparse_values(weight):
    sparse = helper.make_sparse_tensor(weight, tensor(is_external=False), [4])
    return helper.make_model(graph_of(sparse_initializer=[sparse]))


def in_sparse_indices(weight):
    sparse = helper.make_sparse_tensor(tensor(is_external=False), weight, [4])
    return helper.make_model(graph_of(sparse_initializer=[sparse]))


def in_attribute(weight):
    return helper.make_model(graph_of(constant(value=weight)))


def in_list_attribute(weight):
    return helper.make_model(graph_of(constant(values=[tensor(is_external=False), weight])))


def in_sparse_attribute(weight):
    sparse = helper.make_sparse_tensor(weight, tensor(is_external=False), [4])
    return helper.make_model(graph_of(constant(sparse_value=sparse)))


def in_branch(weight):
    inner = graph_of(constant(value=weight))
    node = helper.make_node("If", ["x"], ["y"], then_branch=graph_of(), else_branch=inner)
    return helper.make_model(graph_of(node))


def in_list_of_graphs(weight):
    node = helper.make_node("Any", ["x"], ["y"], graphs=[graph_of(initializer=[weight])])
    return helper.make_model(graph_of(node))


def in_function(weight):
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("own", "F", [], ["weight"], [constant(value=weight)], [opset])
    return helper.make_model(graph_of(), functions=[function])


def in_function_default(weight):
    opset = helper.make_opsetid("", 17)
    function = helper.make_function(
        "own",
        "F",
        [],
        ["weight"],
        [],
        [opset],
        attribute_protos=[helper.make_attribute("value", weight)],
    )
    return helper.make_model(graph_of(), functions=[function])


def in_training(weight):
    model = helper.make_model(graph_of())
    model.training_info.append(TrainingInfoProto(algorithm=graph_of(initializer=[weight])))
    return model


PLACES = [
    in_initializer,
    in_sparse_values,
    in_sparse_indices,
    in_attribute,
    in_list_attribute,
    in_sparse_attribute,
    in_branch,
    in_list_of_graphs,
    in_function,
    in_function_default,
    in_training,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_external_data_is_found_in_every_place_that_holds_a_tensor(place):
    with pytest.raises(BundleError, match=r"model\.onnx keeps weights in other files") as info:
        check_self_contained(place(tensor()).SerializeToString())
    assert info.value.exit_code == 3
    check_self_contained(place(tensor(is_external=False)).SerializeToString())


@pytest.mark.parametrize("half", ["external_data", "data_location"])
def test_half_a_reference_is_refused_too(half):
    weight = tensor()
    weight.ClearField(half)
    with pytest.raises(BundleError, match="other files"):
        check_self_contained(in_initializer(weight).SerializeToString())


def test_nesting_of_any_depth_is_walked_through():
    graph = graph_of(initializer=[tensor()])
    for _ in range(25):  # four messages each; protobuf itself stops at 100
        graph = graph_of(helper.make_node("Any", ["x"], ["y"], body=graph))
    with pytest.raises(BundleError, match="other files"):
        check_self_contained(helper.make_model(graph).SerializeToString())


ONNX = tiny_model().SerializeToString()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage" * 20, ONNX[:-1], ONNX[:90], b"\xff" * 64, b"\x0b" * 8, b"\x08" + b"\x80" * 11],
    ids=["empty", "text", "cut by one", "cut", "ones", "group", "endless integer"],
)
def test_what_is_no_model_is_a_corrupt_artifact(content):
    with pytest.raises(CorruptArtifact, match="expected an ONNX model"):
        check_self_contained(content, file="other.onnx")


def test_the_format_of_onnx_runtime_is_refused():
    with pytest.raises(CorruptArtifact, match="ORT format"):
        check_self_contained(b"\x20\0\0\0ORTM" + bytes(100))


@pytest.mark.parametrize("position", range(0, len(ONNX), max(1, len(ONNX) // 200)))
def test_a_flipped_bit_gives_a_typed_error_or_nothing(position):
    content = bytearray(ONNX)
    content[position] ^= 1 << position % 8
    with contextlib.suppress(BundleError):  # anything else fails the test
        check_self_contained(bytes(content))


def test_the_time_does_not_depend_on_the_weights():
    weight = numpy_helper.from_array(np.zeros(2**24, np.float32), "weight")
    onnx = in_initializer(weight).SerializeToString()
    started = time.perf_counter()
    check_self_contained(onnx)
    assert time.perf_counter() - started < 0.1
