"""Refuses ONNX models with anything that no bundle may hold, before an engine sees them.

The model is read in its encoded form (`onnx.model`), its operators are compared with a table
(`onnx.operators`), and its nodes are walked through with shapes instead of numbers (`onnx.infer`).
So a model that comes from elsewhere reads no other file, ends, gives the same result every time, and
fills the memory no more than a model of its size may. Weights are skipped, not copied: the time does
not depend on their size. Why: docs/decisions/0011-what-a-bundle-may-contain.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from edgeseg_runtime.errors import CorruptArtifact, EngineBuildError, UnsafeModel
from edgeseg_runtime.onnx.infer import described, values_of
from edgeseg_runtime.onnx.model import (
    ExternalData,
    Function,
    Graph,
    Key,
    Model,
    Node,
    Tensor,
    read_model,
)
from edgeseg_runtime.onnx.operators import ANY, ATTRIBUTES, MAX_OPSET, MIN_OPSET, OPERATORS

__all__ = ["MAX_DEPTH", "MAX_NODES", "check_encoding", "check_graph"]

MIN_IR_VERSION, MAX_IR_VERSION = 7, 14
MAX_NODES = 50_000
"""When all functions are written out; the largest of edgeseg's models have a tenth."""
MAX_DEPTH = 16
"""Calls within calls, and graphs within graphs."""
MAX_BORDERS = 256
"""Inputs, and outputs, of a graph."""
MAX_COPIED = 2**28
"""Bytes of constants that functions may add when they are written out."""

_OWN_DOMAIN = "edgeseg"
_GRAPH_ATTRIBUTE = 5


def check_graph(
    onnx: bytes,
    *,
    file: str = "model.onnx",
    allow_operators: Collection[str] = (),
    shares_weights: bool = False,
) -> None:
    """Check that a model holds nothing but what a bundle may hold.

    Args:
        onnx: the encoded model.
        file: its name, for the messages.
        allow_operators: further operators that the caller vouches for: "NonZero" for a standard one,
            "my.domain::Name" for others. What they give is not followed any further.
        shares_weights: initializers may be empty, as in a file whose weights lie beside it; no engine
            may see such a model.

    Raises:
        UnsafeModel: if it does; the message names the node and its operator.
        CorruptArtifact: if the bytes are not an encoded model.
        EngineBuildError: if the model is newer than this runtime.
    """
    model = check_encoding(onnx, file=file, shares_weights=shares_weights)
    _check_is_known(model, file)
    try:
        _check_versions(model)
        _check_operators(model, frozenset(allow_operators))
        _check_size(model)
        values_of(model)
    except ValueError as error:
        raise UnsafeModel(
            f"{file} holds what a bundle may not hold: {error}. Expected a graph of standard "
            "operators with fixed shapes, as edgeseg exports it. Export it again, and do not load "
            "this bundle unless you trust its origin. Operators of your own: "
            "load(..., allow_operators=[...])."
        ) from error


def check_encoding(onnx: bytes, *, file: str = "model.onnx", shares_weights: bool = False) -> Model:
    """Return a model that lies in one file and that every engine reads alike, whatever it computes.

    Raises:
        UnsafeModel: if a tensor's data lies in another file.
        CorruptArtifact: if the bytes are not an encoded model.
    """
    if onnx[4:8] == b"ORTM":  # ONNX Runtime's own format, which this check cannot read
        raise CorruptArtifact(file, "an ONNX model", "a model in ONNX Runtime's ORT format")
    try:
        return read_model(onnx, shares_weights=shares_weights)
    except ExternalData as error:
        raise UnsafeModel(
            f"{file} keeps weights in other files, which is not allowed in a bundle: expected one "
            "file with everything inside. Export it again with edgeseg, and do not load this "
            "bundle unless you trust its origin."
        ) from error
    except ValueError as error:
        raise CorruptArtifact(file, "an ONNX model", f"something else ({error})") from error


def _check_is_known(model: Model, file: str) -> None:
    opset = model.opsets.get("", 0)
    if opset > MAX_OPSET or model.ir_version > MAX_IR_VERSION:
        raise EngineBuildError(
            f"this edgeseg-runtime cannot run {file}: found opset {opset} and IR version "
            f"{model.ir_version}, expected at most {MAX_OPSET} and {MAX_IR_VERSION}. Upgrade it "
            "(pip install -U edgeseg-runtime), or export the model again."
        )


def _check_versions(model: Model) -> None:
    opset = model.opsets.get("")
    if model.ir_version < MIN_IR_VERSION or opset is None or opset < MIN_OPSET:
        raise ValueError(
            f"IR version {model.ir_version} and opset {opset}, expected at least {MIN_IR_VERSION} "
            f"and {MIN_OPSET}"
        )
    for function in model.functions.values():
        # The body is written out in a graph of the model's opset: it must mean the same there.
        if function.opsets.get("", opset) != opset:
            raise ValueError(
                f"the function {_name(function)!r} of opset {function.opsets['']}, expected {opset}"
            )


