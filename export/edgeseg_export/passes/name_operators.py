"""Names every node after the module that it computes, so that readers and recipes find it."""

from __future__ import annotations

import ast
from collections import Counter

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
ROOT = "model."
"""What the traced wrapper calls the reference model."""
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


def name_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with nodes called "<module>/<operator>", such as "backbone.stem.conv/Conv".

    Later nodes of the same name carry a number. Must run before the exporter's notes are stripped.
    """
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        module = _module_of(node)
        name = f"{module}/{node.op_type}" if module else node.op_type
        node.name = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
    return model


def _module_of(node: onnx.NodeProto) -> str:
    """Return the name of the innermost module that a node belongs to, or nothing.

    Weights tell it best: a normalisation that was folded into a convolution has left its own name.
    """
    if node.op_type in WEIGHTED and len(node.input) > 1:
        module, dot, parameter = node.input[1].removeprefix(ROOT).rpartition(".")
        if dot and parameter == "weight":
            return module
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(notes.get(SCOPES, "[]"))
    modules = [scope for scope in scopes[:-1] if scope.startswith(ROOT)]
    return modules[-1].removeprefix(ROOT) if modules else ""
