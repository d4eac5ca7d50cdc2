"""read_model: what it accepts means the same to protobuf; everything else is refused."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import body_loop, fan, mutants, tiny_model, with_long_tag
from tiny_bundle import tiny_model as picture_model

from edgeseg_runtime.onnx.model import DTYPES, ExternalData, read_model

NUM_MUTANTS = 3000


def accepted(content):
    """Return the model that our reader sees, or None if it refuses."""
    try:
        return read_model(content)
    except ValueError:
        return None


# ---------------------------------------------------------------- against protobuf


def nodes_of(nodes):
    return [
        (
            node.op_type,
            "" if node.domain == "ai.onnx" else node.domain,
            node.name,
            tuple(node.input),
            tuple(node.output),
            {item.name: attribute_of(item) for item in node.attribute},
        )
        for node in nodes
    ]


def attribute_of(item):
    if item.type == onnx.AttributeProto.GRAPH:
        return graph_of(item.g)
    if item.type == onnx.AttributeProto.TENSOR:
        return tensor_of(item.t)
    value = helper.get_attribute_value(item)
    return np.float32(value).tobytes() if item.type == onnx.AttributeProto.FLOAT else value


def tensor_of(tensor):
    assert not tensor.external_data
    assert tensor.data_location == TensorProto.DEFAULT
    array = numpy_helper.to_array(tensor)
    return (tensor.name, tensor.data_type, array.shape, array.tobytes())


def value_of(value):
    kind = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    return (value.name, kind.elem_type, tuple(sizes) if kind.HasField("shape") else None)


def graph_of(graph):
    return (
        nodes_of(graph.node),
        *([value_of(v) for v in part] for part in (graph.input, graph.output, graph.value_info)),
        [tensor_of(tensor) for tensor in graph.initializer],
    )


def our_nodes(nodes):
    return [
        (
            node.operator,
            node.domain,
            node.name,
            node.inputs,
            node.outputs,
            {name: our_attribute(*item) for name, item in node.attributes.items()},
        )
        for node in nodes
    ]


def our_attribute(kind, value):
    if kind == onnx.AttributeProto.GRAPH:
        return our_graph(value)
    if kind == onnx.AttributeProto.TENSOR:
        return our_tensor(value)
    if kind == onnx.AttributeProto.FLOATS:
        return value.tolist()
    return np.float32(value).tobytes() if kind == onnx.AttributeProto.FLOAT else value


def our_tensor(tensor):
    return (tensor.name, tensor.dtype, tensor.shape, tensor.array().tobytes())


def our_graph(graph):
    return (
        our_nodes(graph.nodes),
        *(
            [(v.name, v.dtype, v.shape) for v in part]
            for part in (graph.inputs, graph.outputs, graph.values)
        ),
        [our_tensor(tensor) for tensor in graph.initializers],
    )


def assert_same(content, model):
    """Compare all that an engine acts upon."""
    reference = onnx.ModelProto.FromString(content)
    assert our_graph(model.graph) == graph_of(reference.graph)
    assert model.ir_version == reference.ir_version
    assert not reference.training_info
    assert not reference.graph.sparse_initializer
    assert model.opsets == {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version
        for entry in reference.opset_import
    }
    assert [
        (*item.key, item.inputs, item.outputs, our_nodes(item.nodes))
        for item in model.functions.values()
    ] == [
        (
            item.domain,
            item.name,
            item.overload,
            (*item.input,),
            (*item.output,),
            nodes_of(item.node),
        )
        for item in reference.functions
    ]


SEEDS = {
    "a function and a loop": body_loop(),
    "functions in functions": fan(depth=2, width=2),
    "typed data": tiny_model(),
    "a picture": picture_model(),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_model_means_the_same_as_to_protobuf(name):
    content = SEEDS[name].SerializeToString()
    assert_same(content, read_model(content))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_accepted_of_mutated_models_means_the_same_to_protobuf(seed):
    rng = random.Random(seed)
    content = list(SEEDS.values())[seed].SerializeToString()
    num_accepted = 0
    for mutant in mutants(content, rng, NUM_MUTANTS // 4):
        model = accepted(mutant)
        if model is not None:
            num_accepted += 1
            assert_same(mutant, model)
    assert num_accepted > 20, "a test that refuses everything shows nothing"


# ---------------------------------------------------------------- refusals

GOOD = tiny_model().SerializeToString()


def text(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


REFUSALS = {
    "a tag of 33 bits": (with_long_tag(GOOD), "a tag 0x10000003a at byte"),
    "field number 0": (b"\x00\x01" + GOOD, "a tag 0x0 at byte 0"),
    "a group": (b"\x0b\x0c" + GOOD, "wire type 3 at byte 0"),
    "a number with a byte too many": (b"\x08\x88\x00" + GOOD[2:], "not written as protobuf does"),
    "a number of 65 bits": (b"\x08" + b"\xff" * 9 + b"\x02" + GOOD[2:], "not written as protobuf"),
    "a length of 32 bits": (b"\x12" + b"\x80\x80\x80\x80\x08" + GOOD, "of more than 31 bits"),
    "a length beyond the end": (GOOD + b"\x12\x05a", "a field ends at byte"),
    "a number where a text stands": (GOOD + b"\x10\x01", "wire type 0 at byte"),
    "a text where a number stands": (text(1, b"\x08") + GOOD[2:], "wire type 2 at byte 0"),
    "a number twice": (GOOD + GOOD[:2], "field 1 of a model is given twice"),
    "two graphs, which protobuf merges": (GOOD + text(7, b""), "field 7 of a model is given twice"),
    "a field that ONNX does not have": (GOOD + b"\xf8\x07\x01", "field 127 of a model"),
    "a name that is not UTF-8": (GOOD.replace(b"weights", b"weight\xff"), "can't decode byte 0xff"),
    "a name with an escape": (GOOD.replace(b"weights", b"weight\x1b"), "cannot be printed"),
    "a name with half a surrogate": (GOOD.replace(b"weights", b"wei\xed\xa0\x80s"), "can't decode"),
    "no graph": (GOOD[:2], "no graph in it"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_libraries_read_in_different_ways_is_refused(name):
    content, message = REFUSALS[name]
    assert accepted(GOOD) is not None
    with pytest.raises(ValueError, match=message):
        read_model(content)


def changed(change):
    model = tiny_model()
    change(model)
    return model.SerializeToString()


def clear(model, field):
    model.graph.initializer[0].ClearField(field)


def add(model, **fields):
    model.graph.initializer.add(name="added", dims=[1], **fields)


CHANGES = {
    "data and typed data": (
        lambda m: m.graph.initializer[0].float_data.append(1.0),
        "keeps its data in raw and floats",
    ),
    "less data than its shape": (
        lambda m: m.graph.initializer[0].dims.append(2),
        r"of shape \[2, 3, 2\] has data of another size",
    ),
    "a negative size": (
        lambda m: m.graph.initializer[0].dims.__setitem__(0, -2),
        r"is of shape \[-2, 3\]",
    ),
    "a truth value of 14336": (
        lambda m: add(m, data_type=TensorProto.BOOL, int32_data=[14336]),
        "has numbers that bool does not have",
    ),
    "a truth value of 2, raw": (
        lambda m: add(m, data_type=TensorProto.BOOL, raw_data=b"\x02"),
        "has numbers that bool does not have",
    ),
    "an int8 of 128": (
        lambda m: add(m, data_type=TensorProto.INT8, int32_data=[128]),
        "has numbers that int8 does not have",
    ),
    "17 bits of a float16": (
        lambda m: add(m, data_type=TensorProto.FLOAT16, int32_data=[65536]),
        "has numbers that float16 does not have",
    ),
    "strings": (
        lambda m: m.graph.initializer[0].MergeFrom(TensorProto(data_type=TensorProto.STRING)),
        "is of type 8, which a bundle may not have",
    ),
    "a sparse tensor": (lambda m: m.graph.sparse_initializer.add(), "field 15 of a graph"),
    "training": (lambda m: m.training_info.add(), "field 20 of a model"),
    "a sequence": (
        lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent(),
        "field 4 of a type",
    ),
    "an element type that there is not": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
        "the value 'x' is of type 99, which a bundle may not have",
    ),
    "an attribute of another type": (
        lambda m: setattr(m.graph.node[0].attribute[0], "i", 1),
        "the attribute 'value' is said to be of type 4 and is of another",
    ),
    "an attribute of no type": (
        lambda m: m.graph.node[0].attribute[0].ClearField("type"),
        "the attribute 'value' is said to be of type 0",
    ),
    "an attribute twice": (
        lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]),
        "the attribute 'value' is given twice",
    ),
    "one domain under two names": (
        lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 20)),
        "the opset '' is given twice",
    ),
    "a long name": (lambda m: setattr(m.graph.node[0], "name", "n" * 2000), "a name of 2000 bytes"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_bundle_may_not_have_is_refused(name):
    change, message = CHANGES[name]
    with pytest.raises(ValueError, match=message):
        read_model(changed(change))


def test_many_small_fields_are_refused_before_they_take_long():
    with pytest.raises(ValueError, match="more than 500000 fields and numbers"):
        read_model(GOOD + text(8, b"") * 500_001)


def test_nesting_deeper_than_protobuf_allows_is_refused():
    graph = b""
    for _ in range(60):  # a graph in an attribute of a node of a graph
        node = long_text(5, long_text(6, graph) + b"\xa0\x01\x05")
        graph = long_text(1, node)
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        read_model(GOOD[:2] + long_text(7, graph))


def long_text(number, content):
    size = len(content)
    encoded = bytearray()
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes([number << 3 | 2]) + bytes(encoded) + content


# ---------------------------------------------------------------- external data


@pytest.mark.parametrize("half", ["external_data", "data_location", None])
def test_a_reference_to_another_file_is_refused_and_so_is_half_of_one(half):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        if half:
            tensor.ClearField(half)

    with pytest.raises(ExternalData, match="keeps its data in another file"):
        read_model(changed(change))


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
def test_the_numbers_of_a_constant_are_onnx_own(dtype, is_raw):
    values = [0, 1, 1, 0, 1, 0]
    tensor = helper.make_tensor("t", dtype, [2, 3], values)
    if is_raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "t")
    model = tiny_model()
    model.graph.initializer.append(tensor)
    found = read_model(model.SerializeToString()).graph.initializers[-1]
    assert (found.name, found.dtype, found.shape, found.num_elements) == ("t", dtype, (2, 3), 6)
    if DTYPES[dtype] == "bfloat16":
        assert found.array() is None
    else:
        np.testing.assert_array_equal(found.array(), numpy_helper.to_array(tensor))