def _check_operators(model: Model, allowed: frozenset[str]) -> None:
    for function in model.functions.values():
        domain, name, _ = function.key
        if domain != _OWN_DOMAIN and f"{domain}::{name}" not in allowed:
            raise ValueError(
                f"the function {_name(function)!r}, expected only those of the domain {_OWN_DOMAIN!r}"
            )
    borders = {"inputs": model.graph.inputs, "outputs": model.graph.outputs}
    for what, values in borders.items():
        if not 1 <= len(values) <= MAX_BORDERS:
            raise ValueError(f"{len(values)} {what}, expected 1 to {MAX_BORDERS}")
        if len({value.name for value in values}) < len(values):
            raise ValueError(f"two {what} of one name")
    bodies: list[Graph | Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        for node, depth in _nodes(body):
            if depth > MAX_DEPTH:
                raise ValueError(f"graphs within graphs, more than {MAX_DEPTH} levels")
            _check_node(node, model.functions, allowed)


def _nodes(body: Graph | Function) -> Iterator[tuple[Node, int]]:
    """Yield all nodes of a body and of the graphs in it, with their depth."""
    pending: list[tuple[Graph | Function, int]] = [(body, 0)]
    while pending:
        graph, depth = pending.pop()
        for node in graph.nodes:
            yield node, depth
            for _, value in node.attributes.values():
                if isinstance(value, Graph):
                    pending.append((value, depth + 1))


def _check_node(node: Node, functions: Mapping[Key, Function], allowed: frozenset[str]) -> None:
    full_name = f"{node.domain}::{node.operator}" if node.domain else node.operator
    if (node.domain, node.operator, node.overload) in functions:
        if any(isinstance(value, Graph) for _, value in node.attributes.values()):
            raise ValueError(f"{described(node)} with a graph as an attribute")
        return
    if full_name in allowed:
        return
    if not node.domain and node.operator == "Loop":
        if {key: kind for key, (kind, _) in node.attributes.items()} != {"body": _GRAPH_ATTRIBUTE}:
            raise ValueError(f"{described(node)} without a body")
        if len(node.inputs) < 2:
            raise ValueError(f"{described(node)} with {len(node.inputs)} inputs")
        return
    operator = OPERATORS.get(node.operator) if not node.domain else None
    if operator is None:
        raise ValueError(f"{described(node)}, an operator that is not among those of a bundle")
    num_inputs = len(node.inputs)
    num_needed = num_inputs if operator.max_inputs == ANY else operator.min_inputs
    has_all = num_inputs >= operator.min_inputs and all(node.inputs[:num_needed])
    # An empty name behind the last input crashes kernels that count their inputs (LayerNormalization).
    is_open = num_inputs > 0 and not node.inputs[-1]
    if not has_all or is_open or num_inputs > operator.max_inputs:
        raise ValueError(f"{described(node)} with {len(node.inputs)} inputs")
    if not 1 <= len(node.outputs) <= operator.max_outputs or not node.outputs[0]:
        raise ValueError(f"{described(node)} with {len(node.outputs)} outputs")
    for key, (kind, _) in node.attributes.items():
        if key not in operator.attributes or kind != ATTRIBUTES[key]:
            raise ValueError(f"{described(node)} with the attribute {key!r} of type {kind}")


def _check_size(model: Model) -> None:
    """Bound what is there when all functions are written out: nodes, and copies of constants."""
    whole = _written_out(model.graph, model.functions, {}, 0)
    if whole.num_nodes > MAX_NODES:
        raise ValueError(
            f"{whole.num_nodes} nodes when its functions are written out, at most {MAX_NODES}"
        )
    if whole.num_copied > MAX_COPIED:
        raise ValueError(f"{whole.num_copied} bytes of constants in calls, at most {MAX_COPIED}")


class _Extent(NamedTuple):
    """How much a body is when the functions that it calls are written out.

    Attributes:
        num_nodes: of all levels.
        num_own: bytes of constants in the body itself.
        num_copied: bytes of those in its calls.
        num_levels: calls within calls.
    """

    num_nodes: int
    num_own: int
    num_copied: int
    num_levels: int


def _written_out(
    body: Graph | Function,
    functions: Mapping[Key, Function],
    found: dict[Key, _Extent],
    depth: int,
) -> _Extent:
    """Return the extent of a body; that of each function is found once."""
    num_nodes = num_own = num_copied = num_levels = 0
    for node, _ in _nodes(body):
        num_nodes += 1
        for _, value in node.attributes.values():
            tensors = value.initializers if isinstance(value, Graph) else (value,)
            num_own += sum(t.elements.nbytes for t in tensors if isinstance(t, Tensor))
        key = (node.domain, node.operator, node.overload)
        if key not in functions:
            continue
        if key not in found:
            if depth >= MAX_DEPTH:  # a circle, too
                raise ValueError(f"more than {MAX_DEPTH} levels of calls")
            found[key] = _written_out(functions[key], functions, found, depth + 1)
        num_nodes += found[key].num_nodes
        num_copied += found[key].num_own + found[key].num_copied
        num_levels = max(num_levels, found[key].num_levels + 1)
    if num_levels > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels of calls")
    return _Extent(num_nodes, num_own, num_copied, num_levels)


def _name(function: Function) -> str:
    return "::".join(function.key[:2])
