"""Refuse ONNX models that reach outside of their own bytes.

A tensor of an ONNX model may say that its data lies in another file. Loading from memory does not
prevent that (measured): ONNX Runtime 1.23 then reads any path, absolute or with "..", and 1.32
still reads what lies in the current folder. So the reference is looked for here, in the encoded
model, before an engine sees it. Weights are skipped, not copied: the time does not depend on
their size.

Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from edgeseg_runtime.errors import BundleError, CorruptArtifact
from edgeseg_runtime.onnx_fields import fields_between

__all__ = ["check_self_contained"]

# Message -> field number -> message of that field, as far as tensors can lie below it.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14  # 0 is DEFAULT: inside


def check_self_contained(onnx: bytes, *, file: str = "model.onnx") -> None:
    """Check that a model is ONNX and refers to no other file.

    Args:
        onnx: the encoded model.
        file: its name, for the messages.

    Raises:
        BundleError: if a tensor's data lies in another file.
        CorruptArtifact: if the bytes are no encoded model.
    """
    if onnx[4:8] == b"ORTM":  # ONNX Runtime's own format, which this check cannot read
        raise CorruptArtifact(file, "an ONNX model", "a model in ONNX Runtime's ORT format")
    try:
        is_external = _has_external_data(onnx)
    except ValueError as error:
        raise CorruptArtifact(file, "an ONNX model", f"something else ({error})") from error
    if is_external:
        raise BundleError(
            f"{file} keeps weights in other files, which is not allowed in a bundle: expected one "
            "file with everything inside. Export it again with edgeseg, and do not load this "
            "bundle unless you trust its origin."
        )


def _has_external_data(onnx: bytes) -> bool:
    """Walk through all messages; a stack instead of recursion, as nesting is in foreign hands."""
    has_graph = False
    pending = [("model", 0, len(onnx))]
    while pending:
        message, position, end = pending.pop()
        children = _CHILDREN[message]
        for field in fields_between(onnx, position, end):
            if message == "tensor" and field.number == _TENSOR_EXTERNAL_DATA:
                return True
            if message == "tensor" and field.number == _TENSOR_DATA_LOCATION and field.value:
                return True
            if field.has_content and field.number in children:
                pending.append((children[field.number], field.content, field.end))
                has_graph = has_graph or children[field.number] == "graph"
    if not has_graph:
        raise ValueError("no graph in it")
    return False
