"""Weights that graphs share: put in as they are, and nothing believed that a file says of itself."""

import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.bundle.weights import with_weights
from edgeseg_runtime.errors import CorruptArtifact

DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "U8": np.uint8,
    "I8": np.int8,
    "I32": np.int32,
    "I64": np.int64,
    "BOOL": np.bool_,
}


def safetensors(arrays, **changes):
    """Return a safetensors file; `changes` replace parts of the entry of a tensor."""
    header, content = {"__metadata__": {"made": "by hand"}}, b""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    for name, array in arrays.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(content), len(content) + len(raw)],
            **changes.get(name, {}),
        }
        content += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def model_without(arrays, *, empty):
    """Return a model of initializers, some of them without their content."""
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    for tensor in tensors:
        if tensor.name in empty:
            tensor.ClearField("raw_data")
    outputs = [
        helper.make_tensor_value_info(f"{tensor.name}_out", tensor.data_type, tensor.dims)
        for tensor in tensors
    ]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in arrays]
    graph = helper.make_graph(nodes, "graph", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def filled(model, weights):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return with_weights(content, weights, file="model.onnx", weights_file="weights.safetensors")


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int8)}


@pytest.mark.parametrize("empty", [(), ("a",), ("b",), ("a", "b")], ids=str)
def test_what_lacks_its_content_gets_it_and_the_rest_stays_as_it_is(empty):
    whole = model_without(ARRAYS, empty=())
    result = onnx.load_from_string(filled(model_without(ARRAYS, empty=empty), safetensors(ARRAYS)))
    assert result == whole
    onnx.checker.check_model(result)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("shape", [(), (1,), (3, 2, 5)], ids=str)
def test_every_type_comes_back_bit_for_bit(dtype, shape):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, shape).astype(dtype)
    result = onnx.load_from_string(
        filled(model_without({"w": array}, empty=("w",)), safetensors({"w": array}))
    )
    found = numpy_helper.to_array(result.graph.initializer[0])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_an_initializer_of_no_elements_lacks_nothing():
    arrays = {"none": np.zeros((0, 3), np.float32)}
    content = model_without(arrays, empty=("none",)).SerializeToString()
    assert filled(content, safetensors({})) == content


def test_nothing_but_initializers_is_looked_at():
    model = model_without(ARRAYS, empty=())
    model.graph.node.append(
        helper.make_node(
            "Constant", [], ["c"], value=helper.make_tensor("a", TensorProto.FLOAT, [0], [])
        )
    )
    model.metadata_props.add(key="a", value="b")
    content = model.SerializeToString()
    assert filled(content, safetensors(ARRAYS)) == content


@pytest.mark.parametrize(
    ("arrays", "changes"),
    [
        ({}, {}),
        ({"other": ARRAYS["a"]}, {}),
        ({"a": ARRAYS["a"].astype(np.int32)}, {}),
        ({"a": ARRAYS["a"].reshape(3, 2)}, {}),
        ({"a": ARRAYS["a"].reshape(6)}, {}),
    ],
    ids=["no tensors", "another name", "another type", "another shape", "another rank"],
)
def test_an_initializer_that_finds_no_content_is_refused(arrays, changes):
    model = model_without({"a": ARRAYS["a"]}, empty=("a",))
    with pytest.raises(CorruptArtifact) as caught:
        filled(model, safetensors(arrays, **changes))
    assert str(caught.value).startswith(
        "model.onnx is damaged: expected a model for weights.safetensors, found the weights hold no "
        "'a' of type 1 and shape [2, 3]. "
    )
    assert caught.value.exit_code == 3


