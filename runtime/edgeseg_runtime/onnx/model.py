"""Reads an encoded ONNX model, so strictly that every engine must read the same.

What protobuf's libraries treat in different ways is refused: unknown fields and enumeration values,
a field with another wire type than its own, one given twice that may be given once (protobuf takes
the last number, and merges messages), texts that are not UTF-8. Large arrays are not copied: the
time does not depend on the size of the weights.

Fields: onnx/onnx.proto of ONNX 1.23, IR version 14, without those that refer to other files, to
devices and to training, and without strings, sequences, maps, optional and sparse tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx.fields import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    Field,
    fields_between,
    read_varint,
)

__all__ = [
    "DTYPES",
    "ExternalData",
    "Function",
    "Graph",
    "Key",
    "Model",
    "Node",
    "Tensor",
    "ValueInfo",
    "read_model",
]

MAX_ENTRIES = 500_000
"""Fields, and numbers in packed arrays, that a model may have: ten times as many as the largest of
edgeseg's. Reading them takes about a second."""
MAX_NESTING = 100
"""Messages within messages; protobuf's own limit."""
MAX_TEXT = 1024
"""Bytes of a name."""
MAX_INLINE = 2**16
"""Elements of constants that are looked into."""

DTYPES: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""Element types that a bundle may hold -> their names in NumPy, which lacks bfloat16.

Not strings and complex numbers, and not the types of 8 and fewer bits since ONNX 1.14, which engines
pack in different ways.
"""
_TYPED_DATA = {
    "floats": (1,),
    "int32s": (2, 3, 4, 5, 6, 9, 10, 16),
    "int64s": (7,),
    "doubles": (11,),
    "uint64s": (12, 13),
}
"""Field that holds a tensor's elements if they are not raw -> element types."""


Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


class ExternalData(ValueError):  # noqa: N818  - named for what was found, as in errors.py
    """A tensor keeps its data in another file."""


class _Kind(NamedTuple):
    """How a field is encoded, and what it becomes.

    Attributes:
        name: key of the message that was read.
        content: "int64", "int32", "uint64", "float32", "float64", "name", "text" (long, only
            checked), "bytes" (left where it is), or the message that it holds.
        is_repeated: whether it is a list.
    """

    name: str
    content: str
    is_repeated: bool = False


_FORBIDDEN = _Kind("external", "external")
_METADATA = _Kind("metadata", "pair", is_repeated=True)

