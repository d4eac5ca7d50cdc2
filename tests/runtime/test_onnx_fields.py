"""The fields of encoded models, as far as the runtime reads them itself."""

import pytest
from onnx import ModelProto, helper

from edgeseg_runtime.onnx.fields import fields_of, opset_of


@pytest.mark.parametrize(
    ("entries", "opset"),
    [
        ([], 1),
        ([("", 17)], 17),
        ([("ai.onnx", 20)], 20),
        ([("edgeseg", 1), ("", 300)], 300),
        ([("", 17), ("ai.onnx.ml", 5)], 17),
        ([("edgeseg", 1)], 1),
    ],
    ids=str,
)
def test_the_opset_is_that_of_the_standard_operators(entries, opset):
    imports = [helper.make_opsetid(domain, version) for domain, version in entries]
    model = ModelProto(ir_version=8, producer_name="edgeseg", opset_import=imports)
    assert opset_of(model.SerializeToString()) == opset


def test_a_domain_may_be_written_although_it_is_empty():
    """protobuf leaves it out; ONNX's own writers do not."""
    assert opset_of(b"\x42\x04\x0a\x00\x10\x11") == 17


@pytest.mark.parametrize("content", [b"\x42\x09\x10", b"\x43", b"\xff"], ids=repr)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(ValueError, match="byte"):
        list(fields_of(content))
