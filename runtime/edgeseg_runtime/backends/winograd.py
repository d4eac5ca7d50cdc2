"""What the engines of the CPU have in common about convolutions in Winograd's form."""

from __future__ import annotations

from edgeseg_runtime.bundle.graphs import Graph
from edgeseg_runtime.environment import usable_cores
from edgeseg_runtime.onnx.winograd import rewrite
from edgeseg_runtime.onnx.winograd_gains import choice_for

__all__ = ["WINOGRAD_CHOICES", "check_winograd", "with_winograd"]

WINOGRAD_CHOICES = ("auto", "off")


def check_winograd(winograd: str) -> None:
    """Refuse what is no choice.

    Raises:
        ValueError: with the choices.
    """
    if winograd not in WINOGRAD_CHOICES:
        raise ValueError(f"winograd is {winograd!r}; expected one of {', '.join(WINOGRAD_CHOICES)}")


def with_winograd(
    onnx: bytes, graph: Graph, engine: str, threads: int | None, *, shares_weights: bool = False
) -> tuple[bytes, int]:
    """Return a graph with those convolutions in Winograd's form that gain, and how many these are.

    Args:
        onnx: the graph, as the engine would be given it.
        graph: what the manifest says of it.
        engine: as in `BACKENDS`.
        threads: of the engine; None for one for each core.
        shares_weights: initializers may be empty.
    """
    choose = choice_for(engine, threads or len(usable_cores()))
    rows = (1,) if graph.rows is None else (graph.rows.buckets[0], graph.rows.maximum)
    return rewrite(onnx, choose, rows=rows, shares_weights=shares_weights)