_MESSAGES: dict[str, dict[int, _Kind]] = {
    "model": {
        1: _Kind("ir_version", "int64"),
        2: _Kind("producer_name", "text"),
        3: _Kind("producer_version", "text"),
        4: _Kind("domain", "text"),
        5: _Kind("model_version", "int64"),
        6: _Kind("doc_string", "text"),
        7: _Kind("graph", "graph"),
        8: _Kind("opsets", "opset", is_repeated=True),
        14: _METADATA,
        25: _Kind("functions", "function", is_repeated=True),
    },
    "opset": {1: _Kind("domain", "name"), 2: _Kind("version", "int64")},
    "pair": {1: _Kind("key", "text"), 2: _Kind("value", "text")},
    "graph": {
        1: _Kind("nodes", "node", is_repeated=True),
        2: _Kind("name", "text"),
        5: _Kind("initializers", "tensor", is_repeated=True),
        10: _Kind("doc_string", "text"),
        11: _Kind("inputs", "value", is_repeated=True),
        12: _Kind("outputs", "value", is_repeated=True),
        13: _Kind("values", "value", is_repeated=True),
        16: _METADATA,
    },
    "function": {
        1: _Kind("name", "name"),
        4: _Kind("inputs", "name", is_repeated=True),
        5: _Kind("outputs", "name", is_repeated=True),
        6: _Kind("attribute_names", "name", is_repeated=True),
        7: _Kind("nodes", "node", is_repeated=True),
        8: _Kind("doc_string", "text"),
        9: _Kind("opsets", "opset", is_repeated=True),
        10: _Kind("domain", "name"),
        12: _Kind("values", "value", is_repeated=True),
        13: _Kind("overload", "name"),
        14: _METADATA,
    },
    "node": {
        1: _Kind("inputs", "name", is_repeated=True),
        2: _Kind("outputs", "name", is_repeated=True),
        3: _Kind("name", "name"),
        4: _Kind("operator", "name"),
        5: _Kind("attributes", "attribute", is_repeated=True),
        6: _Kind("doc_string", "text"),
        7: _Kind("domain", "name"),
        8: _Kind("overload", "name"),
        9: _METADATA,
    },
    "attribute": {
        1: _Kind("name", "name"),
        2: _Kind("f", "float32"),
        3: _Kind("i", "int64"),
        4: _Kind("s", "bytes"),
        5: _Kind("t", "tensor"),
        6: _Kind("g", "graph"),
        7: _Kind("floats", "float32", is_repeated=True),
        8: _Kind("ints", "int64", is_repeated=True),
        9: _Kind("strings", "bytes", is_repeated=True),
        13: _Kind("doc_string", "text"),
        20: _Kind("type", "int32"),
        21: _Kind("reference", "name"),
    },
    "tensor": {
        1: _Kind("dims", "int64", is_repeated=True),
        2: _Kind("dtype", "int32"),
        4: _Kind("floats", "float32", is_repeated=True),
        5: _Kind("int32s", "int32", is_repeated=True),
        7: _Kind("int64s", "int64", is_repeated=True),
        8: _Kind("name", "name"),
        9: _Kind("raw", "bytes"),
        10: _Kind("doubles", "float64", is_repeated=True),
        11: _Kind("uint64s", "uint64", is_repeated=True),
        12: _Kind("doc_string", "text"),
        13: _FORBIDDEN,
        14: _Kind("location", "int32"),
        16: _METADATA,
    },
    "value": {
        1: _Kind("name", "name"),
        2: _Kind("type", "type"),
        3: _Kind("doc_string", "text"),
        4: _METADATA,
    },
    "type": {1: _Kind("tensor", "tensor type"), 6: _Kind("denotation", "text")},
    "tensor type": {1: _Kind("dtype", "int32"), 2: _Kind("shape", "shape")},
    "shape": {1: _Kind("dims", "dim", is_repeated=True)},
    "dim": {
        1: _Kind("size", "int64"),
        2: _Kind("label", "name"),
        3: _Kind("denotation", "text"),
    },
}
_WIRE_TYPES = {
    "int64": VARINT,
    "int32": VARINT,
    "uint64": VARINT,
    "float32": FIXED32,
    "float64": FIXED64,
}
"""Contents that are numbers -> wire type of one; a list of them may be packed as well."""
_ATTRIBUTE_VALUES = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings"}
"""Attribute type -> field that holds the value (onnx.proto, AttributeProto.AttributeType)."""
_DEFAULTS: dict[str, Any] = {"f": 0.0, "i": 0, "s": b"", "floats": [], "ints": [], "strings": []}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant; its elements lie in the encoded model.

    Attributes:
        name: of the initializer, else "".
        dtype: key of `DTYPES`.
        shape: sizes.
        elements: the encoded numbers, or an array of them; empty where they lie elsewhere.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    elements: memoryview | npt.NDArray[Any]

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def array(self) -> npt.NDArray[Any] | None:
        """Return the numbers, or None if they are many or missing, or NumPy has no such type."""
        is_missing = self.num_elements > 0 and not len(self.elements)
        if is_missing or self.num_elements > MAX_INLINE or DTYPES[self.dtype] == "bfloat16":
            return None
        dtype = np.dtype(DTYPES[self.dtype]).newbyteorder("<")
        if isinstance(self.elements, memoryview):
            return np.frombuffer(self.elements, dtype).reshape(self.shape)
        if dtype == np.float16:  # kept as the bits of integers
            return self.elements.astype(np.uint16).view(np.float16).reshape(self.shape)
        return self.elements.astype(dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """What the model says about one of its values.

    Attributes:
        name: of the value.
        dtype: key of `DTYPES`.
        shape: sizes, None for a free one; None if only the element type is known.
    """

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. Attributes are numbers, bytes, lists of them, a `Tensor` or a `Graph`."""

    operator: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, tuple[int, Any]]  # name -> type, value

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute."""
        return self.attributes[name][1] if name in self.attributes else default


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes with their borders."""

    nodes: tuple[Node, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    values: tuple[ValueInfo, ...]
    initializers: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A body that nodes call by its domain, name and overload."""

    key: Key
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: tuple[ValueInfo, ...]
    opsets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was read.

    Attributes:
        ir_version: of the format.
        opsets: domain -> version; the standard operators' domain is "".
        graph: what is computed.
        functions: by domain, name and overload.
    """

    ir_version: int
    opsets: Mapping[str, int]
    graph: Graph
    functions: Mapping[Key, Function]


def read_model(onnx: bytes, *, shares_weights: bool = False) -> Model:
    """Return a model.

    Args:
        onnx: the encoded model.
        shares_weights: let initializers of the graph be empty.

    Raises:
        ExternalData: if a tensor's data lies in another file.
        ValueError: if the bytes are not an ONNX model as protobuf writes it.
    """
    message = _Reader(onnx).message("model", 0, len(onnx), 0)
    if "graph" not in message:
        raise ValueError("no graph in it")
    functions = [_function(item) for item in message.get("functions", ())]
    return Model(
        ir_version=message.get("ir_version", 0),
        opsets=_opsets(message),
        graph=_graph(message["graph"], may_be_empty=shares_weights),
        functions=_unique("function", ((item.key, item) for item in functions)),
    )


@dataclass
class _Reader:
    """Turns encoded messages into dicts by the names of their fields."""

    data: bytes
    num_entries: int = field(default=0)

    def message(self, kind: str, start: int, end: int, depth: int) -> dict[str, Any]:
        if depth > MAX_NESTING:
            raise ValueError(f"messages nested deeper than {MAX_NESTING} levels")
        known = _MESSAGES[kind]
        result: dict[str, Any] = {}
        for item in fields_between(self.data, start, end):
            self._count(1)
            if item.number not in known:
                raise ValueError(f"field {item.number} of a {kind}, which a bundle may not have")
            name, content, is_repeated = known[item.number]
            value = self._content(item, content, is_repeated, depth)
            if is_repeated and isinstance(value, list):  # packed
                result.setdefault(name, []).extend(value)
            elif is_repeated:
                result.setdefault(name, []).append(value)
            elif name in result:
                raise ValueError(f"field {item.number} of a {kind} is given twice")
            else:
                result[name] = value
        return result

    def _content(self, item: Field, content: str, is_repeated: bool, depth: int) -> Any:
        if content == "external":
            raise ExternalData("a tensor keeps its data in another file")
        wire_type = _WIRE_TYPES.get(content, LENGTH_DELIMITED)
        if item.wire_type == wire_type == VARINT:
            return _integer(item.value, content)
        is_packed = is_repeated and item.wire_type == LENGTH_DELIMITED
        if item.wire_type != wire_type and not is_packed:
            raise ValueError(f"wire type {item.wire_type} at byte {item.start}")
        if content == "bytes":
            return memoryview(self.data)[item.content : item.end]
        if content in _WIRE_TYPES:
            return self._numbers(item, content, is_packed)
        if content in {"name", "text"}:
            return self._text(item, is_name=content == "name")
        return self.message(content, item.content, item.end, depth + 1)

    def _numbers(self, item: Field, content: str, is_packed: bool) -> Any:
        """Return what is packed as a list; numbers of fixed width as views, which cost nothing."""
        view = memoryview(self.data)[item.content : item.end]
        if content in {"float32", "float64"}:
            if len(view) % (4 if content == "float32" else 8):
                raise ValueError(f"{len(view)} bytes of numbers at byte {item.start}")
            return [view] if is_packed else view
        values, position = [], item.content
        while position < item.end:
            value, position = read_varint(self.data, position, item.end)
            values.append(_integer(value, content))
            self._count(1)
        return values

    def _text(self, item: Field, *, is_name: bool) -> str:
        if is_name and item.end - item.content > MAX_TEXT:
            raise ValueError(f"a name of {item.end - item.content} bytes, at most {MAX_TEXT}")
        text = str(memoryview(self.data)[item.content : item.end], "utf-8")
        if is_name and text and not text.isprintable():
            raise ValueError(f"the name {text[:80]!r} with characters that cannot be printed")
        return text if is_name else ""

    def _count(self, number: int) -> None:
        self.num_entries += number
        if self.num_entries > MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} fields and numbers beside the weights")


def _integer(value: int, content: str) -> int:
    """Return a number with its sign; one of 32 bits must be one, as protobuf cuts off the rest."""
    if content == "uint64":
        return value
    signed = value - 2**64 if value >= 2**63 else value
    if content == "int32" and not -(2**31) <= signed < 2**31:
        raise ValueError(f"{signed} where 32 bits are expected")
    return signed


def _opsets(message: Mapping[str, Any]) -> dict[str, int]:
    entries = (
        ("" if entry.get("domain", "") == "ai.onnx" else entry.get("domain", ""), entry)
        for entry in message.get("opsets", ())
    )
    return _unique("opset", ((domain, entry.get("version", 0)) for domain, entry in entries))


def _graph(message: Mapping[str, Any], *, may_be_empty: bool = False) -> Graph:
    return Graph(
        nodes=tuple(map(_node, message.get("nodes", ()))),
        inputs=tuple(map(_value, message.get("inputs", ()))),
        outputs=tuple(map(_value, message.get("outputs", ()))),
        values=tuple(map(_value, message.get("values", ()))),
        initializers=tuple(
            _tensor(item, may_be_empty=may_be_empty) for item in message.get("initializers", ())
        ),
    )


def _function(message: Mapping[str, Any]) -> Function:
    return Function(
        key=tuple(message.get(key, "") for key in ("domain", "name", "overload")),
        inputs=tuple(message.get("inputs", ())),
        outputs=tuple(message.get("outputs", ())),
        nodes=tuple(map(_node, message.get("nodes", ()))),
        values=tuple(map(_value, message.get("values", ()))),
        opsets=_opsets(message),
    )


def _node(message: Mapping[str, Any]) -> Node:
    attributes = [(item.get("name", ""), item) for item in message.get("attributes", ())]
    domain = message.get("domain", "")
    return Node(
        operator=message.get("operator", ""),
        domain="" if domain == "ai.onnx" else domain,
        overload=message.get("overload", ""),
        name=message.get("name", ""),
        inputs=tuple(message.get("inputs", ())),
        outputs=tuple(message.get("outputs", ())),
        attributes={
            name: _attribute(name, item) for name, item in _unique("attribute", attributes).items()
        },
    )


def _attribute(name: str, message: Mapping[str, Any]) -> tuple[int, Any]:
    if message.get("reference"):
        raise ValueError(f"the attribute {message['reference']!r} of a call is used in the body")
    kind = message.get("type", 0)
    key = _ATTRIBUTE_VALUES.get(kind)
    others = [other for other in _ATTRIBUTE_VALUES.values() if other != key and other in message]
    if key is None or others or (key not in message and key not in _DEFAULTS):
        raise ValueError(f"the attribute {name!r} is said to be of type {kind} and is of another")
    value = message.get(key, _DEFAULTS.get(key))
    if key == "t":
        value = _tensor(value)
    elif key == "g":
        value = _graph(value)
    elif key == "s":
        value = bytes(value)
    elif key == "strings":
        value = [bytes(item) for item in value]
    elif key == "f" and isinstance(value, memoryview):
        value = float(np.frombuffer(value, "<f4")[0])
    elif key == "floats":
        value = np.frombuffer(b"".join(value), "<f4")
    return kind, value


def _tensor(message: Mapping[str, Any], *, may_be_empty: bool = False) -> Tensor:
    name = message.get("name", "")
    if message.get("location"):
        raise ExternalData(f"the tensor {name!r} keeps its data in another file")
    dtype, shape = message.get("dtype", 0), tuple(message.get("dims", ()))
    if dtype not in DTYPES:
        raise ValueError(f"the tensor {name!r} is of type {dtype}, which a bundle may not have")
    if any(size < 0 for size in shape):
        raise ValueError(f"the tensor {name!r} is of shape {list(shape)}")
    filled = [key for key in ("raw", *_TYPED_DATA) if message.get(key)]
    if len(filled) > 1 or (filled and dtype not in _TYPED_DATA.get(filled[0], DTYPES)):
        raise ValueError(f"the tensor {name!r} keeps its data in {' and '.join(filled)}")
    elements, width = _elements(message, filled, dtype)
    if len(elements) != math.prod(shape) * width and not (may_be_empty and not filled):
        raise ValueError(f"the tensor {name!r} of shape {list(shape)} has data of another size")
    if not _fits(elements, DTYPES[dtype]):
        raise ValueError(
            f"the tensor {name!r} has numbers that {DTYPES[dtype]} does not have; "
            "engines take them for different ones"
        )
    return Tensor(name, dtype, shape, elements)


def _elements(
    message: Mapping[str, Any], filled: list[str], dtype: int
) -> tuple[memoryview | npt.NDArray[Any], int]:
    """Return a tensor's data and how many entries of it belong to one element."""
    width = 2 if DTYPES[dtype] == "bfloat16" else np.dtype(DTYPES[dtype]).itemsize
    if not filled:
        return memoryview(b""), width
    values = message[filled[0]]
    if filled[0] == "raw":
        return values, width
    if filled[0] in {"floats", "doubles"}:
        return values[0] if len(values) == 1 else memoryview(b"".join(values)), width
    return np.array(values, np.uint64 if filled[0] == "uint64s" else np.int64), 1


def _fits(elements: memoryview | npt.NDArray[Any], dtype: str) -> bool:
    """Tell whether all numbers are of a tensor's type; what is cut off or rounded to fit is not."""
    if not len(elements) or (isinstance(elements, memoryview) and dtype != "bool"):
        return True
    if isinstance(elements, memoryview):
        return int(np.frombuffer(elements, np.uint8).max()) <= 1
    if dtype == "bool":
        low, high = 0, 1
    else:  # floating point numbers of 16 bits are kept as the integers of the same bits
        limits = np.iinfo("uint16" if dtype in {"float16", "bfloat16"} else dtype)
        low, high = int(limits.min), int(limits.max)
    return low <= int(elements.min()) and int(elements.max()) <= high


def _value(message: Mapping[str, Any]) -> ValueInfo:
    name, type_ = message.get("name", ""), message.get("type", {}).get("tensor", {})
    if type_.get("dtype") not in DTYPES:
        raise ValueError(
            f"the value {name!r} is of type {type_.get('dtype', 'unknown')}, which a bundle may not have"
        )
    shape = None
    if "shape" in type_:
        shape = tuple(_size(name, dim) for dim in type_["shape"].get("dims", ()))
    return ValueInfo(name, type_["dtype"], shape)


def _size(name: str, dim: Mapping[str, Any]) -> int | None:
    size: int | None = dim.get("size")
    if "size" in dim and ("label" in dim or not 0 <= dim["size"] < 2**31):
        raise ValueError(
            f"the value {name!r} has an axis of size {dim['size']} {dim.get('label', '')}"
        )
    return size


def _unique(what: str, entries: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in entries:
        if key in result:
            raise ValueError(f"the {what} {key!r} is given twice")
        result[key] = value
    return result
