"""What operators of ONNX give: element types and shapes, and small values from which shapes are computed.

Each rule takes a node and its inputs (None for one that is left out) and returns its outputs. A free
axis counts as 1. A rule raises ValueError where the inputs do not fit the operator, and where a
shape depends on what the graph computes; the message goes on after the node's name.

Semantics: onnx/docs/Operators.md, opsets 13 to 23.
"""
