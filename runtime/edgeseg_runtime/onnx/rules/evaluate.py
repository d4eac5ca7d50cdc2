"""Numbers of small values from which shapes are computed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseg_runtime.onnx.model import DTYPES, Node
from edgeseg_runtime.onnx.rules.values import MAX_EVALUATED, Inputs, Outputs, Value


def evaluate(node: Node, x: Inputs, outputs: Outputs) -> Outputs:
    """Return the outputs with their numbers where these are few and follow from known ones."""
    compute = _EVALUATED.get(node.operator)
    is_known = all(value is None or value.data is not None for value in x)
    if compute is None or not x or not is_known or outputs[0].num_elements > MAX_EVALUATED:
        return outputs
    if any(value is not None and value.num_elements > MAX_EVALUATED for value in x):
        return outputs
    arrays = [None if value is None else value.data for value in x]
    try:
        with np.errstate(all="ignore"):
            data = np.asarray(compute(node, arrays, outputs[0]))
    except (ArithmeticError, TypeError, ValueError):
        return outputs
    name = DTYPES.get(outputs[0].dtype or 0, "bfloat16")
    if data.shape != outputs[0].shape or name == "bfloat16":
        return outputs
    first = Value(outputs[0].dtype, outputs[0].shape, data.astype(name))
    return [first, *outputs[1:]]


def _reduced_data(function: Any) -> Any:
    def compute(node: Node, x: list[Any], out: Value) -> Any:
        axes = node.attribute("axes") or (
            x[1].tolist() if len(x) > 1 and x[1] is not None else None
        )
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return x[0]
        result = function(x[0], axis=tuple(axes) if axes else None)
        return result.reshape(out.shape)

    return compute


def _sliced(node: Node, x: list[Any], out: Value) -> Any:
    axes = x[3] if len(x) > 3 and x[3] is not None else range(len(x[1]))
    steps = x[4] if len(x) > 4 and x[4] is not None else [1] * len(x[1])
    index = [slice(None)] * x[0].ndim
    for start, end, axis, step in zip(x[1], x[2], axes, steps, strict=True):
        size = x[0].shape[axis]
        index[axis] = slice(int(start), None if step < 0 and end < -size else int(end), int(step))
    return x[0][tuple(index)]


def _divided(node: Node, x: list[Any], out: Value) -> Any:
    if x[0].dtype.kind == "f":
        return x[0] / x[1]
    return np.trunc(x[0] / x[1])  # toward zero, as the engines do; exact below 2^53


def _modulo(node: Node, x: list[Any], out: Value) -> Any:
    return np.fmod(x[0], x[1]) if node.attribute("fmod", 0) else np.mod(x[0], x[1])


def _ufunc(function: Any) -> Any:
    return lambda node, x, out: function(*x)


def _folded(function: Any) -> Any:
    return lambda node, x, out: list(itertools.accumulate(x, function))[-1]


def _reshaped(node: Node, x: list[Any], out: Value) -> Any:
    return x[0].reshape(out.shape)


_EVALUATED: dict[str, Callable[[Node, list[Any], Value], Any]] = {
    "Abs": _ufunc(np.abs),
    "Add": _ufunc(np.add),
    "And": _ufunc(np.logical_and),
    "Cast": lambda node, x, out: x[0],
    "Ceil": _ufunc(np.ceil),
    "Concat": lambda node, x, out: np.concatenate(x, node.attribute("axis")),
    "ConstantOfShape": lambda node, x, out: np.full(
        out.shape or (),
        0 if node.attribute("value") is None else node.attribute("value").array().item(),
    ),
    "Div": _divided,
    "Equal": _ufunc(np.equal),
    "Expand": lambda node, x, out: np.broadcast_to(x[0], out.shape or ()),
    "Flatten": _reshaped,
    "Floor": _ufunc(np.floor),
    "Gather": lambda node, x, out: np.take(x[0], x[1], axis=node.attribute("axis", 0)),
    "Greater": _ufunc(np.greater),
    "GreaterOrEqual": _ufunc(np.greater_equal),
    "Identity": lambda node, x, out: x[0],
    "Less": _ufunc(np.less),
    "LessOrEqual": _ufunc(np.less_equal),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mod": _modulo,
    "Mul": _ufunc(np.multiply),
    "Neg": _ufunc(np.negative),
    "Not": _ufunc(np.logical_not),
    "Or": _ufunc(np.logical_or),
    "Range": lambda node, x, out: x[0] + np.arange(out.num_elements) * x[2],
    "ReduceMax": _reduced_data(np.max),
    "ReduceMin": _reduced_data(np.min),
    "ReduceProd": _reduced_data(np.prod),
    "ReduceSum": _reduced_data(np.sum),
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Sqrt": _ufunc(np.sqrt),
    "Squeeze": _reshaped,
    "Sub": _ufunc(np.subtract),
    "Tile": lambda node, x, out: np.tile(x[0], x[1]),
    "Transpose": lambda node, x, out: np.transpose(x[0], node.attribute("perm")),
    "Unsqueeze": _reshaped,
    "Where": _ufunc(np.where),
}
"""Operators from which shapes are computed."""
