"""Turns taps back into inner values."""

from __future__ import annotations

from collections.abc import Collection

import onnx


def drop_outputs(model: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` whose graph has only the outputs ``keep``; no node changes."""
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    outputs = [output for output in model.graph.output if output.name in keep]
    taps = [output for output in model.graph.output if output.name not in keep]
    del slim.graph.output[:]
    slim.graph.output.extend(outputs)
    slim.graph.value_info.extend(taps)
    return slim
