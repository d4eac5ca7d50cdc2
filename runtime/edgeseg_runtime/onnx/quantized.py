"""Prepares int8 graphs for ONNX Runtime on processors.

An int8 graph of edgeseg quantises activations with the zero point 0 in int8, which TensorRT asks for. On x86,
ONNX Runtime's fast kernels multiply uint8 by int8, and it turns int8 activations into uint8 only where a single
reader follows; all other convolutions fall back to float32 in silence. All activations of the graph share two scalars,
their zero points. Changing those changes how levels are stored, not what they mean:

ZERO_POINT                128 in uint8: every level is stored 128 higher
NONNEGATIVE_ZERO_POINT    0 in uint8, or -128 in int8: the lowest level means 0, so that ONNX Runtime needs no kernel for
                          the ReLU before QuantizeLinear; and there are 255 levels above 0 instead of 127, so that what
                          exceeds the calibrated range is clipped at twice its end only
"""

from __future__ import annotations

import functools
import logging
import platform
from typing import Any

import numpy as np

from edgeseg_runtime.libraries import import_library

__all__ = [
    "NONNEGATIVE_ZERO_POINT",
    "ZERO_POINT",
    "bytes_for_cpu",
    "do_products_overflow",
    "prepare_for_cpu",
]

_EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""Entry of a session's options with which ONNX Runtime takes a slower kernel that adds in 32 bits.

It takes it on processors with VNNI, too, where the fast one is exact and twice as fast.
"""

ZERO_POINT = "int8_zero"
"""Name of the initializer that the activations of an int8 graph share as their zero point."""
NONNEGATIVE_ZERO_POINT = "int8_zero_nonnegative"
"""The same for the activations that a ReLU has cleared."""

_PRODUCT = (
    b'\x08\x08:\\\n\x18\n\x01x\n\x01w\x12\x01y"\rMatMulInteger\x12\x01gZ\x13\n\x01x\x12\x0e\n\x0c\x08\x02'
    b"\x12\x08\n\x02\x08\x04\n\x02\x08\x10Z\x13\n\x01w\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08\x10\n\x02\x08\x10b\x13"
    b"\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x04\n\x02\x08\x10B\x04\n\x00\x10\x11"
)
"""A serialised graph: y int32 (4, 16) = MatMulInteger(x uint8 (4, 16), w int8 (16, 16)); opset 17, IR 8."""

_X86 = ("x86_64", "amd64", "i386", "i686")
_INT8, _UINT8 = 3, 2  # onnx.TensorProto.DataType
_LOWEST_INT8 = 256 - 128  # -128 as a byte

_logger = logging.getLogger(__name__)


def bytes_for_cpu(onnx: bytes, *, machine: str | None = None) -> bytes:
    """Return an int8 graph in the form that ONNX Runtime computes fastest; any other graph as it is.

    A warning says so where the graph names one of the scalars and it is not found once.

    The scalars are found by their serialised form: data type, name and the one byte of the value, as
    protobuf writes them (onnx.proto, TensorProto: fields 2, 8 and 9).

    Args:
        onnx: a serialised graph.
        machine: the processor, as ``platform.machine`` names it; this one's if None.
    """
    if (machine or platform.machine()).lower() in _X86:
        onnx = _with_zero_point(onnx, ZERO_POINT, _UINT8, 128)
        return _with_zero_point(onnx, NONNEGATIVE_ZERO_POINT, _UINT8, 0)
    return _with_zero_point(onnx, NONNEGATIVE_ZERO_POINT, _INT8, _LOWEST_INT8)


def prepare_for_cpu(onnx: bytes, session_options: Any) -> bytes:
    """Return what :func:`bytes_for_cpu` does, and set the options so that its int8 products are right.

    x86 processors without VNNI add two products of uint8 and int8 in 16 bits, which overflow: on one
    with AVX2 a fifth of the first layer of `hourglass_tiny` was wrong.

    Args:
        onnx: a serialised graph.
        session_options: of the onnxruntime session that will run it.
    """
    is_int8 = any(_text(name) in onnx for name in (ZERO_POINT, NONNEGATIVE_ZERO_POINT))
    if is_int8 and do_products_overflow():
        session_options.add_session_config_entry(*_EXACT_PRODUCTS)
    return bytes_for_cpu(onnx)


@functools.cache
def do_products_overflow() -> bool:
    """Return whether ONNX Runtime's products of uint8 and int8 are wrong on this processor.

    They are tried, which takes milliseconds: what it does depends on its release and on more than
    one flag of the processor, and no function of its own tells.
    """
    onnxruntime = import_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(_PRODUCT, options, providers=["CPUExecutionProvider"])
    x, w = np.full((4, 16), 255, np.uint8), np.full((16, 16), 127, np.int8)
    (y,) = session.run(None, {"x": x, "w": w})
    return bool((y != 16 * 255 * 127).any())


def _with_zero_point(onnx: bytes, name: str, data_type: int, value: int) -> bytes:
    before = _scalar(name, _INT8, 0)
    num_found, num_names = onnx.count(before), onnx.count(_text(name))
    if num_found == 1:
        return onnx.replace(before, _scalar(name, data_type, value))
    if num_names:
        _logger.warning(
            "found %d scalars %s of int8 and value 0 among %d mentions of the name, expected 1: "
            "int8 will be slow. Export the model again; other tools write the graph in another way.",
            num_found,
            name,
            num_names,
        )
    return onnx


def _scalar(name: str, data_type: int, value: int) -> bytes:
    return bytes((0x10, data_type, 0x42)) + _text(name) + bytes((0x4A, 1, value))


def _text(name: str) -> bytes:
    return bytes((len(name),)) + name.encode()
