"""Describes an encoded ONNX model for people, also one that no bundle may hold.

Only what is asked for is looked at, so foreign operators, types and external data do not matter.
Fields: onnx/onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edgeseg_runtime.onnx.fields import Field, fields_between

__all__ = ["in_order", "summarise"]

OWN_DOMAIN = "edgeseg"
STANDARD_DOMAINS = ("", "ai.onnx")

_MODEL = {"ir_version": 1, "producer_name": 2, "producer_version": 3, "graph": 7, "opset": 8, "function": 25}  # fmt: skip
_GRAPH = {"node": 1, "weight": 5, "input": 11, "output": 12}
_NODE = {"operator": 4, "domain": 7}
_FUNCTION = {"name": 1, "domain": 10}
_WEIGHT_NAME = 8
_TYPES = {1: "tensor", 4: "sequence_type", 5: "map_type", 8: "sparse_tensor_type", 9: "optional_type"}  # fmt: skip
_DTYPES = (
    "undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool",
    "float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "uint4", "int4",
    "float4_e2m1fn", "float8_e8m0fnu",
)  # fmt: skip
"""Names of TensorProto.DataType, by number."""


def summarise(onnx: bytes) -> dict[str, Any]:
    """Return `graph`, `operators`, `inputs` and `outputs` of a model, as a JSON document.

    `graph` holds producer, versions, the number of nodes and the functions, `operators` counts the
    operators of the main graph.

    Raises:
        ValueError: if the bytes are not a model, or one without nodes.
    """
    model = _Message(onnx, 0, len(onnx))
    graphs = list(model.messages(_MODEL["graph"]))
    nodes = [node for graph in graphs for node in graph.messages(_GRAPH["node"])]
    if not nodes:
        raise ValueError("no graph")
    (graph, *_) = graphs
    weights = set(graph.texts_in(_GRAPH["weight"], _WEIGHT_NAME))
    inputs = [_value(value) for value in graph.messages(_GRAPH["input"])]
    producer = f"{model.text(_MODEL['producer_name'])} {model.text(_MODEL['producer_version'])}"
    return {
        "graph": {
            "producer": producer.strip(),
            "ir_version": model.number(_MODEL["ir_version"]),
            "opsets": {
                opset.text(1) or "ai.onnx": opset.number(2)
                for opset in model.messages(_MODEL["opset"])
            },
            "num_nodes": len(nodes),
            "functions": [
                f"{function.text(_FUNCTION['domain'])}::{function.text(_FUNCTION['name'])}"
                for function in model.messages(_MODEL["function"])
            ],
        },
        "operators": in_order(Counter(map(_operator, nodes))),
        "inputs": [value for value in inputs if value["name"] not in weights],
        "outputs": [_value(value) for value in graph.messages(_GRAPH["output"])],
    }


def in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts of operators, edgeseg's own first, then by number."""
    order = sorted(
        counts, key=lambda name: (not name.startswith(f"{OWN_DOMAIN}::"), -counts[name], name)
    )
    return {name: counts[name] for name in order}


class _Message:
    """An encoded message, whose fields are read when they are asked for."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self.fields: dict[int, list[Field]] = {}
        for field in fields_between(data, start, end):
            self.fields.setdefault(field.number, []).append(field)

    def messages(self, number: int) -> Iterator[_Message]:
        """Yield the messages of a field that may be repeated."""
        for field in self.fields.get(number, ()):
            if not field.has_content:
                raise ValueError(f"a number in field {number}, where a message belongs")
            yield _Message(self._data, field.content, field.end)

    def message(self, number: int) -> _Message:
        """Return the message of a field, an empty one if there is none."""
        return next(self.messages(number), _Message(b"", 0, 0))

    def text(self, number: int) -> str:
        """Return the text of a field, with escapes for what is not UTF-8; empty if there is none."""
        field = self.fields.get(number, (None,))[-1]
        if field is None or not field.has_content:
            return ""
        return self._data[field.content : field.end].decode("utf-8", "backslashreplace")

    def texts_in(self, number: int, inner: int) -> Iterator[str]:
        """Yield a text of each message of a field, whose other fields may be very many."""
        for field in self.fields.get(number, ()):
            for found in fields_between(self._data, field.content, field.end):
                if found.number == inner and found.has_content:
                    yield self._data[found.content : found.end].decode("utf-8", "backslashreplace")

    def number(self, number: int) -> int:
        """Return the number of a field, 0 if there is none."""
        field = self.fields.get(number, (None,))[-1]
        return 0 if field is None else field.value - 2**64 * (field.value >= 2**63)


def _operator(node: _Message) -> str:
    domain, operator = node.text(_NODE["domain"]), node.text(_NODE["operator"])
    return operator if domain in STANDARD_DOMAINS else f"{domain}::{operator}"


def _value(value: _Message) -> dict[str, Any]:
    kind = value.message(2)
    held = next((name for number, name in _TYPES.items() if number in kind.fields), "?")
    if held != "tensor":  # a sequence, a map: not of this project's
        return {"name": value.text(1), "dtype": held, "shape": []}
    tensor = kind.message(1)
    number = tensor.number(1)
    return {
        "name": value.text(1),
        "dtype": _DTYPES[number] if 0 <= number < len(_DTYPES) else f"type {number}",
        "shape": [
            dim.number(1) if 1 in dim.fields else dim.text(2) or "?"
            for dim in tensor.message(2).messages(1)
        ],
    }
