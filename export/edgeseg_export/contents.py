"""Checks that an exported graph holds nothing that the runtime refuses."""

from __future__ import annotations

from edgeseg_export.trace import ExportError
from edgeseg_runtime.errors import BundleError
from edgeseg_runtime.onnx.check import check_graph

__all__ = ["check_exported"]


def check_exported(onnx: bytes, name: str) -> None:
    """Check an encoded graph as every runtime will before it loads it.

    Args:
        onnx: the graph; what it shares with others may be missing.
        name: of the graph, for the messages.

    Raises:
        ExportError: naming the node and its operator, if a runtime would refuse it.
    """
    try:
        check_graph(onnx, shares_weights=True)
    except BundleError as error:
        reason = error.__cause__ or error
        raise ExportError(
            f"the graph {name!r} holds what a bundle may not hold: {reason}. Write that part of the model in "
            "operators that are deterministic and have fixed shapes; "
            "edgeseg_runtime/onnx/operators.py lists them."
        ) from error
