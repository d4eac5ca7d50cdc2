"""Rewrites a finished graph for opset 17, the newest that TensorRT 8.5 and 8.6 (JetPack 5, 6.0) read.

An operator computes the same in both opsets where both give it the same inputs and attributes. Where opset 20 gives
it more, the node must leave them at the defaults, with which it does what it did before. What else has changed is in
`REWRITES`. Must run after edgeseg's operators got their bodies.

Source: onnx/docs/Changelog.md, opsets 18 to 20.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, defs, helper, numpy_helper

from edgeseg_export.trace import OPSET

OLDER_OPSET, OLDER_IR_VERSION = 17, 8
STANDARD_DOMAINS = ("", "ai.onnx")

Constants = Mapping[str, TensorProto]
"""Values by their names, as far as they are known before the graph runs."""

SAMPLING_MODES = {b"linear": b"bilinear", b"cubic": b"bicubic"}
"""GridSample's modes as opset 20 calls them -> as opset 16 does."""
REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
"""Operators whose axes are an input from opset 18 on. (ReduceSum's are since 13.)"""
NEWER_VALUES = {
    ("Pad", "mode"): {b"wrap"},
    ("Resize", "coordinate_transformation_mode"): {b"half_pixel_symmetric"},
    ("ScatterElements", "reduction"): {b"max", b"min"},
    ("ScatterND", "reduction"): {b"max", b"min"},
}
"""Operator and attribute that opset 17 has -> values that it does not have."""


def to_opset17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in opset 17 and IR version 8; it computes exactly the same.

    Functions and the graphs within nodes (Loop, If) are rewritten too.

    Args:
        model: of opset 20; changed in place.

    Raises:
        ValueError: the model has another opset, or a node that opset 17 cannot express; the message
            names it.
    """
    _set_opset(model.opset_import)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    freed = set(_rewrite(model.graph.node, initializers))
    freed -= {*_values_read(model.graph.node), *(value.name for value in model.graph.output)}
    _drop_constants(model.graph, freed)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in freed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for function in model.functions:
        assert not function.overload, "two functions of one name need IR version 10"
        _set_opset(function.opset_import)
        freed = set(_rewrite(function.node, {}))
        freed -= {*_values_read(function.node), *function.output}
        _drop_constants(function, freed)
    model.ir_version = OLDER_IR_VERSION
    return model


def _set_opset(entries: Iterable[onnx.OperatorSetIdProto]) -> None:
    for entry in entries:
        if entry.domain in STANDARD_DOMAINS:
            if entry.version != OPSET:
                raise ValueError(f"opset {entry.version} found, expected {OPSET}")
            entry.version = OLDER_OPSET


def _rewrite(nodes: Iterable[NodeProto], outer: Constants) -> Iterator[str]:
    """Rewrite nodes and the graphs in them; yield the constants that a node has ceased to read.

    Args:
        nodes: changed in place.
        outer: constants that the nodes see from outside.
    """
    constants = dict(outer)
    for node in nodes:
        before = list(node.input)
        if node.domain in STANDARD_DOMAINS:
            constants |= _constant_made(node)
            if node.op_type in REWRITES:
                REWRITES[node.op_type](node, constants)
            _drop_newer_attributes(node)
            _check(node)
        yield from set(before) - set(node.input)
        for graph in _graphs(node):
            inner = {tensor.name: tensor for tensor in graph.initializer}
            yield from _rewrite(graph.node, constants | inner)


def _rename_sampling_mode(node: NodeProto, constants: Constants) -> None:
    for attribute in node.attribute:
        if attribute.name == "mode":
            attribute.s = SAMPLING_MODES.get(attribute.s, attribute.s)


def _axes_as_attribute(node: NodeProto, constants: Constants) -> None:
    name = node.input[1] if len(node.input) > 1 else ""
    del node.input[1:]
    if not name:
        return
    if name not in constants:
        raise _refusal(node, "axes that are computed")
    axes = numpy_helper.to_array(constants[name]).tolist()
    if axes:
        _remove_attribute(node, "noop_with_empty_axes")  # it would have nothing to say
        node.attribute.append(helper.make_attribute("axes", axes))


REWRITES: dict[str, Callable[[NodeProto, Constants], None]] = {
    "GridSample": _rename_sampling_mode,
    **dict.fromkeys(REDUCTIONS, _axes_as_attribute),
}
"""Operators whose nodes are written in another way before opset 18 or 20."""


def _drop_newer_attributes(node: NodeProto) -> None:
    """Take away the attributes that opset 17 does not have and that hold their default.

    Raises:
        ValueError: one holds something else, or the operator is newer than opset 17.
    """
    try:
        known = defs.get_schema(node.op_type, OLDER_OPSET).attributes
    except defs.SchemaError as error:
        raise _refusal(node, "an operator that is newer") from error
    newer = defs.get_schema(node.op_type, OPSET).attributes
    for attribute in [item for item in node.attribute if item.name not in known]:
        if not _is_default(attribute, newer[attribute.name].default_value):
            value = helper.get_attribute_value(attribute)
            raise _refusal(node, f"the attribute {attribute.name} = {value}")
        _remove_attribute(node, attribute.name)


def _check(node: NodeProto) -> None:
    """Refuse more inputs than opset 17 has, and values of attributes that it does not have."""
    num_inputs = max((i for i, name in enumerate(node.input, 1) if name), default=0)
    if num_inputs > defs.get_schema(node.op_type, OLDER_OPSET).max_input:
        raise _refusal(node, f"{num_inputs} inputs")
    for attribute in node.attribute:
        if attribute.s in NEWER_VALUES.get((node.op_type, attribute.name), ()):
            raise _refusal(node, f"the attribute {attribute.name} = {attribute.s.decode()}")


def _is_default(attribute: AttributeProto, default: AttributeProto) -> bool:
    if default.type == AttributeProto.UNDEFINED:  # it has none
        return False
    return bool(helper.get_attribute_value(attribute) == helper.get_attribute_value(default))


def _remove_attribute(node: NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _constant_made(node: NodeProto) -> dict[str, TensorProto]:
    """Return what a node makes, by its name, if that is a constant tensor."""
    tensors = [item.t for item in node.attribute if item.name == "value"]
    return {node.output[0]: tensors[0]} if node.op_type == "Constant" and tensors else {}


def _drop_constants(body: onnx.GraphProto | onnx.FunctionProto, names: set[str]) -> None:
    """Take away the nodes that only make the constants ``names``."""
    kept = [node for node in body.node if node.op_type != "Constant" or node.output[0] not in names]
    del body.node[:]
    body.node.extend(kept)


def _values_read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield the values that nodes, and the graphs in them, read."""
    for node in nodes:
        yield from node.input
        for graph in _graphs(node):
            yield from _values_read(graph.node)
            yield from (value.name for value in graph.output)


def _graphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _refusal(node: NodeProto, found: str) -> ValueError:
    return ValueError(
        f"node {(node.name or node.output[0])!r} ({node.op_type}) has {found}, which opset "
        f"{OLDER_OPSET} cannot express: export with opset {OPSET}"
    )
