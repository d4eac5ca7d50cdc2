"""Appends to a model the body of each `edgeseg::` node."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgeseg_export.functions.nms import nms_function
from edgeseg_export.functions.pyramid_roi_align import pyramid_roi_align_function

DOMAIN = "edgeseg"
IR_VERSION = 10  # the first in which functions of one name may differ by an overload


class Type(NamedTuple):
    """Element type (TensorProto.DataType) and shape of a value, -1 for a free axis."""

    dtype: int
    shape: tuple[int, ...]


def add_functions(model: ModelProto) -> ModelProto:
    """The same model, changed in place: each of its `edgeseg::` nodes has a body and runs on any engine.

    Nodes of one operator that differ in sizes or attributes get bodies of their own, told apart by the `overload`, which
    says the size. Nodes keep their operator, inputs and attributes; a second call changes nothing.

    Raises:
        ValueError: if there is an `edgeseg::` node of an unknown operator, or one with an input whose size is not known
            (only the batch axis may be free).
    """
    types = _types(model)
    overloads: dict[tuple[Any, ...], str] = {}
    bodies: dict[tuple[str, str], FunctionProto] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        build = _BUILDERS.get(node.op_type)
        if build is None:
            raise ValueError(
                f"node {node.name!r} is {DOMAIN}::{node.op_type}, expected one of {', '.join(_BUILDERS)}"
            )
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        inputs = [_known_type(node, name, types) for name in node.input if name]
        key = (node.op_type, repr(sorted(attributes.items())), tuple(inputs))
        if key not in overloads:
            size = _size(node.op_type, attributes, inputs)
            taken = sum(body.overload.split("_")[0] == size for body in bodies.values())
            overloads[key] = f"{size}_{taken + 1}" if taken else size
            body = build(overloads[key], attributes, inputs)
            bodies[body.name, body.overload] = body
        node.overload = overloads[key]
    kept = [body for body in model.functions if (body.name, body.overload) not in bodies]
    del model.functions[:]
    model.functions.extend([*kept, *bodies.values()])
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def _types(model: ModelProto) -> dict[str, Type]:
    graph = model.graph
    types = {
        value.name: _type(value)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    for tensor in graph.initializer:
        types[tensor.name] = Type(tensor.data_type, tuple(tensor.dims))
    return types


def _type(value: ValueInfoProto) -> Type:
    tensor = value.type.tensor_type
    shape = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return Type(tensor.elem_type, tuple(shape))


def _known_type(node: NodeProto, name: str, types: Mapping[str, Type]) -> Type:
    """The type of an input, its batch axis as free: one body serves every batch size."""
    found = types.get(name)
    if found is None or -1 in found.shape[1:]:
        raise ValueError(
            f"input {name!r} of the {node.op_type} node {node.name!r} has the shape "
            f"{found.shape if found else 'unknown'}: export with fixed sizes (only the batch axis may be free)"
        )
    return Type(found.dtype, (-1, *found.shape[1:]))


def _size(op_type: str, attributes: Mapping[str, Any], inputs: list[Type]) -> str:
    if op_type == "Nms":
        return f"{inputs[0].shape[1]}to{attributes['max_output']}"
    height, width = attributes["output_size"]
    return f"{inputs[-1].shape[1]}x{inputs[0].shape[1]}x{height}x{width}"


def _nms(overload: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    return nms_function(overload, inputs[0].shape[1], has_groups=len(inputs) == 3, **attributes)


def _pyramid_roi_align(
    overload: str, attributes: Mapping[str, Any], inputs: list[Type]
) -> FunctionProto:
    *features, rois = inputs
    values = dict(attributes)
    return pyramid_roi_align_function(
        overload,
        [(feature.shape[2], feature.shape[3]) for feature in features],
        features[0].shape[1],
        rois.shape[1],
        is_half=features[0].dtype == TensorProto.FLOAT16,
        output_size=tuple(values.pop("output_size")),
        aligned=bool(values.pop("aligned")),
        level_rule=values.pop("level_rule").decode(),
        **values,
    )


_BUILDERS: dict[str, Callable[[str, Mapping[str, Any], list[Type]], FunctionProto]] = {
    "Nms": _nms,
    "PyramidRoiAlign": _pyramid_roi_align,
}
