"""Walks through a model's nodes as an engine would, with shapes instead of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeseg_runtime.onnx.loops import Scope, check_end
from edgeseg_runtime.onnx.model import Function, Graph, Key, Model, Node, ValueInfo
from edgeseg_runtime.onnx.operators import OPERATORS
from edgeseg_runtime.onnx.rules.evaluate import evaluate
from edgeseg_runtime.onnx.rules.layout import value_of
from edgeseg_runtime.onnx.rules.values import BOOL, INT64, MAX_RANK, Value

__all__ = ["described", "values_of"]

MIN_ELEMENTS, MAX_ELEMENTS, MAX_GROWTH = 2**25, 2**28, 64
"""A value may have `MAX_GROWTH` times as many elements as the graph's inputs and weights together,
but at least and at most so many; large models have values of 20 times their picture."""
MAX_LIVE = 8
"""Times as much may be needed at one time, and by constants that an engine computes when it loads."""

MAX_EVALUATED = 2**20
"""Elements of sizes and the like that are computed here, all together; a model has some thousands."""
MAX_LOOPS = 256
"""An adaptive RoI-Align has 8, one suppression 4 at most."""


def values_of(model: Model, free: tuple[int, int] = (1, 1)) -> Mapping[str, Value]:
    """Return the values of a model's graph, all of known and bounded size.

    Of what nodes give whose operators are not in the table nothing is known.

    Args:
        model: its graph and functions.
        free: size that a free first and second axis of the inputs is given.

    Raises:
        ValueError: naming the node, if it has inputs that do not fit its operator, or gives too much.
    """
    graph = model.graph
    values = {info.name: Value(info.dtype, _sizes(info, free)) for info in graph.inputs}
    given = sum(value.num_elements for value in values.values())
    given += sum(tensor.num_elements for tensor in graph.initializers)
    limit = min(max(MIN_ELEMENTS, MAX_GROWTH * given), MAX_ELEMENTS)
    walk = _Walk(model.functions, limit)
    for info in graph.inputs:
        walk.check_size(values[info.name], f"the input {info.name!r}")
    body = _Body(walk, values, {})
    body.run(graph)
    body.check_borders(graph)
    return body.values


def described(node: Node) -> str:
    """Return how a message calls a node."""
    operator = f"{node.domain}::{node.operator}" if node.domain else node.operator
    return f"the node {node.name or next(iter(node.outputs), '')!r} ({operator})"


@dataclass
class _Walk:
    """What all bodies of a model share.

    Attributes:
        functions: by domain, name and overload.
        limit: of the elements of a value.
        num_folded: elements of constants that an engine computes when it loads the model.
        num_loops: Loops met so far.
        num_evaluated: elements of values that were computed here.
    """

    functions: Mapping[Key, Function]
    limit: int
    num_folded: int = 0
    num_loops: int = 0
    num_evaluated: int = 0

    def check_size(self, value: Value, what: str) -> None:
        if value.shape is None:
            return
        if len(value.shape) > MAX_RANK:
            raise ValueError(f"{what} has {len(value.shape)} axes, at most {MAX_RANK}")
        if value.num_elements > self.limit:
            raise ValueError(
                f"{what} has the shape {list(value.shape)}: {value.num_elements} elements, where "
                f"{self.limit} are the most for the sizes of this model"
            )
        if value.num_elements == 0 and value.data is None and not value.is_constant:
            raise ValueError(f"{what} has the shape {list(value.shape)}, without any element")


@dataclass
class _Body:
    """The nodes of a graph, of a function, or of a step.

    Attributes:
        walk: what is shared.
        values: all that its nodes can see; they add theirs.
        makers: the node that makes a value.
        num_most: the largest number of elements alive at one time.
    """

    walk: _Walk
    values: dict[str, Value]
    makers: dict[str, Node]
    num_most: int = field(default=0)

    def run(self, graph: Graph | Function) -> None:
        for tensor in graph.initializers if isinstance(graph, Graph) else ():
            self._add(tensor.name, value_of(tensor))
        outputs = [_name(item) for item in graph.outputs]
        uses = Counter(name for node in graph.nodes for name in _names_read(node))
        uses.update(outputs)
        num_live = 0
        for node in graph.nodes:
            made, num_inside = self._infer(node)
            for name, value in zip(node.outputs, made, strict=False):
                if name:
                    self._add(name, value)
                    self.makers[name] = node
            num_live += sum(self._weight(name, node) for name in node.outputs)
            self._note(num_live + num_inside, node)
            num_live -= sum(self._weight(name, node) for name in node.outputs if not uses[name])
            for name in _names_read(node):
                uses[name] -= 1
                if not uses[name] and name in self.makers:
                    num_live -= self._weight(name, self.makers[name])
        self._check_known(outputs)
        self._check_infos(graph.values)

    def check_borders(self, graph: Graph) -> None:
        """Check that the outputs are what the graph says of them."""
        self._check_infos(graph.outputs)

    def _infer(self, node: Node) -> tuple[Sequence[Value], int]:
        """Return the outputs, and how many elements are alive within the node."""
        self._check_known(name for name in node.inputs if name)
        function = self.walk.functions.get((node.domain, node.operator, node.overload))
        if function is not None:
            return self._call(node, function)
        if not node.domain and node.operator == "Loop":
            return self._loop(node)
        inputs = [self.values[name] if name else None for name in node.inputs]
        present = [value for value in inputs if value is not None]
        operator = OPERATORS.get(node.operator) if not node.domain else None
        if operator is None or any(value.shape is None for value in present):
            return [Value(None, None) for _ in node.outputs], 0
        try:
            made = operator.infer(node, inputs)
            if len(made) < len(node.outputs):
                raise ValueError(f"has {len(node.outputs)} outputs instead of {len(made)}")
            if self.walk.num_evaluated < MAX_EVALUATED:
                made = evaluate(node, inputs, made)
                self.walk.num_evaluated += sum(v.num_elements for v in made if v.data is not None)
        except ValueError as error:
            raise ValueError(f"{described(node)} {error}") from error
        except (
            LookupError,
            TypeError,
            ArithmeticError,
        ) as error:  # fewer axes than a rule looks at
            raise ValueError(f"{described(node)} does not fit its inputs ({error})") from error
        is_constant = all(value.is_constant for value in present)
        made = [Value(value.dtype, value.shape, value.data, is_constant) for value in made]
        for value in made:
            self.walk.check_size(value, f"what {described(node)} gives")
            if is_constant and present:
                self._fold(node, value)
        return made, 0

    def _call(self, node: Node, function: Function) -> tuple[Sequence[Value], int]:
        names = dict.fromkeys((*function.inputs, *function.outputs))
        if (
            len(node.inputs) > len(function.inputs)
            or len(node.outputs) > len(function.outputs)
            or len(names) < len(function.inputs) + len(function.outputs)
        ):
            raise ValueError(f"{described(node)} does not fit its function")
        given = zip(function.inputs, node.inputs, strict=False)
        body = _Body(self.walk, {inner: self.values[outer] for inner, outer in given if outer}, {})
        body.run(function)
        return [body.values[name] for name in function.outputs], body.num_most

    def _loop(self, node: Node) -> tuple[Sequence[Value], int]:
        graph = node.attribute("body")
        states = node.inputs[2:]
        if (
            len(graph.inputs) != len(states) + 2
            or len(graph.outputs) != len(states) + 1
            or len(node.outputs) != len(states)
            or not all(states)
        ):
            raise ValueError(f"{described(node)} has other values than a condition and states")
        if not any(node.inputs[:2]):
            raise ValueError(f"{described(node)} runs without end")
        for name, dtype in zip(node.inputs[:2], (INT64, BOOL), strict=True):
            value = self.values.get(name, Value(None, None))
            if value.shape is not None and (value.num_elements, value.dtype) != (1, dtype):
                raise ValueError(f"{described(node)} has a count or condition that is not a scalar")
        self.walk.num_loops += 1
        if self.walk.num_loops > MAX_LOOPS:
            raise ValueError(f"more than {MAX_LOOPS} loops")
        body = _Body(self.walk, dict(self.values), dict(self.makers))
        given = [
            Value(INT64, ()),
            Value(BOOL, ()),
            *(Value(self.values[name].dtype, self.values[name].shape) for name in states),
        ]
        for info, value in zip(graph.inputs, given, strict=True):
            body._add(info.name, value)
        body._check_infos(graph.inputs)
        body.run(graph)
        body.check_borders(graph)
        made = [body.values[info.name] for info in graph.outputs]
        try:
            check_end(node, graph, Scope(body.values, body.makers), self.values)
        except ValueError as error:
            raise ValueError(f"{described(node)} {error}") from error
        for before, after in zip(given[1:], made, strict=True):
            is_other = before.dtype is not None and after.dtype not in {None, before.dtype}
            if is_other or not _fits(before.shape, after.shape):
                raise ValueError(f"{described(node)} changes the shape or type of a state")
        return given[2:], body.num_most

    def _add(self, name: str, value: Value) -> None:
        if name in self.values or not name:
            raise ValueError(f"the value {name!r} is made twice, or has no name")
        self.values[name] = value

    def _fold(self, node: Node, value: Value) -> None:
        self.walk.num_folded += value.num_elements
        if self.walk.num_folded > MAX_LIVE * self.walk.limit:
            raise ValueError(f"{described(node)} is one constant too much: they fill the memory")

    def _note(self, num_live: int, node: Node) -> None:
        self.num_most = max(self.num_most, num_live)
        if num_live > MAX_LIVE * self.walk.limit:
            raise ValueError(
                f"{described(node)} needs {num_live} elements at one time, where "
                f"{MAX_LIVE * self.walk.limit} are the most for the sizes of this model"
            )

    def _weight(self, name: str, node: Node) -> int:
        value = self.values.get(name) if name else None
        return 0 if value is None or value.is_constant else value.num_elements

    def _check_known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.values:
                raise ValueError(f"the value {name!r} is used before it is made")

    def _check_infos(self, infos: Collection[ValueInfo]) -> None:
        """Compare what a model says of its values; engines plan memory by it."""
        for info in infos:
            value = self.values.get(info.name)
            if value is None:
                continue
            if value.dtype not in {None, info.dtype} or not _fits(info.shape, value.shape):
                raise ValueError(
                    f"the value {info.name!r} is said to be of type {info.dtype} and shape "
                    f"{info.shape}, and is of type {value.dtype} and shape {value.shape}"
                )


def _sizes(info: ValueInfo, free: tuple[int, int]) -> tuple[int, ...]:
    """Return the sizes of an input, with those that are free filled in."""
    if info.shape is None:
        raise ValueError(f"the input {info.name!r} has no shape")
    for axis, size in enumerate(info.shape):
        if size == 0 or (size is None and axis > 1):
            raise ValueError(
                f"the input {info.name!r} has the shape {list(info.shape)}; only the first two "
                "axes may be free, and none empty"
            )
    return tuple(free[axis] if size is None else size for axis, size in enumerate(info.shape))


def _fits(said: tuple[int | None, ...] | None, found: tuple[int, ...] | None) -> bool:
    if said is None or found is None:
        return True
    return len(said) == len(found) and all(a in {None, b} for a, b in zip(said, found, strict=True))


def _name(item: ValueInfo | str) -> str:
    return item if isinstance(item, str) else item.name


def _names_read(node: Node) -> Iterable[str]:
    """Yield what a node reads, in the bodies within it too."""
    yield from filter(None, node.inputs)
    for _, value in node.attributes.values():
        if isinstance(value, Graph):
            for inner in value.nodes:
                yield from _names_read(inner)
