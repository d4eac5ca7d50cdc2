"""Decides which node of a graph computes in which precision, and rewrites the graph accordingly.

fp32    nothing changes
fp16    the modules of the family's recipe in float16; coordinates, decoding and suppression in float32
int8    the recipe's int8 modules in int8, all else in float32
mixed   the recipe's int8 modules in int8, but those that it wants in float16 here and its others in float16
auto    see `search.py`
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import onnx

from edgeseg.models import PrecisionRecipe
from edgeseg_export.onnx_model import Array, OnnxModel
from edgeseg_export.passes.half import half_nodes, nodes_that_fit, to_half, values_in_half
from edgeseg_export.passes.quantize import int8_nodes, quantize, values_to_calibrate

PRECISIONS = ("fp32", "fp16", "int8", "mixed")

Assignment = Mapping[str, str]
"""Node name -> "int8" or "fp16"; nodes that are not in it stay float32."""
Assignments = Mapping[str, Assignment]
"""Of each graph of a model."""


def assign(model: OnnxModel, recipe: PrecisionRecipe, precision: str) -> dict[str, str]:
    """Return the precision of every node that leaves float32.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} found, expected one of {', '.join(PRECISIONS)}")
    chosen = {node.name: _wished(node, recipe, precision) for node in model.graph.node}
    in_int8 = int8_nodes(model, {name for name, wish in chosen.items() if wish == "int8"})
    left = {
        name for name, wish in chosen.items() if wish == "fp16" or (precision == "mixed" and wish)
    }
    in_half = half_nodes(model, left - set(in_int8))
    return {**dict.fromkeys(in_half, "fp16"), **dict.fromkeys(in_int8, "int8")}


def values_needed(model: OnnxModel, assignment: Assignment) -> list[str]:
    """Return the values whose magnitude :func:`convert` must know."""
    in_int8 = values_to_calibrate(model, nodes_in(assignment, "int8"))
    in_half = values_in_half(model, nodes_in(assignment, "fp16"))
    return list(dict.fromkeys((*in_int8, *in_half)))


def values_unclipped(model: OnnxModel, assignment: Assignment) -> set[str]:
    """Return those of :func:`values_needed` whose largest magnitude counts, rare as it may be.

    They overflow float16, unlike int8 values, which are clipped.
    """
    in_half = values_in_half(model, nodes_in(assignment, "fp16"))
    return set(in_half) - set(values_to_calibrate(model, nodes_in(assignment, "int8")))


def convert(
    model: OnnxModel,
    assignment: Assignment,
    magnitudes: Mapping[str, float],
    shifts: Mapping[str, Array] = MappingProxyType({}),
) -> OnnxModel:
    """Return a copy of ``model`` in which the nodes compute as assigned.

    Nodes that read or write more than float16 holds safely stay float32, see `passes.half.LARGEST`.

    Args:
        model: a graph whose edgeseg operators have no bodies yet.
        assignment: from :func:`assign`.
        magnitudes: of all :func:`values_needed`.
        shifts: int8 node -> what is added to its bias, see `bias_correction.py`.
    """
    converted = model.copy()
    in_int8 = nodes_in(assignment, "int8")
    if in_int8:
        quantize(converted, in_int8, magnitudes, shifts)
    in_half = nodes_that_fit(model, nodes_in(assignment, "fp16"), magnitudes)
    return to_half(converted, half_nodes(converted, in_half)) if in_half else converted


def _wished(node: onnx.NodeProto, recipe: PrecisionRecipe, precision: str) -> str | None:
    """Return what the recipe says of a node's module: "int8", "fp16" or None for float32."""
    module, slash, _ = node.name.partition("/")
    if not slash:
        module = node.op_type  # of no module: edgeseg's operators
    kinds = {"int8": recipe.int8, "half": recipe.half, "float32": recipe.float32}
    fitting = [
        (name.startswith("."), len(name), kind)
        for kind, names in kinds.items()
        for name in names
        if _is_part(module, name)
    ]
    kind = max(fitting)[-1] if fitting else "float32"
    if kind == "int8" and any(_is_part(module, name) for name in recipe.half_in_mixed):
        kind = "half_in_mixed"
    return _WISHES[precision].get(kind)


_WISHES: dict[str, dict[str, str]] = {
    "fp32": {},
    "fp16": {"int8": "fp16", "half_in_mixed": "fp16", "half": "fp16"},
    "int8": {"int8": "int8", "half_in_mixed": "int8"},
    "mixed": {"int8": "int8", "half_in_mixed": "fp16", "half": "fp16"},
}
"""Precision of the export -> kind of module in the recipe -> precision of its nodes."""


def _is_part(module: str, name: str) -> bool:
    """Tell whether a recipe's name stands for a module: see `PrecisionRecipe`."""
    return f".{module}.".startswith(f".{name}.") or (name[0] == "." and f"{name}." in f"{module}.")


def nodes_in(assignment: Assignment, precision: str) -> Collection[str]:
    """Return the nodes that are assigned a precision."""
    return [name for name, chosen in assignment.items() if chosen == precision]
