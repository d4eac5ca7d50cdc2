"""Opens graphs in memory with ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from edgeseg_runtime.quantized import EXACT_PRODUCTS, bytes_for_cpu

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def cpu_session(model: onnx.ModelProto) -> InferenceSession:
    """Return a session on the CPU that logs errors only; the graph runs as the runtime would run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT_PRODUCTS)
    content = bytes_for_cpu(model.SerializeToString())
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
