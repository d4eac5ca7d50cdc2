"""Refuse ONNX models that reach outside of their own bytes.

A tensor of an ONNX model may say that its data lies in another file. Loading from memory does not
prevent that (measured): ONNX Runtime 1.23 then reads any path, absolute or with "..", and 1.32
still reads what lies in the current folder. So the reference is looked for here, in the encoded
model, before an engine sees it. Weights are skipped, not copied: the time does not depend on
their size.

Field numbers: onnx/onnx.proto. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from edgeseg_runtime.errors import BundleError, CorruptArtifact

__all__ = ["check_self_contained", "read_varint"]

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

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


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
        while position < end:
            tag, position = read_varint(onnx, position, end)
            field, wire_type = tag >> 3, tag & 7
            if message == "tensor" and field == _TENSOR_EXTERNAL_DATA:
                return True
            if wire_type == _VARINT:
                value, position = read_varint(onnx, position, end)
                if message == "tensor" and field == _TENSOR_DATA_LOCATION and value:
                    return True
            elif wire_type == _LENGTH_DELIMITED:
                size, position = read_varint(onnx, position, end)
                if field in children:
                    pending.append((children[field], position, position + size))
                    has_graph = has_graph or children[field] == "graph"
                position += size
            elif wire_type in {_FIXED32, _FIXED64}:
                position += 4 if wire_type == _FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire_type} at byte {position}")
            if position > end:
                raise ValueError(f"a field ends at byte {position}, its message at {end}")
    if not has_graph:
        raise ValueError("no graph in it")
    return False


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it.

    Raises:
        ValueError: if it goes beyond `end`, or has more than 70 bits.
    """
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"an integer is cut off or too long at byte {position}")
