"""Small models that test the reading of ONNX files, and mutants of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.onnx.fields import LENGTH_DELIMITED, VARINT, delimited, fields_between

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("edgeseg", 1)]


def node(operator: str, inputs: list[str], outputs: list[str], **attributes) -> onnx.NodeProto:
    """Return a node; `domain` is an attribute of its own."""
    return helper.make_node(operator, inputs, outputs, **attributes)


def constant(name: str, value) -> onnx.TensorProto:
    """Return an initializer."""
    return numpy_helper.from_array(np.asarray(value), name)


def model_of(
    nodes: list[onnx.NodeProto],
    constants: dict | None = None,
    *,
    x: tuple[int, list] = (TensorProto.FLOAT, [2, 3]),
    y: tuple[int, list | None] = (TensorProto.FLOAT, None),
    functions: list[onnx.FunctionProto] | tuple = (),
    opset: int = 20,
) -> onnx.ModelProto:
    """Return a model that makes `y` of `x`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info("y", *y)],
        [constant(name, value) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("edgeseg", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def tiny_model() -> onnx.ModelProto:
    """Return y = x + weights + 1, with a value in each form that ONNX has for one."""
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [3], [1.0, 1.0, 1.0])
    model = model_of(
        [
            node("Constant", [], ["one"], value=ones),
            node("Add", ["x", "weights"], ["sum"], name="first"),
            node("Add", ["sum", "one"], ["shifted"]),
            node("Transpose", ["shifted"], ["turned"], perm=[1, 0]),
            node("Softmax", ["turned"], ["soft"], axis=-1),
            node("LeakyRelu", ["soft"], ["y"], alpha=0.25),
        ],
        {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)},
        y=(TensorProto.FLOAT, [3, 2]),
    )
    model.graph.value_info.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 3]))
    model.graph.initializer.append(helper.make_tensor("half", TensorProto.FLOAT16, [2], [0.5, 2.0]))
    model.graph.initializer.append(helper.make_tensor("ints", TensorProto.INT64, [3], [1, -2, 3]))
    return model


def loop(
    condition: list[onnx.NodeProto],
    *,
    count: str = "",
    needed: str = "on",
    start: str = "x",
    constants: dict | None = None,
) -> onnx.ModelProto:
    """Return a model whose loop's body makes `again` and `after` of `before`, the state."""
    body = helper.make_graph(
        condition,
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("needed", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    nodes = [node("Loop", [count, needed, start], ["y"], name="loop", body=body)]
    return model_of(nodes, {"on": np.array(True), **(constants or {})})


def body_loop() -> onnx.ModelProto:
    """Return a loop of four steps in a function."""
    inner = loop(
        [
            node("Add", ["before", "step_size"], ["after"]),
            node("Less", ["after", "end"], ["again"]),
        ],
        constants={"step_size": np.float32(1), "end": np.float32(4), "start": np.float32(0)},
        start="start",
    ).graph
    nodes = [node("Constant", [], [item.name], value=item) for item in inner.initializer] + list(
        inner.node
    )
    count = helper.make_function("edgeseg", "Count", ["x"], ["y"], nodes, OPSETS[:1])
    call = node("Count", ["x"], ["count"], domain="edgeseg")
    return model_of([call, node("Add", ["x", "count"], ["y"])], functions=[count])


def fan(*, depth: int, width: int, nbytes: int = 0) -> onnx.ModelProto:
    """Return functions that call the next one `width` times each, width^depth nodes when written out."""
    functions = []
    for level in range(depth + 1):
        operator = "Neg" if level == depth else f"F{level + 1}"
        domain = "" if level == depth else "edgeseg"
        names = ["a", *(f"v{index}" for index in range(width - 1)), "b"]
        nodes = [
            node(operator, [before], [after], domain=domain)
            for before, after in itertools.pairwise(names)
        ]
        if nbytes and level == depth:
            nodes.append(node("Constant", [], ["c"], value=constant("", np.zeros(nbytes, np.int8))))
        functions.append(helper.make_function("edgeseg", f"F{level}", ["a"], ["b"], nodes, OPSETS))
    call = node("F0", ["x"], ["y"], domain="edgeseg")
    return model_of([call], functions=functions)


def with_long_tag(content: bytes) -> bytes:
    """Return a model whose graph's tag is a varint of 33 bits, of which some libraries keep 32."""
    (graph,) = [f for f in fields_between(content, 0, len(content)) if f.number == 7]
    tag = bytes([0x3A | 0x80, 0x80, 0x80, 0x80, 0x10])
    return content[: graph.start] + tag + content[graph.start + 1 :]


# ---------------------------------------------------------------- mutants


def mutants(content: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield models with one to three fields changed, at any depth."""
    for _ in range(count):
        mutant = content
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            mutant = mutate_message(mutant, rng)
        yield mutant


def mutate_message(data: bytes, rng: random.Random) -> bytes:
    """Return an encoded message with one field changed: here, or in a message below it."""
    try:
        fields = list(fields_between(data, 0, len(data)))
    except ValueError:
        return _with_byte(data, rng)
    if not fields:
        return data + rng.choice((b"", b"\x08\x01", b"\x12\x01a"))
    field = rng.choice(fields)
    raw, content = data[field.start : field.end], data[field.content : field.end]
    is_message = field.wire_type == LENGTH_DELIMITED and len(content) > 1
    if is_message and rng.random() < 0.8:
        new = delimited(field.number, mutate_message(content, rng))
    else:
        new = _mutated_field(field.number, field.wire_type, raw, content, field.value, rng)
    return data[: field.start] + new + data[field.end :]


def _mutated_field(
    number: int, wire_type: int, raw: bytes, content: bytes, value: int, rng: random.Random
) -> bytes:
    choice = rng.randrange(8)
    if choice == 0:
        return b""
    if choice == 1:
        return raw + raw
    if choice == 2 and wire_type == VARINT:
        return _varint(number << 3) + _varint(rng.choice(NUMBERS) % 2**64)
    if choice == 3 and wire_type == VARINT:
        return _varint(number << 3) + _varint((value + rng.choice((-1, 1))) % 2**64)
    if choice == 4:  # another field
        return _varint(rng.choice((1, 2, 5, 7, 9, 13, 14, 20, 25)) << 3 | wire_type) + raw[1:]
    if choice == 5 and wire_type == LENGTH_DELIMITED:
        return delimited(number, rng.choice((b"", content[:-1], content * 2, b"\xff\xfe", b"x")))
    if choice == 6:  # the same, written otherwise
        tag = number << 3 | wire_type
        return bytes([tag & 127 | 128, 0x80, 0x80, 0x80, 0x10]) + raw[len(_varint(tag)) :]
    return _with_byte(raw, rng)


NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**63,
    -1,
    -2,
    -(2**31),
)


def _with_byte(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    position = rng.randrange(len(data))
    byte = data[position] ^ (1 << rng.randrange(8))
    return data[:position] + bytes([byte]) + data[position + 1 :]


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
