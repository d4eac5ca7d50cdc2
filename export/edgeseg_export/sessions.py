"""Opens graphs in memory with ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from edgeseg_runtime.quantized import prepare_for_cpu

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def cpu_session(model: onnx.ModelProto) -> InferenceSession:
    """Return a session on the CPU that logs errors only; the graph runs as the runtime would run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = prepare_for_cpu(model.SerializeToString(), options)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
