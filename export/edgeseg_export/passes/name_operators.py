"""Names every node after the module that it computes, so that readers and recipes find it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping

import onnx

from edgeseg_export.onnx_model import OnnxModel

SCOPES = "pkg.torch.onnx.name_scopes"
ROOT = "model."
"""What the traced wrapper calls the reference model."""
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def name_operators(model: OnnxModel) -> OnnxModel:
    """Return the model with nodes called "<module>/<operator>", such as "backbone.stem.conv/Conv".

    Later nodes of the same name carry a number. Must run before the exporter's notes are stripped.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        module = _module_of(node, makers)
        name = f"{module}/{node.op_type}" if module else node.op_type
        node.name = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
    return model


def _module_of(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the name of the innermost module that a node belongs to, or nothing.

    Weights tell it best: a normalisation that was folded into a convolution has left its own name,
    and a weight that was cut into parts has none.
    """
    if node.op_type in WEIGHTED and len(node.input) > 1:
        name = node.input[1]
        while name in makers and makers[name].input:
            name = makers[name].input[0]
        module, dot, parameter = name.removeprefix(ROOT).rpartition(".")
        if dot and parameter == "weight":
            return module
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(notes.get(SCOPES, "[]"))
    modules = [scope for scope in scopes[:-1] if scope.startswith(ROOT)]
    return modules[-1].removeprefix(ROOT) if modules else ""
