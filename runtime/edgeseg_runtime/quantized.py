"""Prepares int8 graphs for ONNX Runtime on x86 processors.

An int8 graph of edgeseg quantises activations with the zero point 0 in int8, which TensorRT asks for. On x86,
ONNX Runtime's fast kernels multiply uint8 by int8, and it turns int8 activations into uint8 only where a single
reader follows; all other convolutions fall back to float32 in silence. Every activation of the graph shares one
scalar, its zero point: as the uint8 number 128 instead of the int8 number 0, every level is stored 128 higher and all
results are the same.
"""

from __future__ import annotations

import platform

__all__ = ["ZERO_POINT", "bytes_for_cpu", "uint8_activations"]

ZERO_POINT = "int8_zero"
"""Name of the initializer that all activations of an int8 graph share as their zero point."""

_X86 = ("x86_64", "amd64", "i386", "i686")
_INT8, _UINT8 = 3, 2  # onnx.TensorProto.DataType


def bytes_for_cpu(onnx: bytes) -> bytes:
    """Return the graph in the form that ONNX Runtime computes fastest on this machine's processor."""
    return uint8_activations(onnx) if platform.machine().lower() in _X86 else onnx


def uint8_activations(onnx: bytes) -> bytes:
    """Return an int8 graph with uint8 activations of the same meaning; any other graph as it is.

    The scalar is found by its serialised form: data type, name and the one byte of its value, as protobuf writes
    them (onnx.proto, TensorProto: fields 2, 8 and 9).
    """
    before = _scalar(_INT8, 0)
    return onnx.replace(before, _scalar(_UINT8, 128)) if onnx.count(before) == 1 else onnx


def _scalar(data_type: int, value: int) -> bytes:
    name = ZERO_POINT.encode()
    return bytes((0x10, data_type, 0x42, len(name))) + name + bytes((0x4A, 1, value))
