"""Appends to a model the body of each `edgeseg::` node."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgeseg_export.functions.atlas_roi_align import atlas_roi_align_function
from edgeseg_export.functions.correlation import correlation_function
from edgeseg_export.functions.deform_conv2d import deform_conv2d_function
from edgeseg_export.functions.nms import nms_function
from edgeseg_export.functions.pyramid_atlas import pyramid_atlas_function
from edgeseg_export.functions.warp import warp_function

DOMAIN = "edgeseg"


class Type(NamedTuple):
    """Element type (TensorProto.DataType) and shape of a value, -1 for a free axis."""

    dtype: int
    shape: tuple[int, ...]


ABSENT = Type(TensorProto.UNDEFINED, ())


def add_functions(model: ModelProto) -> ModelProto:
    """Return the same model, changed in place: each of its `edgeseg::` nodes has a body and runs on any engine.

    A body depends on the node's sizes and attributes, so it is a function of its own, `Nms_1000to100`,
    `AtlasRoiAlign_1000x256x7x7` or `DeformConv2d_64x128x128`, which equal nodes share; nodes keep their inputs and attributes
    and take the name. (Functions that share a name and differ in IR version 10's `overload` would be tidier, but
    TensorRT-RTX 1.7.1's parser gives all of them the body of the first.) A second call changes nothing.

    Raises:
        ValueError: if there is an `edgeseg::` node of an unknown operator, or one with an input whose size is not known
            (only the batch axis and the number of boxes of `AtlasRoiAlign` may be free).
    """
    types = _types(model)
    done = {function.name for function in model.functions if function.domain == DOMAIN}
    names: dict[tuple[Any, ...], str] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN or node.op_type in done:
            continue
        operator = _OPERATORS.get(node.op_type)
        if operator is None:
            raise ValueError(
                f"node {node.name!r} is {DOMAIN}::{node.op_type}, expected one of {', '.join(_OPERATORS)}"
            )
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        inputs = [
            _known_type(node, name, types, has_free_rows=index == operator.free_rows)
            for index, name in enumerate(node.input)
        ]
        key = (node.op_type, repr(sorted(attributes.items())), tuple(inputs))
        if key not in names:
            name = f"{node.op_type}_{operator.sizes(attributes, inputs)}"
            names[key] = _free_name(name, {*done, *names.values()})
            model.functions.append(operator.build(names[key], attributes, inputs))
        node.op_type = names[key]
    return model


def _free_name(name: str, taken: AbstractSet[str]) -> str:
    """Return the name, with a number where it is taken."""
    numbered = (f"{name}_{number}" if number > 1 else name for number in itertools.count(1))
    return next(candidate for candidate in numbered if candidate not in taken)


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


def _known_type(
    node: NodeProto, name: str, types: Mapping[str, Type], *, has_free_rows: bool
) -> Type:
    """Return the type of an input, its batch axis free: one body serves every batch size. ABSENT where it is left out."""
    if not name:
        return ABSENT
    found = types.get(name)
    if found is None or -1 in found.shape[2 if has_free_rows else 1 :]:
        raise ValueError(
            f"input {name!r} of the {node.op_type} node {node.name!r} has the shape "
            f"{found.shape if found else 'unknown'}: export with fixed sizes (only the batch axis "
            "and the number of boxes of AtlasRoiAlign may be free)"
        )
    return Type(found.dtype, (-1, *found.shape[1:]))


def _nms(name: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    return nms_function(name, inputs[0].shape[1], has_groups=len(inputs) == 3, **attributes)


def _pyramid_atlas(name: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    return pyramid_atlas_function(name, [(level.shape[2], level.shape[3]) for level in inputs])


def _atlas_roi_align(name: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    atlas, rois = inputs
    values = dict(attributes)
    sides = values.pop("level_sizes")
    return atlas_roi_align_function(
        name,
        atlas.shape[1],
        rois.shape[1] if rois.shape[1] >= 0 else None,
        is_half=atlas.dtype == TensorProto.FLOAT16,
        level_sizes=list(zip(sides[::2], sides[1::2], strict=True)),
        output_size=tuple(values.pop("output_size")),
        aligned=bool(values.pop("aligned")),
        rois_last=bool(values.pop("rois_last", 0)),
        level_rule=values.pop("level_rule").decode(),
        **values,
    )


def _correlation(name: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    first = inputs[0]
    return correlation_function(
        name,
        (first.shape[2], first.shape[3]),
        first.shape[1],
        is_half=first.dtype == TensorProto.FLOAT16,
        **attributes,
    )


def _warp(name: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    map_, flow = inputs
    return warp_function(
        name,
        (map_.shape[2], map_.shape[3]),
        outside=attributes["outside"].decode(),
        spacing=attributes["spacing"].decode(),
        is_half=(map_.dtype == TensorProto.FLOAT16, flow.dtype == TensorProto.FLOAT16),
    )


def _deform_conv2d(name: str, attributes: Mapping[str, Any], inputs: list[Type]) -> FunctionProto:
    x, offset, weight = inputs[:3]
    return deform_conv2d_function(
        name,
        (x.shape[2], x.shape[3]),
        x.shape[1],
        (weight.shape[2], weight.shape[3]),
        (offset.shape[2], offset.shape[3]),
        inputs=[value is not ABSENT for value in inputs],
        is_half=x.dtype == TensorProto.FLOAT16,
        stride=tuple(attributes["stride"]),
        padding=tuple(attributes["padding"]),
        dilation=tuple(attributes["dilation"]),
        groups=attributes["groups"],
        offset_groups=attributes["offset_groups"],
    )


class Operator(NamedTuple):
    """How the nodes of one operator get their bodies."""

    build: Callable[[str, Mapping[str, Any], list[Type]], FunctionProto]
    """(name, attributes, inputs) -> the function."""
    sizes: Callable[[Mapping[str, Any], list[Type]], str]
    """(attributes, inputs) -> the sizes that a reader wants to see in the function's name."""
    free_rows: int | None = None
    """The input whose second axis may be free."""


def _by(*sizes: int) -> str:
    return "x".join("N" if size < 0 else str(size) for size in sizes)


_OPERATORS = {
    "AtlasRoiAlign": Operator(
        _atlas_roi_align,
        lambda attributes, inputs: _by(
            inputs[1].shape[1], inputs[0].shape[1], *attributes["output_size"]
        ),
        free_rows=1,
    ),
    "Correlation": Operator(_correlation, lambda attributes, inputs: _by(*inputs[0].shape[1:])),
    "DeformConv2d": Operator(_deform_conv2d, lambda attributes, inputs: _by(*inputs[0].shape[1:])),
    "Nms": Operator(
        _nms, lambda attributes, inputs: f"{inputs[0].shape[1]}to{attributes['max_output']}"
    ),
    "PyramidAtlas": Operator(_pyramid_atlas, lambda attributes, inputs: _by(*inputs[0].shape[1:])),
    "Warp": Operator(_warp, lambda attributes, inputs: _by(*inputs[0].shape[1:])),
}
