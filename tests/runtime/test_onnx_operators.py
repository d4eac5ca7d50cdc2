"""The table of operators is that of ONNX itself, and says of every operator what it does with it."""

import pytest
from onnx import AttributeProto, defs

from edgeseg_runtime.onnx import operators as onnx_operators
from edgeseg_runtime.onnx.operators import ANY, ATTRIBUTES, MAX_OPSET, MIN_OPSET, OPERATORS

OPSETS = range(MIN_OPSET, MAX_OPSET + 1)
MANY = 2**31 - 1  # how ONNX says any number
TYPES = {
    defs.OpSchema.AttrType.FLOAT: AttributeProto.FLOAT,
    defs.OpSchema.AttrType.INT: AttributeProto.INT,
    defs.OpSchema.AttrType.STRING: AttributeProto.STRING,
    defs.OpSchema.AttrType.TENSOR: AttributeProto.TENSOR,
    defs.OpSchema.AttrType.FLOATS: AttributeProto.FLOATS,
    defs.OpSchema.AttrType.INTS: AttributeProto.INTS,
    defs.OpSchema.AttrType.STRINGS: AttributeProto.STRINGS,
}
NOT_HELD = {"sparse_value", "value_string", "value_strings"}
"""Attributes of Constant whose values a bundle may not hold."""
FEWER = {"BatchNormalization": 1}
"""Operators of which fewer outputs are allowed than there are: the others are for training."""


def schemas(operator):
    """Return what ONNX says of an operator in each of the opsets; removed ones are left out."""
    found = {}
    for opset in OPSETS:
        try:
            schema = defs.get_schema(operator, opset)
        except defs.SchemaError:
            continue
        found[schema.since_version] = schema
    return list(found.values())


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_takes_and_gives_what_onnx_says(name):
    found = schemas(name)
    entry = OPERATORS[name]
    assert entry.min_inputs == min(schema.min_input for schema in found)
    assert entry.max_inputs == min(max(schema.max_input for schema in found), ANY)
    most = min(max(schema.max_output for schema in found), ANY)
    assert entry.max_outputs == FEWER.get(name, most)
    attributes = {}
    for schema in found:
        for attribute in schema.attributes.values():
            attributes[attribute.name] = attribute.type
    assert entry.attributes == attributes.keys() - NOT_HELD
    for attribute in entry.attributes:
        assert ATTRIBUTES[attribute] == TYPES[attributes[attribute]]


def test_every_attribute_of_the_table_belongs_to_an_operator():
    assert {name for entry in OPERATORS.values() for name in entry.attributes} >= set(ATTRIBUTES)


def test_what_is_left_out_is_named_with_its_reason():
    text = " ".join(onnx_operators.__doc__.split())
    groups = ("Random", "Sequence", "Optional", "String", "Reduce")
    left_out = {
        schema.name
        for schema in defs.get_all_schemas()
        if schema.domain == "" and schemas(schema.name)
    } - OPERATORS.keys()
    windows = {"BlackmanWindow", "HammingWindow", "HannWindow"}
    groups_of_types = {"ConcatFromSequence", "SplitToSequence"}
    for name in left_out - windows - groups_of_types:
        assert name in text or name.startswith(groups), name


@pytest.mark.parametrize(
    "name",
    [
        "CumSum",
        "GridSample",
        "MaxPool",
        "ScatterND",
        "Slice",
        "DeformConv",
        "Where",
        "Einsum",
        "Gather",
    ],
)
def test_operators_of_models_to_come_are_in_the_table(name):
    assert name in OPERATORS
