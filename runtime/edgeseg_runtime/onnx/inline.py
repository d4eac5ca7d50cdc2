"""Writes the bodies of a model's functions in the places where the model calls them.

edgeseg's operators are functions of standard ONNX operators. ONNX Runtime and newer releases of
TensorRT expand them; OpenVINO and TensorRT 8 do not know functions. The model is rewritten in its
encoded form, so the runtime needs no protobuf library and weights are copied, never decoded.

Field numbers: onnx/onnx.proto. What a call means: onnx/docs/IR.md, "Functions".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeseg_runtime.errors import CorruptArtifact
from edgeseg_runtime.onnx.check import MAX_DEPTH
from edgeseg_runtime.onnx.fields import delimited, fields_of, text_of

__all__ = ["inline_functions"]

Name = Callable[[str], str]
"""Gives a value or node of a body its name at the place of a call."""

_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_GRAPH_VALUES = (11, 12, 13)  # input, output, value_info
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR = 1, 2, 3, 4
_NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_OVERLOAD = 5, 7, 8
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_REFERENCE = 6, 11, 21
_FUNCTION_NAME, _FUNCTION_INPUT, _FUNCTION_OUTPUT = 1, 4, 5
_FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD = 7, 10, 13
_VALUE_NAME, _TENSOR_NAME = 1, 8

Functions = dict[tuple[str, str, str], "_Function"]


@dataclass(frozen=True)
class _Function:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[bytes, ...]


def inline_functions(onnx: bytes, *, file: str = "model.onnx") -> bytes:
    """Return a model that computes the same and calls no function of its own.

    Args:
        onnx: a model that `check_graph` has accepted, which bounds how large it becomes.
        file: its name, for the messages.

    Raises:
        CorruptArtifact: if the bytes are no ONNX model, or its functions call each other in a
            circle, or a body depends on the attributes of its call, which edgeseg's do not.
    """
    try:
        return _inlined(onnx)
    except ValueError as error:
        raise CorruptArtifact(file, "functions that can be inlined", str(error)) from error


def _inlined(onnx: bytes) -> bytes:
    fields = list(fields_of(onnx))
    functions = dict(
        _function(content) for number, _, content in fields if number == _MODEL_FUNCTION
    )
    if not functions:
        return onnx
    return b"".join(
        delimited(number, _graph(content, functions, _same, 0)) if number == _MODEL_GRAPH else raw
        for number, raw, content in fields
        if number != _MODEL_FUNCTION
    )


def _graph(graph: bytes, functions: Functions, name: Name, depth: int) -> bytes:
    """Return a graph with its calls expanded and everything in it renamed."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels of calls and graphs")
    parts = []
    for number, raw, content in fields_of(graph):
        if number == _GRAPH_NODE:
            parts += [delimited(number, node) for node in _node(content, functions, name, depth)]
        elif name is not _same and number in _GRAPH_VALUES:
            parts.append(delimited(number, _renamed(content, {_VALUE_NAME}, name)))
        elif name is not _same and number == _GRAPH_INITIALIZER:
            parts.append(delimited(number, _renamed(content, {_TENSOR_NAME}, name)))
        else:
            parts.append(raw)
    return b"".join(parts)


def _node(node: bytes, functions: Functions, name: Name, depth: int) -> Iterator[bytes]:
    """Yield the nodes that stand for one: itself, or the body of the function that it calls."""
    texts: dict[int, list[str]] = {}
    for number, _, content in fields_of(node):
        if number in {_NODE_INPUT, _NODE_OUTPUT}:
            texts.setdefault(number, []).append(name(text_of(content)))
        elif number in {_NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN, _NODE_OVERLOAD}:
            texts[number] = [text_of(content)]
    domain, operator, overload = (
        texts.get(number, [""])[0] for number in (_NODE_DOMAIN, _NODE_OPERATOR, _NODE_OVERLOAD)
    )
    function = functions.get((domain, operator, overload))
    if function is None:
        yield _plain_node(node, functions, name, depth)
        return
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels of calls and graphs")
    inputs, outputs = texts.get(_NODE_INPUT, []), texts.get(_NODE_OUTPUT, [])
    inputs += [""] * (len(function.inputs) - len(inputs))  # optional ones that are left out
    outputs += [""] * (len(function.outputs) - len(outputs))
    # A value has one node that makes it, so with the function's name, which tells a call from the
    # calls in its body, the first output is unique.
    label = f"{next(filter(None, outputs), '')}/{operator}"
    borders = dict(zip(function.inputs, inputs, strict=False))
    borders |= {
        inner: outer for inner, outer in zip(function.outputs, outputs, strict=False) if outer
    }

    def inner_name(text: str) -> str:
        return borders.get(text, f"{label}/{text}" if text else "")

    for inner in function.nodes:
        yield from _node(inner, functions, inner_name, depth + 1)


def _plain_node(node: bytes, functions: Functions, name: Name, depth: int) -> bytes:
    parts = []
    for number, raw, content in fields_of(node):
        if number == _NODE_ATTRIBUTE:
            parts.append(delimited(number, _attribute(content, functions, name, depth)))
        elif number in {_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME} and name is not _same:
            parts.append(delimited(number, name(text_of(content)).encode()))
        else:
            parts.append(raw)
    return b"".join(parts)


def _attribute(attribute: bytes, functions: Functions, name: Name, depth: int) -> bytes:
    parts = []
    for number, raw, content in fields_of(attribute):
        if number == _ATTRIBUTE_REFERENCE and content:
            raise ValueError(f"the attribute {text_of(content)!r} of a call is used in the body")
        if number in {_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS}:
            parts.append(delimited(number, _graph(content, functions, name, depth + 1)))
        else:
            parts.append(raw)
    return b"".join(parts)


def _function(content: bytes) -> tuple[tuple[str, str, str], _Function]:
    texts: dict[int, list[str]] = {}
    nodes = []
    for number, _, part in fields_of(content):
        if number == _FUNCTION_NODE:
            nodes.append(part)
        elif number in {
            _FUNCTION_NAME,
            _FUNCTION_INPUT,
            _FUNCTION_OUTPUT,
            _FUNCTION_DOMAIN,
            _FUNCTION_OVERLOAD,
        }:
            texts.setdefault(number, []).append(text_of(part))
    domain, operator, overload = (
        texts.get(number, [""])[0]
        for number in (_FUNCTION_DOMAIN, _FUNCTION_NAME, _FUNCTION_OVERLOAD)
    )
    return (domain, operator, overload), _Function(
        inputs=tuple(texts.get(_FUNCTION_INPUT, ())),
        outputs=tuple(texts.get(_FUNCTION_OUTPUT, ())),
        nodes=tuple(nodes),
    )


def _same(text: str) -> str:
    return text


def _renamed(message: bytes, numbers: set[int], name: Name) -> bytes:
    """Return a message whose texts in these fields have another name."""
    return b"".join(
        delimited(number, name(text_of(content)).encode()) if number in numbers else raw
        for number, raw, content in fields_of(message)
    )