GOOD = safetensors(ARRAYS)
HEADERS = {
    "empty": (b"", "a header of 0 bytes in a file of 0"),
    "seven bytes": (GOOD[:7], "in a file of 7"),
    "a header of 2^63": (b"\0" * 7 + b"\x80" + GOOD[8:], "a header of 9223372036854775808 bytes"),
    "a header beyond the file": (GOOD[:20], "in a file of 20"),
    "cut off": (GOOD[:-1], "does not lie where its data_offsets say"),
    "no JSON": ((5).to_bytes(8, "little") + b"[1,2,", "not valid JSON"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "expected a JSON object"),
    "no UTF-8": ((2).to_bytes(8, "little") + b"\xff\xff", "utf-8"),
    "twice": (
        (16).to_bytes(8, "little") + b'{"a": 1, "a": 2}',
        "the key 'a' is given twice",
    ),
    "deep": ((400_000).to_bytes(8, "little") + b"[" * 400_000, "nested deeper"),
    "a number for a tensor": ((8).to_bytes(8, "little") + b'{"a": 1}', "no dtype, shape and"),
}
ENTRIES = {
    "out of the file": ({"data_offsets": [4, 28]}, "'b' does not lie where"),
    "far out of the file": ({"data_offsets": [2**62, 2**62 + 4]}, "'b' does not lie where"),
    "before the file": ({"data_offsets": [-24, -20]}, "'b' has dtype 'I8'"),
    "backwards": ({"data_offsets": [28, 24]}, "'b' does not lie where"),
    "three offsets": ({"data_offsets": [0, 4, 4]}, "'b' has dtype 'I8'"),
    "offsets of text": ({"data_offsets": ["0", "4"]}, "'b' has dtype 'I8'"),
    "true for a size": ({"shape": [True, 4]}, "'b' has dtype 'I8'"),
    "on another tensor": ({"data_offsets": [0, 4]}, "lies on another one"),
    "half on another tensor": ({"data_offsets": [22, 26]}, "'b' lies on another one"),
    "too few bytes": ({"shape": [5]}, "'b' does not lie where"),
    "an unknown type": ({"dtype": "BF16"}, "'b' has dtype 'BF16'"),
    "a type that is not one": ({"dtype": ["I8"]}, "'b' has dtype ['I8']"),
    "many axes": ({"shape": [1] * 16 + [4]}, "'b' has dtype 'I8', shape [1, 1, 1"),
    "a size without end": ({"shape": [10**3000]}, "'b' does not lie where"),
    "one key more": ({"more": 1}, "'b' has no dtype, shape and data_offsets"),
}


@pytest.mark.parametrize(("weights", "message"), HEADERS.values(), ids=HEADERS.keys())
def test_a_file_that_is_no_safetensors_file_is_refused(weights, message):
    with pytest.raises(CorruptArtifact) as caught:
        filled(model_without(ARRAYS, empty=("a",)), weights)
    assert str(caught.value).startswith(
        "weights.safetensors is damaged: expected a safetensors file, found "
    )
    assert message in str(caught.value)


@pytest.mark.parametrize(("change", "message"), ENTRIES.values(), ids=ENTRIES.keys())
def test_a_tensor_that_contradicts_its_file_is_refused_even_if_no_graph_wants_it(change, message):
    with pytest.raises(CorruptArtifact) as caught:
        filled(model_without(ARRAYS, empty=()), safetensors(ARRAYS, b=change))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_header_of_many_sizes_is_refused_at_once():
    sizes = {"shape": [3] * 200_000}
    with pytest.raises(CorruptArtifact, match="'b' has dtype"):
        filled(model_without(ARRAYS, empty=()), safetensors(ARRAYS, b=sizes))


def test_a_header_larger_than_any_of_ours_is_refused():
    text = b'{"__metadata__": "' + b"x" * 5_000_000 + b'"}'
    with pytest.raises(CorruptArtifact, match="characters, expected at most"):
        filled(model_without(ARRAYS, empty=()), len(text).to_bytes(8, "little") + text)


def test_sizes_in_the_packed_form_are_read_too():
    """Newer schemas pack repeated integers; ours does not, but a reader takes both."""
    array = np.arange(300, dtype=np.float32).reshape(300, 1)
    tensor = numpy_helper.from_array(array, "w")
    tensor.ClearField("raw_data")
    tensor.ClearField("dims")
    packed = tensor.SerializeToString() + b"\x0a\x03\xac\x02\x01"  # field 1: 300, 1
    graph = b"\x2a" + bytes([len(packed)]) + packed
    result = filled(b"\x3a" + bytes([len(graph)]) + graph, safetensors({"w": array}))
    assert array.tobytes() in result
    many = tensor.SerializeToString() + b"\x0a\x11" + b"\x01" * 17
    graph = b"\x2a" + bytes([len(many)]) + many
    with pytest.raises(CorruptArtifact, match="more than 16 axes"):
        filled(b"\x3a" + bytes([len(graph)]) + graph, safetensors({"w": array}))


@pytest.mark.parametrize("content", [b"garbage", b"\x3a\x05abc"], ids=["text", "cut off"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(CorruptArtifact, match=r"model\.onnx is damaged"):
        filled(content, GOOD)


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_a_header_never_ends_in_anything_but_a_refusal_or_the_right_tensor(seed):
    rng = np.random.default_rng(seed)
    size = int.from_bytes(GOOD[:8], "little") + 8
    for _ in range(200):
        weights = bytearray(GOOD)
        weights[rng.integers(size)] ^= 1 << rng.integers(8)
        try:
            result = filled(model_without(ARRAYS, empty=("a", "b")), bytes(weights))
        except CorruptArtifact:
            continue
        for tensor in onnx.load_from_string(result).graph.initializer:
            assert len(tensor.raw_data) == math.prod(tensor.dims) * ARRAYS[tensor.name].itemsize
