"""Passes over an ONNX graph: functions from a model to a model, and the runner that applies them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import onnx

from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.trace import ExportError

Pass = Callable[[OnnxModel], OnnxModel]


def without_weights(step: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Pass:
    """Return a pass from a function that looks at no large weights."""

    @functools.wraps(step)
    def changed(model: OnnxModel) -> OnnxModel:
        return OnnxModel(step(model.proto), model.weights)

    return changed


def apply(model: OnnxModel, passes: Sequence[Pass]) -> OnnxModel:
    """Return ``model`` after all ``passes``, in their order.

    Raises:
        ExportError: a pass failed; the message names it and those that ran before it.
    """
    done: list[str] = []
    for step in passes:
        name = getattr(step, "__name__", type(step).__name__)
        try:
            model = step(model)
        except Exception as error:
            before = ", ".join(done) or "none"
            raise ExportError(
                f"pass {name} failed ({error}); passes before it: {before}"
            ) from error
        done.append(name)
    return model
